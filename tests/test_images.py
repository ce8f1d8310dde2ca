"""Decoding and the image cache."""

import fcntl
import os
import pickle
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

import vireid
from vireid.data.check import broken_images
from vireid.data.images import CachedImages, DecodedImages, cache_folder, cache_key, decode, pixels_of
from vireid.errors import InputError
from vireid.files import alone
from vireid.ingest.crops import prepare
from vireid.records import Modality, Records


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("VIREID_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 255, (20 + i, 10, 3), dtype=np.uint8)).save(tmp_path / name)
    return Records.build(tmp_path, names, range(5), [1] * 5, [0] * 5)


def test_cache_equals_decoding_and_is_reused(records, monkeypatch):
    seen = []
    cached = CachedImages(records, (16, 8), lambda done, total: seen.append((done, total)))
    pixels, sizes = cached.read([3, 0, 3])
    expected, expected_sizes = DecodedImages(records, (16, 8)).read([3, 0, 3])
    assert np.array_equal(pixels, expected)
    assert sizes.tolist() == expected_sizes.tolist() == [[23, 10], [20, 10], [23, 10]]
    assert seen[-1] == (5, 5)
    monkeypatch.setattr("vireid.data.images.decode", None)
    assert np.array_equal(CachedImages(records, (16, 8)).read([3, 0, 3])[0], expected)


def test_images_are_decoded_side_by_side(records, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("vireid.data.images.decode", lambda *arguments: (both.wait(), decode(*arguments))[1])
    assert DecodedImages(records, (16, 8)).read([3, 0])[1].tolist() == [[23, 10], [20, 10]]


def test_a_loader_process_maps_the_cache_and_gets_no_copy(records):
    cached = CachedImages(records, (16, 8))
    sent = pickle.dumps(cached)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert isinstance(received.pixels, np.memmap)
    assert np.array_equal(received.read([3, 0])[0], cached.read([3, 0])[0])


def test_a_cache_is_made_once_and_what_a_killed_process_left_is_cleared(records, monkeypatch):
    key = cache_key(records, (16, 8))
    left, foreign = cache_folder() / f".{key}.17.tmp", cache_folder() / "notes.tmp"
    for folder in (left, foreign):
        folder.mkdir(parents=True)
    made = []
    monkeypatch.setattr("vireid.data.images.decode", lambda path, size: made.append(path) or decode(path, size))
    with ThreadPoolExecutor(3) as pool, warnings.catch_warnings(record=True):
        caches = list(pool.map(lambda _: CachedImages(records, (16, 8)), range(3)))
    assert len(made) == len(records)
    assert {path.name for path in cache_folder().iterdir()} == {key, "notes.tmp"}
    assert all((cache.pixels == caches[0].pixels).all() for cache in caches)


def test_who_waits_for_another_s_cache_says_so(records, monkeypatch):
    other, flock = ExitStack(), fcntl.flock
    other.enter_context(alone(cache_folder()))

    def lock(descriptor, how):
        if not how & fcntl.LOCK_NB:
            other.close()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.warns(UserWarning, match="another process decodes images into the cache: waiting for it"):
        CachedImages(records, (16, 8))


@pytest.mark.parametrize(("name", "length"), [("pixels.npy", None), ("pixels.npy", 500), ("sizes.npy", 0)])
def test_a_damaged_cache_is_made_again(records, name, length):
    pixels = CachedImages(records, (16, 8)).pixels.copy()
    file = cache_folder() / cache_key(records, (16, 8)) / name
    if length is None:
        file.unlink()
    else:
        os.truncate(file, length)
    again = CachedImages(records, (16, 8))
    assert np.array_equal(again.pixels, pixels)
    assert again.sizes.tolist() == [[20 + row, 10] for row in range(5)]


def test_the_cache_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, folder in (("~/images", "images"), ("", ".cache/vireid")):
        monkeypatch.setenv("VIREID_CACHE", given)
        assert cache_folder() == tmp_path / folder


def test_cache_key_contains_what_it_depends_on(records):
    keys = {cache_key(records, (16, 8)), cache_key(records, (8, 16)), cache_key(records.take([0, 1]), (16, 8))}
    Image.new("RGB", (9, 9)).save(records.absolute(0))
    assert cache_key(records, (16, 8)) not in keys
    assert len(keys) == 3


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_bad_images_name_themselves_and_leave_no_cache(records, damage):
    path = records.absolute(2)
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        path.write_text("not an image")
    with pytest.raises(InputError, match=str(path)):
        CachedImages(records, (16, 8))
    assert not cache_folder().exists() or not list(cache_folder().iterdir())


def test_a_format_that_pillow_knows_in_part_is_refused(tmp_path):
    header = struct.pack("<4s7I44x2I4s5I5I", b"DDS ", 124, 0x1007, 4, 4, 0, 0, 0, 32, 4, b"ABCD", *[0] * 10)
    (tmp_path / "a.jpg").write_bytes(header + bytes(64))
    with pytest.raises(InputError, match=r"a\.jpg cannot be decoded \(Unimplemented pixel format"):
        decode(tmp_path / "a.jpg")


def test_grey_images_become_three_equal_channels(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    pixels, size = decode(tmp_path / "grey.png", (8, 8))
    assert size == (8, 8)
    assert pixels.shape == (8, 8, 3)
    assert (pixels == pixels[..., :1]).all()


def test_a_tinted_night_picture_is_embedded_as_galleries_store_it(run, tmp_path):
    tinted = np.random.default_rng(0).integers(0, 256, (64, 32, 1)) * np.array([1, 0.85, 1])
    tinted = tinted.astype(np.uint8)
    grey = prepare(tinted, Modality.INFRARED)
    assert (grey == grey[..., :1]).all()
    Image.fromarray(tinted).save(tmp_path / "tinted.png")
    embedder = vireid.load(run / "last.safetensors")
    pictures = [tinted, tmp_path / "tinted.png", Image.fromarray(tinted)]
    assert np.allclose(embedder.embed(pictures, "infrared"), embedder.embed([grey], "infrared"), atol=1e-3)
    assert not np.allclose(embedder.embed([tinted], "visible"), embedder.embed([grey], "visible"), atol=1e-3)


@pytest.mark.parametrize(("kind", "name"), [("<u2", "a.png"), ("<i4", "a.tif"), ("<f4", "a.tif")])
def test_deep_images_are_refused_not_made_white(tmp_path, kind, name):
    Image.fromarray(np.full((8, 8), 2**15 - 1, kind)).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} cannot be used \(16-bit image: write it as 8-bit grey"):
        decode(tmp_path / name, (8, 8))
    (finding,) = broken_images(Records.build(tmp_path, [name], [1], [1], [1]))
    assert "16-bit image: write it as 8-bit grey" in finding.found


def test_pictures_are_turned_as_their_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        image.paste("red", (0, 0, 30, 20))  # the left half of the file is the upper half of the picture
        image.save(tmp_path / "b.jpg", exif=exif)
    pixels, size = decode(tmp_path / "b.jpg")
    assert (size, pixels.shape) == ((60, 20), (60, 20, 3))
    assert pixels[10, 10, 0] > 200 > 50 > pixels[50, 10, 0]
    with Image.open(tmp_path / "b.jpg") as image:
        assert (pixels_of(image, (60, 20), Modality.VISIBLE) == pixels).all()
        image.save(tmp_path / "c.png", exif=b"no EXIF")
    assert decode(tmp_path / "c.png")[0].shape == (20, 60, 3)


def test_exif_data_that_cannot_be_written_back_still_turn_the_picture(tmp_path):
    entries = [(0x0100, 2, 4, b"abc\0"), (0x0112, 3, 1, struct.pack("<HH", 6, 0))]  # a width in letters, turned
    table = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0)
    Image.new("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg")[1] == (60, 20)
    assert not list(broken_images(Records.build(tmp_path, ["a.jpg"], [1], [1], [1])))


def test_a_full_disk_is_named_before_decoding(records, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"set VIREID_CACHE to a larger disk"):
        CachedImages(records, (16, 8))
