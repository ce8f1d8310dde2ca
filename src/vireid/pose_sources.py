"""Where keypoints come from: RTMPose, Keypoint R-CNN, or a file that OpenPose or anything of COCO's format has written.

Every source maps an image file to its (18, 3) keypoints in the toolbox's order, x and y in pixels of the stored image
(centres at integers), scores in [0, 1]; NaN where there is nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vireid.data.images import Pixels, decode
from vireid.errors import InputError
from vireid.precision import default_device
from vireid.records import NUM_KEYPOINTS

Keypoints = NDArray[np.float32]
PoseSource = Callable[[Path], Keypoints]
"""Image file -> (18, 3)."""
Estimator = Callable[[Pixels], Keypoints]
"""(H, W, 3) RGB -> (17, 3) in COCO's order and the pixels of that array."""

MIN_HEIGHT = 256
NOBODY: Keypoints = np.full((NUM_KEYPOINTS, 3), np.nan, dtype=np.float32)
COCO_SHOULDERS = [5, 6]
COCO_TO_OPENPOSE = [0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
BODY_25 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
OPENPOSE_LAYOUTS = {3 * NUM_KEYPOINTS: list(range(NUM_KEYPOINTS)), 3 * 25: BODY_25}


def from_coco(points: NDArray[np.floating]) -> Keypoints:
    """Reorder COCO's 17 keypoints (17, 3); the neck is between the shoulders, with the lower score of both."""
    out = points[COCO_TO_OPENPOSE].astype(np.float32)
    shoulders = points[COCO_SHOULDERS]
    out[1] = [*shoulders[:, :2].mean(0), shoulders[:, 2].min()]
    return out


def estimated(estimator: Estimator, stretch: bool = False) -> PoseSource:
    """Make a source of an estimator that takes an image to be one person.

    Args:
        estimator: finds COCO keypoints.
        stretch: spread the grey values between the 1st and the 99th percentile, for dim infrared images.
    """

    def source(path: Path) -> Keypoints:
        pixels, scale = enlarge(decode(path)[0])
        points = from_coco(estimator(_stretched(pixels) if stretch else pixels))
        points[:, :2] = (points[:, :2] + 0.5) / scale - 0.5
        points[:, 2] = points[:, 2].clip(0, 1)
        return points

    return source


def enlarge(pixels: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
    """Bring (H, W, 3) to a height of at least 256; return the factors on x and y too."""
    height, width = pixels.shape[:2]
    if height >= MIN_HEIGHT:
        return pixels, np.ones(2)
    size = (max(1, round(width * MIN_HEIGHT / height)), MIN_HEIGHT)
    larger = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return larger, np.array(size) / (width, height)


def _stretched(pixels: Pixels) -> Pixels:
    low, high = np.percentile(pixels, (1, 99))
    return ((pixels - low) * (255 / max(high - low, 1))).clip(0, 255).astype(np.uint8)


def rtmpose(model: Path) -> Estimator:
    """Return RTMPose (or any SimCC pose network) from an ONNX file, run by rtmlib.

    Raises:
        InputError: when rtmlib or the file is missing, or the file is no model.
    """
    try:
        from rtmlib import RTMPose
    except ImportError as error:
        raise InputError(f"RTMPose needs rtmlib ({error}): pip install rtmlib, or use --openpose DIR") from error
    _require_file(model, "an RTMPose body model exported to ONNX")
    try:
        network = RTMPose(str(model))
    except Exception as error:  # onnxruntime has its own exceptions
        raise InputError(f"{model} is no ONNX model that runs here ({error}): download it again") from error
    height, width = network.session.get_inputs()[0].shape[2:]
    network.model_input_size = (width, height)

    def estimate(pixels: Pixels) -> Keypoints:
        points, scores = network(np.ascontiguousarray(pixels[..., ::-1]))
        return np.concatenate([points[0], scores[0][:, None]], axis=1).astype(np.float32)

    return estimate


def keypoint_rcnn(weights: Path) -> Estimator:
    """Return torchvision's Keypoint R-CNN (ResNet-50 FPN) from a state-dict file.

    Raises:
        InputError: when the file is missing or holds other weights.
    """
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    _require_file(weights, "torchvision's keypointrcnn_resnet50_fpn state dict")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        model.load_state_dict(state)
    except Exception as error:  # torch raises several types on hostile, truncated or foreign files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{weights} holds no keypointrcnn_resnet50_fpn ({reason}): download it again") from error
    return whole_image_rcnn(model)


def whole_image_rcnn(model: Any) -> Estimator:
    """Return a Keypoint R-CNN's keypoint branch on one box, the whole image; a score is the sigmoid of its peak."""
    from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

    device = default_device()
    heads = model.eval().to(device).roi_heads

    @torch.inference_mode()
    def estimate(pixels: Pixels) -> Keypoints:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.transform.image_mean, model.transform.image_std))
        image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - mean) / std
        height, width = pixels.shape[:2]
        box = torch.tensor([[0.0, 0.0, width, height]], device=device)
        pooled = heads.keypoint_roi_pool(model.backbone(image[None].to(device)), [box], [(height, width)])
        maps = heads.keypoint_predictor(heads.keypoint_head(pooled))
        points, scores = heatmaps_to_keypoints(maps.cpu(), box.cpu())
        return torch.cat([points[0, :, :2] - 0.5, scores[0].sigmoid()[:, None]], dim=1).numpy()

    return estimate


