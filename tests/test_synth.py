"""The renderer and the data sets it writes: geometry against a slow reference, determinism, trees, errors."""

import json
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vireid.data import llcm, open_dataset, regdb, synthetic, sysu_mm01
from vireid.errors import InputError
from vireid.records import FLIPPED_KEYPOINTS, Modality
from vireid.synth import PRESETS, Difficulty, dataset, write_dataset
from vireid.synth.body import KEYPOINTS, Pose, sample_pose, sample_shape, skeleton
from vireid.synth.figure import Solids
from vireid.synth.layouts import LAYOUTS
from vireid.synth.render import Box, trace
from vireid.synth.scene import make_scene
from vireid.synth.shot import HEIGHT, WIDTH, Shot, take
from vireid.synth.wardrobe import LUMINANCE, PALETTE, PALETTE_WEIGHTS, Slot, nir_albedo, sample_identity

EASY = Difficulty(occlusion=0.0, clutter=0.5)


def _one_solid(start, end, radii, thickness=1.0, axis=(0.0, 0.0, 1.0), open_end=False):
    row = lambda *values: np.array([values], dtype=np.float32)  # noqa: E731
    return Solids(
        start=row(*start),
        end=row(*end),
        start_radius=np.float32([radii[0]]),
        end_radius=np.float32([radii[1]]),
        axis=row(*axis),
        thickness=np.float32([thickness]),
        side=row(1, 0, 0),
        front=row(0, 0, 1),
        material=np.array([0]),
        open_end=np.array([open_end]),
    )


coordinate = st.floats(-0.4, 0.4)
point = st.tuples(coordinate, coordinate, coordinate)
radius = st.floats(0.1, 0.3)


@given(point, point, radius, radius, st.floats(0.4, 1.0), point.filter(lambda v: np.linalg.norm(v) > 0.05))
@settings(max_examples=25)
def test_a_solid_is_the_union_of_its_balls(start, end, first, last, thickness, axis):
    """Depth of the closed form = nearest of 800 balls swept from start to end, squashed along the axis."""
    axis = np.array(axis) / np.linalg.norm(axis)
    solids = _one_solid(start, end, (first, last), thickness, axis)
    depth = trace(solids, Box(-1, -1, 1, 1), 16, 16).depth
    squash = np.eye(3) - (1 - 1 / thickness) * np.outer(axis, axis)
    direction = squash @ (0, 0, 1)
    share = np.linspace(0, 1, 800)[:, None]
    bone = np.array(start) + share * (np.array(end) - np.array(start))
    sizes = (first + share * (last - first))[:, 0]
    steps = (np.arange(16) + 0.5) / 8 - 1
    for row, column in np.ndindex(16, 16):
        offset = ((steps[column], -steps[row], 0.0) - bone) @ squash.T
        half = offset @ direction
        root = half**2 - (direction @ direction) * ((offset**2).sum(1) - sizes**2)
        if root.max() < -1e-3:
            assert depth[row, column] < -1e2
        elif root.max() > 2e-3:
            nearest = (-half + np.sqrt(root.clip(0)))[root > 0].max() / (direction @ direction)
            assert depth[row, column] == pytest.approx(nearest, abs=5e-3)


