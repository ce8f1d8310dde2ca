"""Finding keypoints: joint orders, OpenPose's files, estimators at their boundary, and runs that go on."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vireid import pose, pose_sources
from vireid.cli import app
from vireid.data import open_dataset
from vireid.data.keypoints import KeypointTable, read_table, write_table
from vireid.errors import InputError
from vireid.pose import PoseRequest, find_poses
from vireid.pose_sources import (
    enlarge,
    estimated,
    from_coco,
    keypoint_rcnn,
    main_person,
    read_coco,
    read_people,
    whole_image_rcnn,
)
from vireid.records import Modality


@pytest.fixture
def crops(tmp_path):
    """Four images of two modalities; two share a stem."""
    root = tmp_path / "crops"
    rows = ["path,pid,camid,modality"]
    for path, modality in (("a/1.png", 0), ("b/1.png", 1), ("a/2.png", 0), ("b/3.png", 1)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 64)).save(root / path)
        rows.append(f"{path},1,{modality + 1},{modality}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def person(joints, x=16.0, y=30.0, score=0.9):
    return [value for joint in range(joints) for value in (x + joint / 10, y + joint, score)]


def write_json(file, *people):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": p} for p in people]}))


# Joint orders


def test_coco_to_openpose():
    points = np.arange(51, dtype=np.float32).reshape(17, 3)
    found = from_coco(points)
    assert found[1].tolist() == [16.5, 17.5, 17]
    assert np.delete(found, 1, axis=0)[:, 0].tolist() == [
        3 * j for j in (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
    ]


def test_openpose_layouts(tmp_path):
    write_json(tmp_path / "p.json", person(25), person(18))
    body, coco = read_people(tmp_path / "p.json")
    assert body[:, 1].tolist() == [30 + j for j in (*range(8), *range(9, 19))]
    assert coco[:, 1].tolist() == [30 + j for j in range(18)]
    write_json(tmp_path / "none.json")
    assert read_people(tmp_path / "none.json").shape == (0, 18, 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"no OpenPose JSON \(Expecting"),
        ("[]", "no OpenPose JSON"),
        ('{"people": [{"face": []}]}', r"no OpenPose JSON \('pose_keypoints_2d'\)"),
        ('{"people": [{"pose_keypoints_2d": 5}]}', "has 0.333333 joints a person"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', r"has 1 joints a person: use OpenPose's COCO \(18\)"),
    ],
)
def test_bad_openpose_files(tmp_path, text, sentence):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_people(tmp_path / "p.json")


def test_coco_layouts(tmp_path):
    own = {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]}
    results = [{"image_id": 7, "keypoints": person(17, score=2)}, {"image_id": 7, "keypoints": person(17, x=1)}]
    (tmp_path / "own.json").write_text(json.dumps({**own, "annotations": results}))
    (tmp_path / "list.json").write_text(json.dumps([{**result, "image_id": "a.jpg"} for result in results]))
    found, listed = (read_coco(tmp_path / name) for name in ("own.json", "list.json"))
    assert {name: points.shape for name, points in found.items()} == {"a.jpg": (2, 18, 3), "b.jpg": (0, 18, 3)}
    assert np.array_equal(found["a.jpg"], listed["a.jpg"])
    assert found["a.jpg"][0, :2].tolist() == pytest.approx(np.array([[16, 30, 1], [16.55, 35.5, 1]]))
    assert found["a.jpg"][1, 2:5, 1].tolist() == [36, 38, 40]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no COCO JSON of 17 keypoints .*No such file"),
        ("{", r"\(Expecting"),
        ("7", "not iterable"),
        ('{"people": []}', r"\('images'\): give images and annotations"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "keypoints": []}]}', "reshape"),
        ('[{"image_id": "a", "keypoints": [1, 2, 3]}]', "reshape array of size 3"),
    ],
)
def test_bad_coco_files(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_coco(tmp_path / "c.json")


def test_the_person_in_the_middle_is_kept():
    people = np.array([person(18, x, y, score) for x, y, score in ((0, 24, 1), (15, 24, 0.6), (15, 24, 0.4))])
    people = people.reshape(3, 18, 3).astype(np.float32)
    assert np.array_equal(main_person(people, (64, 32)), people[1])
    assert np.array_equal(main_person(people[:1], (64, 32)), people[0])
    assert np.isnan(main_person(people[:0], (64, 32))).all()


@pytest.mark.parametrize("kind", ["openpose", "coco"])
def test_imported_people_of_turned_and_broken_images(tmp_path, kind):
    turned, names = Image.new("RGB", (32, 64)), ["turned.jpg", "broken.jpg"]
    exif = turned.getexif()
    exif[0x0112] = 6  # upright it is 64 wide and 32 high
    turned.save(tmp_path / names[0], exif=exif)
    (tmp_path / names[1]).write_text("no image")
    people = [person(17 + (kind == "openpose"), *place) for place in ((15, 36), (31, 8))]
    if kind == "openpose":
        for name in names:
            write_json(tmp_path / f"{name[:-4]}_keypoints.json", *people)
        source = pose_sources.openpose(tmp_path, tmp_path, names)
    else:
        found = [{"image_id": name, "keypoints": points} for name in names for points in people]
        (tmp_path / "c.json").write_text(json.dumps(found))
        source = pose_sources.coco(tmp_path / "c.json", tmp_path, names)
    assert source(tmp_path / names[0])[0, 0] == 31
    with pytest.raises(InputError, match=r"broken.jpg cannot be decoded"):
        source(tmp_path / names[1])


# Estimators


def test_small_images_are_enlarged():
    pixels, scale = enlarge(np.zeros((64, 32, 3), np.uint8))
    assert pixels.shape == (256, 128, 3)
    assert scale.tolist() == [4, 4]
    large = np.zeros((300, 90, 3), np.uint8)
    assert enlarge(large)[0] is large


@pytest.mark.parametrize(("stretch", "contrast"), [(False, 20), (True, 230)])
def test_estimated_source(tmp_path, stretch, contrast):
    seen = []

    def estimator(pixels):
        seen.append(pixels)
        return np.tile(np.float32([63.5, 127.5, 1.4]), (17, 1))

    dim = np.full((64, 32, 3), 100, np.uint8)
    dim[:32] = 120
    Image.fromarray(dim).save(tmp_path / "a.png")
    found = estimated(estimator, stretch)(tmp_path / "a.png")
    assert found.shape == (18, 3)
    np.testing.assert_allclose(found, np.tile([15.5, 31.5, 1.0], (18, 1)))
    assert seen[0].shape == (256, 128, 3)
    assert int(seen[0][10, 10, 0]) - int(seen[0][-10, 10, 0]) == pytest.approx(contrast, abs=5)


def test_rtmlib_at_its_boundary(tmp_path, monkeypatch):
    class RTMPose:
        """What rtmlib 0.0.16 gives: pixels are BGR, the box is the whole image, results are batched."""

        def __init__(self, onnx_model):
            if onnx_model.endswith("bad.onnx"):
                raise RuntimeError("InvalidProtobuf")
            shape = types.SimpleNamespace(shape=["batch", 3, 384, 288])
            self.session = types.SimpleNamespace(get_inputs=lambda: [shape])
            self.model_input_size = (192, 256)

        def __call__(self, image):
            assert image.flags.c_contiguous
            points = np.stack([np.full(17, image[0, 0, 0]), np.full(17, self.model_input_size[1])], axis=1)
            return points[None].astype(np.float64), np.full((1, 17), 0.7)

    monkeypatch.setitem(sys.modules, "rtmlib", types.SimpleNamespace(RTMPose=RTMPose))
    for name in ("m.onnx", "bad.onnx"):
        (tmp_path / name).touch()
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[..., 2] = 9
    np.testing.assert_allclose(
        pose_sources.rtmpose(tmp_path / "m.onnx")(pixels), np.tile([9, 384, 0.7], (17, 1)), rtol=1e-6
    )
    with pytest.raises(InputError, match=r"bad.onnx is no ONNX model that runs here \(InvalidProtobuf\)"):
        pose_sources.rtmpose(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match=r"there is no file .*gone.onnx: name an RTMPose body model"):
        pose_sources.rtmpose(tmp_path / "gone.onnx")
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(InputError, match="pip install rtmlib, or use --openpose DIR"):
        pose_sources.rtmpose(tmp_path / "m.onnx")


class Peak(torch.nn.Module):
    """Keypoint logits that peak in the cell (row 10, column 40 - joint) of the 56 x 56 of the box."""

    def forward(self, pooled):
        logits = torch.full((len(pooled), 17, 56, 56), -5.0)
        for joint in range(17):
            logits[:, joint, 10, 40 - joint] = 3.0
        return logits


def test_keypoint_rcnn_on_the_whole_image():
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    found = whole_image_rcnn(model)(np.zeros((256, 128, 3), np.uint8))
    assert found.shape == (17, 3)
    assert np.isfinite(found).all()
    model.roi_heads.keypoint_predictor = Peak()
    x, y, score = whole_image_rcnn(model)(np.zeros((256, 128, 3), np.uint8)).T
    np.testing.assert_allclose(x, [(40.5 - joint) * 128 / 56 - 0.5 for joint in range(17)], atol=1.5)
    np.testing.assert_allclose(y, 10.5 * 256 / 56 - 0.5, atol=2.5)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-3)), atol=0.08)


def test_keypoint_rcnn_weights_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"no file .*: name torchvision's keypointrcnn_resnet50_fpn state dict"):
        keypoint_rcnn(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text.pth holds no keypointrcnn_resnet50_fpn"):
        keypoint_rcnn(tmp_path / "text.pth")


# Whole data sets


def test_openpose_import_from_the_command_line(crops, tmp_path):
    folder = tmp_path / "json"
    write_json(folder / "a/1_keypoints.json", person(25))
    write_json(folder / "1_keypoints.json", person(25, x=1))  # two images have this stem: not theirs
    write_json(folder / "2_keypoints.json", person(18, score=0.8))
    write_json(folder / "3_keypoints.json")
    out = CliRunner().invoke(app, ["pose", str(crops), "--openpose", str(folder)], env={"COLUMNS": "300"})
    assert out.exit_code == 0, out.output
    text = " ".join(out.output.split())
    assert "a pose in 100% of visible, 0% of infrared images, 1 skipped" in text
    assert "uneven: where poses fail" in text
    assert "b/1.png has no" in text
    records = open_dataset("manifest", crops)
    assert records.path.tolist() == ["a/1.png", "b/1.png", "a/2.png", "b/3.png"]
    assert records.keypoints[:, 0, 2].tolist() == pytest.approx([0.9, np.nan, 0.8, np.nan], nan_ok=True)
    assert read_table(crops / "keypoints.npz").path.tolist() == ["a/1.png", "a/2.png", "b/3.png"]
    with pytest.raises(InputError, match="holds keypoints of openpose json: move it away"):
        find_poses(PoseRequest(crops, openpose=tmp_path))


def test_coco_import_from_the_command_line(crops, tmp_path):
    people = [("a/1.png", person(17)), ("a/1.png", person(17, x=1)), ("1.png", person(17, x=1)), ("2.png", person(17))]
    results = [{"image_id": name, "keypoints": points} for name, points in people]
    (tmp_path / "found.json").write_text(json.dumps(results))
    out = CliRunner().invoke(app, ["pose", str(crops), "--coco", str(tmp_path / "found.json")], env={"COLUMNS": "300"})
    assert out.exit_code == 0, out.output
    text = " ".join(out.output.split())
    assert "a pose in 100% of visible, 0% of infrared images, 2 skipped" in text
    assert "b/1.png is not in" in text  # two images have the bare name 1.png
    assert open_dataset("manifest", crops).keypoints[:, 0, 0].tolist() == pytest.approx([16, np.nan] * 2, nan_ok=True)
    assert read_table(crops / "keypoints.npz").source == "coco found.json"
    (tmp_path / "found.json").write_text(json.dumps([{"image_id": "a/1.png", "keypoints": person(17, x=20)}]))
    find_poses(PoseRequest(crops, coco=tmp_path / "found.json"))  # mended: it is read anew
    assert read_table(crops / "keypoints.npz").kpts[:, 0, 0].tolist() == [20]


def test_keypoints_of_other_images_are_refused(crops):
    def write(*paths):
        points = np.ones((len(paths), 18, 3), np.float32)
        write_table(crops / "keypoints.npz", KeypointTable(np.array(paths, dtype=str), points))
        return open_dataset("manifest", crops).keypoints

    with pytest.raises(InputError, match=r"none of the 4 images: it has paths such as '/crops/a/1.png', .* 'a/1.png'"):
        write("/crops/a/1.png", "/crops/b/1.png")
    assert np.isfinite(write("/crops/a/1.png", "b/1.png")).all((1, 2)).sum() == 1
    assert np.isnan(write()).all()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, "name one source of keypoints: --rtmlib MODEL.onnx"),
        ({"rtmlib": "m.onnx", "openpose": "json"}, "name one source of keypoints"),
        ({"openpose": "json", "stretch": "yes"}, "drop it beside --openpose"),
        ({"openpose": "nowhere"}, "--openpose nowhere: there is no such folder"),
        ({"openpose": "."}, "none of 4 images gave keypoints; the first: image .*a/1.png has no a/1_keypoints.json"),
    ],
)
def test_requests_that_cannot_be_met(crops, request_, sentence):
    paths = {name: type(crops)(value) for name, value in request_.items()}
    with pytest.raises(InputError, match=sentence):
        find_poses(PoseRequest(crops, **paths))
    assert not (crops / "keypoints.npz").exists()


def fake_source(monkeypatch, fails=(), stops_at=None):
    """Make every request use a source that records its images; it fails on some and is interrupted at one."""
    seen = []

    def source(path):
        if path.name == stops_at:
            raise KeyboardInterrupt
        seen.append(str(path.relative_to(path.parent.parent)))
        if seen[-1] in fails:
            raise InputError(f"image {path} cannot be decoded")
        return np.full((18, 3), len(seen), np.float32)

    monkeypatch.setattr(pose, "open_source", lambda request, records: ("fake", source))
    return seen


def test_an_interrupted_run_goes_on(crops, monkeypatch):
    monkeypatch.setattr(pose, "SAVE_EVERY", 1)
    first = fake_source(monkeypatch, fails=["a/1.png"], stops_at="2.png")
    with pytest.raises(KeyboardInterrupt):
        find_poses(PoseRequest(crops))
    assert first == ["a/1.png", "b/1.png"]
    second, told = fake_source(monkeypatch, fails=["a/2.png"]), []
    result = find_poses(PoseRequest(crops), lambda done, total: told.append((done, total)))
    assert second == ["a/1.png", "a/2.png", "b/3.png"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert result.shares == {Modality.VISIBLE: 0.5, Modality.INFRARED: 1.0}
    assert [reason.endswith("a/2.png cannot be decoded") for reason in result.bad] == [True]
    table = read_table(crops / "keypoints.npz")
    assert table.source == "fake"
    assert dict(zip(table.path, table.kpts[:, 0, 0], strict=True)) == {"a/1.png": 1, "b/1.png": 2, "b/3.png": 3}
    assert list(crops.glob("*.tmp")) == []


@pytest.mark.parametrize(("source", "held"), [("", "another source"), ("rtmlib m.onnx", "rtmlib m.onnx")])
def test_keypoints_of_another_source_are_not_mixed(crops, monkeypatch, source, held):
    fake_source(monkeypatch)
    write_table(crops / "keypoints.npz", KeypointTable(np.array(["a/1.png"]), np.ones((1, 18, 3), np.float32), source))
    with pytest.raises(InputError, match=rf"holds keypoints of {held}: move it away, or write to another file"):
        find_poses(PoseRequest(crops))
    find_poses(PoseRequest(crops, out=crops / "mine.npz"))
    assert open_dataset("manifest", crops, keypoints="mine.npz").keypoints[3, 0, 0] == 4


def test_half_known_joints_are_unknown(tmp_path):
    points = np.ones((2, 18, 3), np.float32)
    points[1, 4, 0] = np.nan
    write_table(tmp_path / "k.npz", KeypointTable(np.array(["a", "b"]), points))
    assert np.isnan(read_table(tmp_path / "k.npz").kpts).all((1, 2)).tolist() == [False, True]
