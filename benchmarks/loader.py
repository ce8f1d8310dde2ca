"""Images per second from disk to an augmented batch: the memory-mapped cache against decoding each image again.

python benchmarks/loader.py --images 2000          # 288x144 from 400x200 JPEGs, as SYSU-MM01's crops are
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image, ImageOps

from measure import print_header
from vireid.data.augment import Augment
from vireid.data.datamodule import ImageBatches
from vireid.data.images import CachedImages
from vireid.records import Records

SIZE, BATCH = (288, 144), 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_images(folder, count):
    """Write smooth random JPEGs and return their table."""
    rng = np.random.default_rng(0)
    for row in range(count):
        small = rng.integers(0, 255, (20, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((200, 400), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=90)
    return Records.build(folder, [f"{i}.jpg" for i in range(count)], [0] * count, [1] * count, [0] * count)


def plain(records, rows):
    """Load and augment image by image, as the published loaders do."""
    rng = np.random.default_rng(0)
    batch = []
    for row in rows:
        image = Image.open(records.absolute(row)).convert("RGB").resize(SIZE[::-1], Image.Resampling.LANCZOS)
        image = ImageOps.expand(image, 10)
        left, top = rng.integers(0, 21, 2)
        image = image.crop((left, top, left + SIZE[1], top + SIZE[0]))
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        batch.append((tensor - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    return torch.stack(batch)


def main(images: int = 2000):
    """Print images/s of both ways and their ratio."""
    print_header()
    with tempfile.TemporaryDirectory() as name:
        os.environ["VIREID_CACHE"] = str(Path(name) / "cache")
        records = write_images(Path(name), images)
        batches = np.random.default_rng(0).integers(0, images, (20, BATCH)).tolist()
        started = time.perf_counter()
        for rows in batches[:5]:
            plain(records, rows)
        slow = 5 * BATCH / (time.perf_counter() - started)
        started = time.perf_counter()
        source = CachedImages(records, SIZE)
        print(f"filling the cache, once          {images / (time.perf_counter() - started):8.0f} images/s")
        dataset, augment = ImageBatches(records, source, records.pid), Augment()
        started = time.perf_counter()
        for step, rows in enumerate(batches):
            augment(dataset.__getitems__(rows), MEAN, STD, torch.Generator().manual_seed(step))
        fast = len(batches) * BATCH / (time.perf_counter() - started)
    print(f"decode, resize, augment, each    {slow:8.0f} images/s")
    print(f"cache, augment the batch         {fast:8.0f} images/s{fast / slow:10.1f}x")


if __name__ == "__main__":
    typer.run(main)
