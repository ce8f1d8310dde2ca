"""The parts of ingest: detectors, links, choice of crops, modality, times."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vireid.errors import InputError
from vireid.records import Modality

pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("norfair")

from vireid.ingest import Detections, Video, guess_modality, open_detector  # noqa: E402
from vireid.ingest.crops import Crop, choose, crop_quality, cut, prepare, thin  # noqa: E402
from vireid.ingest.detect import letterbox, people, tidy, without_groups  # noqa: E402
from vireid.ingest.plan import parse_time  # noqa: E402
from vireid.ingest.track import MIN_HITS, Linker  # noqa: E402


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2026-05-03T21:00:00+02:00", datetime(2026, 5, 3, 19, tzinfo=UTC)),
        ("2026-05-03T21:00Z", datetime(2026, 5, 3, 21, tzinfo=UTC)),
        ("2026-05-03T21:00:00", "has no time zone: add the camera's"),
        ("yesterday", "is no ISO 8601 time: write it like"),
        ("9999-12-31T23:00:00Z", "lies outside the years 2 to 9998"),
    ],
)
def test_start_times_need_a_zone(text, answer):
    if isinstance(answer, str):
        with pytest.raises(InputError, match=answer):
            parse_time(text)
    else:
        assert parse_time(text) == answer


def clock(grey):
    grey = grey.copy()
    grey[4:10, 4:30] = (255, 220, 0)
    return grey


@pytest.mark.parametrize(
    ("change", "modality"),
    [
        (lambda colour, grey: colour, Modality.VISIBLE),
        (lambda colour, grey: grey, Modality.INFRARED),
        (
            lambda colour, grey: grey.astype(int) + np.random.default_rng(0).integers(-5, 6, grey.shape),
            Modality.INFRARED,
        ),
        (lambda colour, grey: clock(grey), Modality.INFRARED),
        (lambda colour, grey: np.where(np.arange(160)[:, None] < 12, colour, grey), Modality.VISIBLE),
    ],
)
def test_modality_is_told_by_channels(change, modality):
    colour = np.full((120, 160, 3), (225, 235, 205), dtype=np.uint8)
    colour[30:80, 2:60] = np.random.default_rng(1).integers(0, 255, (50, 58, 3))
    grey = np.repeat(colour.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    assert guess_modality(change(colour, grey).clip(0, 255).astype(np.uint8)) is modality


def crop(seconds, quality, modality=Modality.VISIBLE):
    return Crop(round(seconds * 10), seconds, (0, 0, 1, 1), np.zeros((1, 1, 3), np.uint8), quality, modality)


@settings(max_examples=50)
@given(st.lists(st.floats(1, 4), min_size=2, max_size=40), st.integers(1, 8))
def test_of_each_part_of_the_time_the_best_crop_is_kept(qualities, count):
    crops = [crop(float(second), quality) for second, quality in enumerate(qualities)]
    kept = choose(crops, count)
    assert [c.seconds for c in kept] == sorted({c.seconds for c in kept})
    assert len(kept) == min(count, len(crops))
    edges = np.linspace(0, len(crops) - 1, count + 1)
    for low, high in pairwise(edges):
        part = [c.quality for c in crops if low + 0.01 <= c.seconds <= high - 0.01]
        reached = [c.quality for c in kept if low - 0.01 <= c.seconds <= high + 0.01]
        assert not part or max(reached) >= max(part)


@settings(max_examples=50)
@given(st.lists(st.floats(1, 4), min_size=1, max_size=40), st.integers(1, 8))
def test_thinning_bounds_the_pool_and_keeps_its_order(qualities, limit):
    crops = [crop(float(second), quality) for second, quality in enumerate(qualities)]
    kept = thin(crops, limit)
    assert len(kept) == min(limit, len(crops))
    assert [c.seconds for c in kept] == sorted(c.seconds for c in kept)


def test_of_the_two_closest_crops_the_worse_goes():
    crops = [crop(0, 1), crop(5, 2), crop(6, 3), crop(9, 1)]
    assert [c.seconds for c in thin(crops, 3)] == [0, 6, 9]


def test_poor_crops_and_those_of_the_other_modality_are_left_out():
    crops = [crop(0, 9, Modality.INFRARED), crop(1, 8), crop(5, 1), crop(9, 7)]
    assert [c.seconds for c in choose(crops, 3)] == [1, 9]


def test_quality_prefers_large_sharp_whole_and_unhidden_persons():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (128, 64, 3), dtype=np.uint8)
    plain = [100, 50, 40, 80, 0.9]

    def rate(*rows, image=sharp):
        return crop_quality(Detections.of(rows), 0, image, (240, 320))

    best = rate(plain)
    assert rate(plain, image=cv2.GaussianBlur(sharp, (9, 9), 4)) < best
    assert rate([100, 50, 30, 60, 0.9]) < best
    assert rate([100, 50, 40, 80, 0.5]) < best
    assert rate([-5, 50, 40, 80, 0.9]) < best / 5
    assert rate(plain, [110, 60, 40, 90, 0.9]) < best
    assert rate(plain, [110, 40, 40, 80, 0.9]) == best


def test_crops_stay_inside_the_frame_and_infrared_is_grey():
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    box, picture = cut(image, (-5.2, 30.4, 20, 40))
    assert box == (0, 30, 15, 10)
    assert np.array_equal(picture, image[30:40, :15])
    for size, kept in (((2000, 500), (512, 128)), ((130, 66_000), (1, 512)), ((512, 300), (512, 300))):
        assert prepare(np.zeros((*size, 3), np.uint8), Modality.VISIBLE).shape == (*kept, 3)
    assert np.ptp(prepare(image, Modality.INFRARED), axis=2).max() == 0


def test_short_alarms_are_no_track_and_gaps_are_bridged():
    linker = Linker(patience=5)
    numbers = set()
    for frame in range(20):
        rows = [] if frame in (10, 11, 12) else [[20 + frame, 10, 20, 40, 0.9]]
        rows += [[100, 10, 20, 40, 0.9]] if frame < MIN_HITS - 1 else []
        linker.update(Detections.of(rows))
        numbers |= set(linker.live().values())
    assert numbers == {None, 1}
    for _ in range(8):
        linker.update(Detections.of([]))
    assert linker.live() == {}


def test_tidy_is_independent_of_order_and_drops_the_small():
    rows = [[10.04, 5, 20, 60, 0.5], [1, 5, 20, 40, 0.9], [2, 5, 20, 70.06, 0.7]]
    a, b = tidy(Detections.of(rows), 50), tidy(Detections.of(rows[::-1]), 50)
    assert a.rows() == b.rows() == [[2, 5, 20, 70.1, 0.7], [10, 5, 20, 60, 0.5]]
    assert np.array_equal(Detections.of(a.rows()).boxes, a.boxes)


def test_a_giant_that_holds_a_smaller_person_is_a_group():
    giant, inside, beside = [100, 20, 90, 200, 0.9], [130, 60, 30, 80, 0.8], [185, 100, 40, 90, 0.8]
    kept = without_groups(Detections.of([giant, inside, beside]))
    assert kept.boxes[:, 0].tolist() == [130, 185]
    assert len(without_groups(Detections.of([giant, beside]))) == 2
    assert len(without_groups(Detections.of([]))) == 0


def yolo_outputs():
    """One person (left 10, top 20, 30 × 60, score 0.8), an overlapping weaker twin and a car, in each layout."""
    anchors = np.zeros((40, 6), dtype=np.float32)
    anchors[3] = [25, 50, 30, 60, 0.8, 0.1]
    anchors[4] = [26, 50, 30, 60, 0.6, 0.1]
    anchors[9] = [60, 60, 40, 20, 0.1, 0.9]
    objectness = np.insert(anchors, 4, 1.0, axis=1)
    final = np.zeros((1, 40, 6), dtype=np.float32)
    final[0, 0] = [10, 20, 40, 80, 0.8, 0]
    final[0, 1] = [40, 50, 80, 70, 0.9, 2]
    return {"v8": anchors.T[None], "v5": objectness[None], "v5-1": objectness[None, :9, :6], "end2end": final}


@pytest.mark.parametrize("layout", ["v8", "v5", "v5-1", "end2end"])
def test_yolo_layouts_are_told_apart(layout):
    found = people(yolo_outputs()[layout], 0.4)
    np.testing.assert_allclose(found.boxes, [[10, 20, 30, 60]])
    np.testing.assert_allclose(found.scores, [0.8])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_finished_output_may_have_few_rows(count):
    assert len(people(yolo_outputs()["end2end"][:, :count], 0.4)) == min(count, 1)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 40, 6), (40, 6), (1, 4, 40), (1, 0, 85)])
def test_other_outputs_are_said(shape):
    with pytest.raises(InputError, match="the detector's output has shape"):
        people(np.zeros(shape, dtype=np.float32), 0.4)


def write_onnx(path, shape, dtype=np.float32):
    """A detector that finds what `yolo_outputs` holds in a white image."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, table = onnx.helper, yolo_outputs()["v8"].astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "table"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolo",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("output", kind, table.shape)],
        [helper.make_tensor("table", kind, table.shape, table.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


@pytest.mark.parametrize("shape", [[1, 3, 80, 80], ["n", 3, "h", 80]])
def test_an_onnx_file_detects_in_frame_coordinates(tmp_path, shape):
    write_onnx(tmp_path / "yolo.onnx", shape)
    detect = open_detector(str(tmp_path / "yolo.onnx"), min_height=20)
    np.testing.assert_allclose(detect(np.full((120, 160, 3), 255, np.uint8)).boxes, [[20, 40, 60, 120]])


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ([1, 3, 80, 80], np.float16, r"takes tensor\(float16\) and gives tensor\(float16\): export it with one input"),
        ([1, 80, 80], np.float32, r"takes an image of shape \[1, 80, 80\]: export it for \(1, 3, S, S\)"),
        ([1, 3, 48, 80], np.float32, "takes an image of shape"),
        ([1, 1, 80, 80], np.float32, "takes an image of shape"),
    ],
)
def test_an_onnx_file_that_takes_something_else_is_said_on_opening(tmp_path, shape, dtype, sentence):
    write_onnx(tmp_path / "yolo.onnx", shape, dtype)
    with pytest.raises(InputError, match=sentence):
        open_detector(str(tmp_path / "yolo.onnx"), min_height=20)