def openpose(folder: Path, root: Path, paths: Iterable[str]) -> PoseSource:
    """Return the keypoints that OpenPose wrote as JSON (`--write_json`), COCO-18 or BODY_25, in pixels.

    The file of `a/b.jpg` is `a/b_keypoints.json` in the folder, or `b_keypoints.json` where no other image is called b.

    Args:
        folder: of the JSON files.
        root: folder of the data set.
        paths: its images, relative to it.

    Raises:
        InputError: when there is no such folder; the source raises it for an image without a file.
    """
    if not folder.is_dir():
        raise InputError(f"--openpose {folder}: there is no such folder of OpenPose's JSON files")
    unique = _once(PurePosixPath(path).stem for path in paths)

    def source(path: Path) -> Keypoints:
        places = [folder / path.relative_to(root).parent, *([folder] if path.stem in unique else [])]
        files = [place / f"{path.stem}_keypoints.json" for place in places]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise InputError(f"image {path} has no {files[0]}: run OpenPose on it, or leave it to the template")
        return main_person(read_people(found), decode(path)[1])

    return source


def read_people(file: Path) -> NDArray[np.float32]:
    """Read the people of one OpenPose JSON file, (P, 18, 3).

    Raises:
        InputError: when it is not OpenPose's, or has another number of joints.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["people"]
        people = [np.array(person["pose_keypoints_2d"], dtype=np.float32).ravel() for person in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no OpenPose JSON ({error}): write it with OpenPose's --write_json") from error
    if wrong := [len(p) for p in people if len(p) not in OPENPOSE_LAYOUTS]:
        raise InputError(f"{file} has {wrong[0] / 3:g} joints a person: use OpenPose's COCO (18) or BODY_25 (25) model")
    rows = [p.reshape(-1, 3)[OPENPOSE_LAYOUTS[len(p)]] for p in people]
    return np.stack(rows) if rows else np.empty((0, NUM_KEYPOINTS, 3), dtype=np.float32)


def coco(file: Path, root: Path, paths: Iterable[str]) -> PoseSource:
    """Return the keypoints of a JSON file in COCO's format, 17 joints, in pixels.

    An image goes by its path relative to the data set, or by its bare file name where no other image is called so.

    Args:
        file: see `read_coco`.
        root: folder of the data set.
        paths: its images, relative to it.

    Raises:
        InputError: as `read_coco`; the source raises it for an image that the file does not name.
    """
    people, unique = read_coco(file), _once(PurePosixPath(path).name for path in paths)

    def source(path: Path) -> Keypoints:
        names = [path.relative_to(root).as_posix(), *([path.name] if path.name in unique else [])]
        found = next((people[name] for name in names if name in people), None)
        if found is None:
            raise InputError(f"image {path} is not in {file} as {names[0]}: add it, or leave it to the template")
        return main_person(found, decode(path)[1])

    return source


def read_coco(file: Path) -> dict[str, NDArray[np.float32]]:
    """Read the people of a COCO-17 JSON file by image, (P, 18, 3) each.

    The file is `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "keypoints"}]}`, COCO's own, or a list
    of results `[{"image_id", "keypoints"}]` whose `image_id` is the file's name. Of the flat x, y, c of `keypoints`, c
    is a score or COCO's visibility flag (0 unlabelled, 1 occluded, 2 visible); both are clipped to [0, 1].

    Raises:
        InputError: when the file is none, or has another number of joints.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        images, results = (held["images"], held["annotations"]) if isinstance(held, dict) else ([], held)
        names = {image["id"]: image["file_name"] for image in images}
        people: dict[str, list[Keypoints]] = {name: [] for name in names.values()}
        for result in results:
            points = np.array(result["keypoints"], dtype=np.float32).reshape(17, 3)
            points[:, 2] = points[:, 2].clip(0, 1)
            image = result["image_id"]
            people.setdefault(names[image] if names else str(image), []).append(from_coco(points))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no COCO JSON of 17 keypoints ({error}): give images and annotations") from error
    return {name: np.array(found, dtype=np.float32).reshape(-1, NUM_KEYPOINTS, 3) for name, found in people.items()}


def main_person(people: NDArray[np.float32], size: tuple[int, int]) -> Keypoints:
    """Choose the person whose scores, summed over joints in the middle of the image, are highest.

    The middle is the inner half of width and height.

    Args:
        people: (P, 18, 3).
        size: (H, W) of the image, upright.

    Returns:
        (18, 3), NaN when there is nobody.
    """
    if not len(people):
        return NOBODY
    middle = (np.abs((people[..., :2] + 0.5) / size[::-1] - 0.5) <= 0.25).all(2)
    return people[(people[..., 2] * (middle + 1e-3)).sum(1).argmax()]


def _once(names: Iterable[str]) -> set[str]:
    """Return the names that occur once."""
    return {name for name, count in Counter(names).items() if count == 1}


def _require_file(file: Path, what: str) -> None:
    if not file.is_file():
        raise InputError(f"there is no file {file}: name {what}, or import keypoints with --openpose DIR")
