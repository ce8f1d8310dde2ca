"""What ImageNet alone gives: pooled features of EfficientNet-Lite0's last map."""

import numpy as np
import torch
from numpy.typing import NDArray

from vireid.nn import BackboneOptions, build_backbone


def stripe_features(pixels: NDArray[np.uint8], stripes: int = 1) -> NDArray[np.float32]:
    """Return the mean of each horizontal stripe of the last map, images (N, H, W, 3) -> (N, stripes, 1280)."""
    network = build_backbone(BackboneOptions()).eval().to(memory_format=torch.channels_last)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = [network(chunk.float() / 127.5 - 1) for chunk in images.split(128)]
    return torch.cat([m.unflatten(2, (stripes, -1)).mean((3, 4)).transpose(1, 2) for m in maps]).numpy()