def test_letterbox_keeps_the_ratio():
    square, scale = letterbox(np.full((60, 120, 3), 255, np.uint8), 40)
    assert scale == pytest.approx(1 / 3)
    assert square[:20].min() == 255
    assert (square[20:] == 114).all()


def test_a_torchvision_detector_takes_its_weights_from_a_file(tmp_path):
    from torchvision.models import get_model

    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    torch.save(get_model(name, weights=None, weights_backbone=None).state_dict(), tmp_path / "ssd.pth")
    detect = open_detector(f"torchvision:{name}", min_height=20, weights=tmp_path / "ssd.pth")
    found = detect(np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8))
    assert found.boxes.shape == (len(found), 4)
    (tmp_path / "bad.pth").write_bytes(b"not a file of weights")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        open_detector(f"torchvision:{name}", min_height=20, weights=tmp_path / "bad.pth")
    with pytest.raises(InputError, match="does not fit"):
        open_detector(f"torchvision:{name}", min_height=20, weights=tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("yolo", "unknown detector 'yolo': use hog"),
        ("none.onnx", "there is no detector none.onnx"),
        ("torchvision:nothing", "torchvision has no detector 'nothing': use one of fasterrcnn_"),
        ("torchvision:resnet18", "torchvision has no detector 'resnet18'"),
        ("torchvision:ssdlite320_mobilenet_v3_large", "needs its weights: pass --weights"),
    ],
)
def test_unknown_detectors_are_said(name, sentence):
    with pytest.raises(InputError, match=sentence):
        open_detector(name, min_height=48)


def test_hog_finds_the_people_of_opencvs_sample():
    sample = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
    if not sample.exists():
        pytest.skip("Debian's opencv-doc is not installed: no vtest.avi")
    with Video(sample) as opened:
        image = next(opened.read()).image
    found = tidy(open_detector("hog", min_height=64)(image), 64)
    assert 3 <= len(found) <= 8
    assert (found.boxes[:, 3] > found.boxes[:, 2]).all()


def test_hog_finds_nobody_in_an_empty_yard():
    assert len(open_detector("hog", min_height=48)(np.full((120, 160, 3), 200, np.uint8))) == 0
