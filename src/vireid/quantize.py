"""int8 convolutions for an exported graph: static ranges a tensor, scales a channel for the weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vireid.data.images import Pixels, decode
from vireid.errors import InputError
from vireid.records import Modality, Records, evenly_spaced

IMAGES = 256
"""Images of a modality: every other one sets the ranges, the rest are what the graph is judged by."""
LEAST = 16
BATCH = 8
OPERATORS = ("Conv", "Relu", "Clip")
"""What runs in int8. Sums of residual branches stay in float32: in int8 they cost most of the accuracy."""


def quantize(path: Path, images: Pixels) -> None:
    """Replace a float32 graph by its int8 form.

    Args:
        path: the graph's file.
        images: (N, H, W, 3) whose activations set the ranges.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"images": images[i : i + BATCH]} for i in range(0, len(images), BATCH)])

        def get_next(self) -> dict[str, Pixels] | None:
            return next(self.left, None)

    with TemporaryDirectory() as folder:
        simple = Path(folder) / "simple.onnx"
        quant_pre_process(path, simple, skip_symbolic_shape=True)
        quantize_static(
            simple,
            path,
            Batches(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def calibration_images(records: Records, modality: Modality, size: tuple[int, int]) -> Pixels:
    """Return at most `IMAGES` images of a modality (N, H, W, 3), spread over the training split or, without one, all.

    Raises:
        InputError: when there are fewer than `LEAST`, or one cannot be read.
    """
    own = records.where(modality=modality)
    train = own.where(split="train")
    chosen = train if len(train) >= LEAST else own
    if len(chosen) < LEAST:
        raise InputError(
            f"{records.root} has {len(chosen)} {modality} images to calibrate int8 by: give {LEAST} or more"
        )
    rows = evenly_spaced(len(chosen), IMAGES).tolist()
    return np.stack([decode(chosen.absolute(row), size)[0] for row in rows])