def test_an_open_end_has_no_cap():
    closed = _one_solid((0, 0.3, 0), (0, -0.3, 0), (0.2, 0.2))
    below = (slice(29, 31), 16)
    assert (trace(closed, Box(-0.5, -0.5, 0.5, 0.5), 32, 32).depth[below] > 0).all()
    opened = replace(closed, open_end=np.array([True]))
    assert (trace(opened, Box(-0.5, -0.5, 0.5, 0.5), 32, 32).depth[below] < 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_skeleton_stands_on_the_ground_and_is_as_tall_as_the_person(seed):
    rng = np.random.default_rng(seed)
    shape, pose = sample_shape(rng), sample_pose(rng)
    joints = skeleton(shape, pose)
    assert min(joints["r_ankle"][1], joints["l_ankle"][1]) == pytest.approx(0.045 * shape.height)
    assert 0.85 * shape.height < joints["crown"][1] < 1.05 * shape.height
    assert joints["l_shoulder"][0] > 0 > joints["r_shoulder"][0]


def test_half_a_stride_later_the_skeleton_is_its_mirror_image():
    shape = sample_shape(np.random.default_rng(0))
    pose = Pose(0.7, 0.4, 0.3, 0.05, 0.2, 0.1, "phone", "swing")
    mirrored = replace(pose, phase=0.7 + np.pi, head_turn=-0.2, right_arm="swing", left_arm="phone")
    one, other = (np.stack([skeleton(shape, p)[name] for name in KEYPOINTS]) for p in (pose, mirrored))
    np.testing.assert_allclose(one * (-1, 1, 1), other[list(FLIPPED_KEYPOINTS)], atol=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_nir_correlation_is_what_its_name_says(correlation):
    rng = np.random.default_rng(0)
    luminance = PALETTE[rng.choice(len(PALETTE), 20_000, p=PALETTE_WEIGHTS)] @ LUMINANCE
    nir = nir_albedo(luminance, rng, correlation)
    assert np.corrcoef(luminance, nir)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert nir.std() == pytest.approx(luminance.std(), rel=0.03)


def test_skin_is_the_warmest_and_bags_the_coldest():
    for seed in range(20):
        heat = sample_identity(np.random.default_rng(seed), 0.9).materials.heat
        assert heat[[Slot.SKIN, Slot.EYES]].min() > heat[[Slot.UPPER, Slot.LOWER, Slot.SHOES, Slot.HAT]].max()
        assert heat[Slot.BAG] == heat.min()


def test_dark_clothes_are_warmer_and_only_in_thermal_images():
    difficulty, bright, gained = PRESETS["synthetic-v1"].difficulty, [], []
    cool = replace(difficulty, sun_warmth=0.0)
    for pid in range(1, 31):
        materials = sample_identity(np.random.default_rng((0, 0, pid)), difficulty.nir_correlation).materials
        bright.append((materials.rgb[[Slot.UPPER, Slot.LOWER]] @ LUMINANCE).mean())
        warm, plain = (take(Shot(pid, "lwir", 0, 7), 0, d).pixels.mean() for d in (difficulty, cool))
        gained.append(warm - plain)
    assert np.corrcoef(bright, gained)[0, 1] < -0.5
    visible = [take(Shot(1, "visible", 0, 1), 0, d).pixels for d in (difficulty, cool)]
    np.testing.assert_array_equal(*visible)


def test_backgrounds_follow_the_camera_and_the_place_only():
    pixels = {key: np.asarray(make_scene(0, *key, 1.0).colour) for key in ((1, 0), (1, 1), (2, 0))}
    assert (pixels[1, 0] != pixels[1, 1]).mean() > 0.5
    assert (pixels[1, 0] != pixels[2, 0]).mean() > 0.5
    make_scene.cache_clear()
    np.testing.assert_array_equal(np.asarray(make_scene(0, 1, 0, 1.0).colour), pixels[1, 0])


@pytest.mark.parametrize(("spectrum", "camid"), [("visible", 1), ("nir", 3), ("lwir", 7)])
def test_keypoints_lie_on_the_person(spectrum, camid):
    for pid in range(8):
        photo = take(Shot(pid, spectrum, 0, camid), 0, EASY)
        assert photo.pixels.shape == (HEIGHT, WIDTH, 3)
        x, y, score = photo.keypoints.T
        assert (x[score > 0] >= -0.5).all()
        assert (x[score > 0] < WIDTH).all()
        assert set(np.unique(score)) <= {np.float32(0), np.float32(0.3), np.float32(1)}
        assert (score > 0).sum() >= 14
        assert y[0] < y[1] < y[8] < max(y[10], y[13])


def test_infrared_images_have_three_equal_channels():
    for spectrum, camid in (("nir", 3), ("lwir", 7)):
        pixels = take(Shot(1, spectrum, 0, camid), 0, EASY).pixels
        assert (pixels == pixels[..., :1]).all()


def test_one_instant_has_one_pose_in_every_spectrum():
    """Same instant: the joints, box aside, differ by the cameras' viewpoints only; other instants differ more."""
    flat = replace(EASY, box_jitter=0.0)

    def pose(index, spectrum, camid, instant):
        points = take(Shot(5, spectrum, index, camid, instant), 0, flat).keypoints[:14, :2]
        return (points - points.mean(0)) / points.std(0)

    visible = pose(0, "visible", 1, 0)
    same = [np.abs(visible - pose(0, s, c, 0)).mean() for s, c in (("nir", 3), ("lwir", 7))]
    others = [np.abs(visible - pose(k, "nir", 3, -1)).mean() for k in range(2, 6)]
    assert max(same) < min(others)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("synth") / "one", preset="synthetic-v1", ids=6, workers=1)


def test_any_number_of_workers_writes_the_same_bytes(small, tmp_path):
    again = write_dataset(tmp_path / "two", preset="synthetic-v1", ids=6, workers=2)
    files = sorted(p.relative_to(small) for p in small.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((small / f).read_bytes() == (again / f).read_bytes() for f in files if f.suffix != ".npz")
    first, second = (np.load(root / "keypoints.npz")["kpts"] for root in (small, again))
    np.testing.assert_array_equal(first, second)


def test_another_seed_is_another_data_set(small, tmp_path):
    other = write_dataset(tmp_path / "seed1", preset="synthetic-v1", ids=6, seed=1, workers=1)
    card, other_card = (json.loads((root / "synthetic.json").read_text()) for root in (small, other))
    assert card["hash"] != other_card["hash"]
    assert card["content"] != other_card["content"]


@pytest.mark.parametrize(("spectrum", "cameras"), [("nir", {3, 6}), ("lwir", {7, 8}), ("both", {3, 6, 7, 8})])
def test_loader_reads_what_was_written(small, spectrum, cameras):
    records = synthetic.load(small, spectrum=spectrum)
    infrared = records.where(modality=Modality.INFRARED)
    assert set(infrared.camid) == cameras
    assert set(records.where(modality=Modality.VISIBLE).camid) == {1, 2, 4, 5}
    assert set(records.split) == {"train", "val", "test"}
    assert len(np.unique(records.pid)) == 6
    keypoints = open_dataset("synthetic", small, spectrum=spectrum).keypoints
    assert keypoints.shape == (len(records), 18, 3)
    assert np.isfinite(keypoints).all()
    assert Image.open(records.absolute(0)).size == (WIDTH, HEIGHT)


def test_instants_pair_both_modalities_at_one_time(small):
    records = synthetic.load(small)
    instant = synthetic.instants(records)
    for number in np.unique(instant[instant >= 0]):
        rows = records.take(instant == number)
        assert set(rows.modality) == {0, 1}
        assert len(np.unique(rows.pid)) == len(np.unique(rows.timestamp)) == 1


def test_trees_are_those_that_the_real_loaders_read(tmp_path):
    layouts = ("sysu_mm01", "regdb", "llcm")
    trees = {name: write_dataset(tmp_path / name, layout=name, ids=5, workers=1) for name in layouts}
    sysu = sysu_mm01.load(trees["sysu_mm01"], train_ids="train")
    assert set(sysu.where(split="val").camid) == {3, 4, 5}
    assert set(sysu.where(split="test").camid) == {1, 2, 3, 4, 5, 6}
    assert len(np.unique(sysu.pid)) == 5
    for trial in (1, 10):
        halves = [set(regdb.load(trees["regdb"], trial=trial).where(split=s).pid) for s in ("train", "test")]
        assert halves[0] | halves[1] == {1, 2, 3, 4, 5}
        assert not halves[0] & halves[1]
    low_light = llcm.load(trees["llcm"])
    assert set(low_light.where(split="test", modality=Modality.INFRARED).camid) == set(range(1, 10)) - {3}
    assert set(low_light.where(split="train", modality=Modality.INFRARED).camid) == set(range(1, 10))
    for name, tree in trees.items():
        assert np.isfinite(open_dataset(name, tree).keypoints).all()
    for records in (sysu, low_light):
        assert all(records.absolute(row).exists() for row in range(len(records)))


def test_a_finished_folder_is_reused_and_a_foreign_one_refused(small, tmp_path):
    before = (small / "manifest.csv").stat().st_mtime_ns
    assert write_dataset(small, preset="synthetic-v1", ids=6, workers=1) == small
    assert (small / "manifest.csv").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another synthetic data set"):
        write_dataset(small, preset="synthetic-v1", ids=7)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        write_dataset(tmp_path, preset="synthetic-v1", ids=6)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_one_process_renders_a_folder_and_clears_what_a_killed_one_left(small, tmp_path, monkeypatch):
    left, made = tmp_path / ".one.17.tmp", []
    left.mkdir()

    def write(folder, *_):
        made.append(shutil.copytree(small, tmp_path / "whole").rename(folder))

    monkeypatch.setattr(dataset, "_write", write)
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings(record=True):
        wanted = [tmp_path / "one"] * 2
        assert list(pool.map(partial(write_dataset, preset="synthetic-v1", ids=6), wanted)) == wanted
    assert made == [tmp_path / "one"]
    assert not left.exists()


@pytest.mark.parametrize("same", [True, False])
def test_who_comes_second_where_there_are_no_locks_takes_the_first_one_s_folder(same, small, tmp_path, monkeypatch):
    def render(items, *_):
        shutil.copytree(small, tmp_path / "one")
        if not same:
            (tmp_path / "one" / dataset.RENDERED).unlink()
        return [dataset._Written("", np.zeros((18, 3), np.float32)) for _ in items]

    monkeypatch.setattr(dataset, "alone", lambda *_, **__: nullcontext(False))
    monkeypatch.setattr(dataset, "_render", render)
    with nullcontext() if same else pytest.raises(InputError, match="one holds other files: name a new folder"):
        assert write_dataset(tmp_path / "one", preset="synthetic-v1", ids=6) == tmp_path / "one"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_workers_end_when_their_parent_is_killed(monkeypatch):
    """A spawned worker has a parent to wait for; here the test is that parent's end."""
    killed, ended, started = threading.Event(), threading.Event(), []

    def pool(workers, context, initializer):
        started.append(initializer)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(dataset, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(dataset, "parent_process", lambda: SimpleNamespace(join=killed.wait))
    monkeypatch.setattr("os._exit", lambda code: ended.set())
    assert list(dataset._mapped(partial(list), ["ab", "c"], 2)) == [["a", "b"], ["c"]]
    assert started == [dataset._end_with_parent]
    dataset._end_with_parent()
    assert not ended.is_set()
    killed.set()
    assert ended.wait(30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "coco"}, "unknown layout"),
        ({"preset": "v9"}, "unknown preset"),
        ({"ids": 2}, "cannot be split"),
        ({"seed": -1}, "--seed -1: use 0"),
        ({"workers": -1}, "--workers -1: use 1"),
        ({"out": "."}, "--out .: name a new folder, such as synthetic"),
    ],
)
def test_mistakes_are_named(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        write_dataset(**{"out": tmp_path / "out", "preset": "demo", **options})


def test_loader_names_what_is_not_synthetic(small, tmp_path):
    with pytest.raises(InputError, match="unknown spectrum"):
        synthetic.load(small, spectrum="uv")
    (tmp_path / "manifest.csv").write_text("path,pid,camid,modality\na.jpg,1,1,visible\n")
    with pytest.raises(InputError, match="no column spectrum"):
        synthetic.load(tmp_path)


def test_presets_split_identities_in_full():
    own = [layout.proportions for layout in LAYOUTS.values() if layout.proportions is not None]
    for preset in (*PRESETS.values(), *own):
        splits = preset.split_ids()
        assert [len(splits[s]) for s in ("train", "val", "test")] == [preset.train, preset.val, preset.test]
        assert [pid for pids in splits.values() for pid in pids] == list(range(1, 1 + sum(map(len, splits.values()))))
