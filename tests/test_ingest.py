"""Ingest: passages become tracks, kills lose and duplicate nothing, damage and mistakes are told."""

import os
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO, FileIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vireid.data.images import decode
from vireid.errors import InputError
from vireid.gallery import Filter, Gallery, Use
from vireid.records import Modality
from vireid.synth.difficulty import PRESETS
from vireid.synth.shot import Shot, take

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("norfair")

from vireid.ingest import Detections, Plan, Video, folder, footage, ingest  # noqa: E402
from vireid.ingest.passages import Follower  # noqa: E402
from vireid.ingest.video import fingerprint  # noqa: E402

WIDTH, HEIGHT, FPS, FRAMES = 160, 120, 10, 100
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
WALKS = [(0, 30, 4, 0), (14, 42, 30, 1), (62, 95, 10, 2)]
"""(first frame, frame after the last, row of the head, which person); nobody is in view from 42 to 61."""


def scene(night_from=FRAMES):
    """Yield frames (H, W, 3) RGB: rendered people walk over a plain yard; grey from a frame on."""
    shots = [take(Shot(pid, "visible", 0, 1), 0, PRESETS["demo"].difficulty).pixels for pid in range(3)]
    people_ = [np.array(Image.fromarray(shot).resize((24, 48))) for shot in shots]
    for number in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), (225, 235, 205), dtype=np.uint8)
        for first, end, top, person in WALKS:
            if first <= number < end:
                left = 6 + 3 * (number - first)
                frame[top : top + 48, left : left + 24] = np.minimum(people_[person], 170)
        yield frame if number < night_from else np.repeat(frame.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "yard.avi", scene())


def find(image):
    """Whatever is darker than the yard."""
    mask = (image.max(2) < 190).astype(np.uint8)
    boxes = cv2.connectedComponentsWithStats(cv2.dilate(mask, np.ones((5, 5))))[2][1:, :4]
    return Detections.of(np.column_stack([boxes, np.full(len(boxes), 0.9)])[boxes[:, 3] > 30])


def embed(images, modality):
    """Mean colour of the upper and lower half, and the modality, as a unit vector."""
    halves = [np.concatenate([i[: len(i) // 2].mean((0, 1)), i[len(i) // 2 :].mean((0, 1))]) for i in images]
    vectors = np.column_stack([np.array(halves), np.full((len(images), 2), 50.0 * modality)])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def run(folder, source, detector=find, **options):
    """Ingest into the gallery in `folder`, made when it is not there."""
    options = {"camera": ("gate",), "modality": "visible", "start": NOON, **options}
    make = Gallery.open if folder.exists() else lambda place: Gallery.create(place, dim=8, purpose="test")
    with make(folder) as gallery:
        return ingest(gallery, source, Plan.of(**options), detector=detector, embed=embed)


def content(folder):
    """Return all that is stored, but the time of storing: {id: (item, vector, JPEG)}."""
    with Gallery.open(folder) as gallery:
        items = gallery.items(limit=10_000)
        vectors = gallery.vectors([item.id for item in items])
        plain = [item.model_dump(exclude={"added"}) for item in items]
        return {
            item.id: (row, vector.tolist(), gallery.crop(item.id))
            for item, row, vector in zip(items, plain, vectors, strict=True)
        }


def test_each_passage_is_one_track_with_times_boxes_and_crops(tmp_path, video):
    outcome = run(tmp_path / "g", video, crops_per_track=3)
    assert asdict(outcome.tally) == {
        "frames": FRAMES, "damaged": 0, "detections": 91, "tracks": 3, "infrared": 0, "items": 9,
    }  # fmt: skip
    with Gallery.open(tmp_path / "g") as gallery:
        tracks = gallery.tracks()
        assert [int(track.id.rsplit("/", 1)[1]) for track in tracks] == [1, 2, 3]
        for track, (first, end, top, _) in zip(tracks, WALKS, strict=True):
            assert (track.camera, track.modality) == ("gate", Modality.VISIBLE)
            for item in gallery.track_items(track.id):
                assert first <= item.frame < end
                assert item.time == NOON + timedelta(seconds=item.frame / FPS)
                assert abs(item.box[1] - top) <= 4
                assert item.source == str(video)
                with Image.open(BytesIO(gallery.crop(item.id))) as picture:
                    assert picture.size == item.box[2:]
        entry = gallery.audit.entries()[-1].entry
        assert entry["action"] == "ingest"
        assert entry["details"]["tracks"] == 3
        assert entry["details"]["complete"]


@pytest.fixture(scope="module", params=[10_000, 12])
def undisturbed(request, tmp_path_factory, video):
    """Longest segment, what a whole run stores, and what it returns."""
    folder = tmp_path_factory.mktemp("whole") / "g"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footage, "MAX_SEGMENT", request.param)
        outcome = run(folder, video, start=None)
    return request.param, content(folder), outcome


@pytest.mark.parametrize("kills", [(70,), (20, 48)])
def test_killed_and_resumed_equals_undisturbed(tmp_path, video, undisturbed, monkeypatch, kills):
    longest, stored, outcome = undisturbed
    monkeypatch.setattr(footage, "MAX_SEGMENT", longest)
    monkeypatch.setattr(footage, "COMMIT_EVERY", 10)
    for number in kills:
        killed_by_itself(number, tmp_path / "g", video, {"MAX_SEGMENT": longest, "COMMIT_EVERY": 10}, batch=3)
        assert content(tmp_path / "g").items() <= stored.items()
    assert content(tmp_path / "g")
    looked_at = []
    count = lambda image: looked_at.append(1) or find(image)  # noqa: E731
    resumed = run(tmp_path / "g", video, detector=count, start=None)
    assert content(tmp_path / "g") == stored
    assert resumed.tally == outcome.tally
    assert len(looked_at) <= FRAMES - sum(kills) + 10 * len(kills)
    assert "resumed" in resumed.notices[0]


def test_what_was_erased_does_not_come_back_when_a_run_is_resumed(tmp_path, video, monkeypatch):
    monkeypatch.setattr(footage, "COMMIT_EVERY", 10)
    monkeypatch.setattr(Follower, "empty", False)  # somebody is always in view: all is one open segment
    killed_by_itself(70, tmp_path / "g", video, {"COMMIT_EVERY": 10, "Follower.empty": False})
    with Gallery.open(tmp_path / "g") as gallery:
        first, second = (track.id for track in gallery.tracks())
        gallery.erase(Use(purpose="", case="", user="ada"), track=first)
    killed_by_itself(15, tmp_path / "g", video, {"COMMIT_EVERY": 10, "Follower.empty": False})
    resumed = run(tmp_path / "g", video, start=None)
    assert resumed.tally.tracks == 3
    with Gallery.open(tmp_path / "g") as gallery:
        left = {track.id for track in gallery.tracks()}
    assert first not in left
    assert second in left
    assert len(left) == 2


def test_a_place_that_is_never_empty_is_cut_into_segments(undisturbed):
    longest, _, outcome = undisturbed
    assert outcome.tally.tracks == 3 if longest > FRAMES else 6 <= outcome.tally.tracks <= 12


def fatal(number):
    """A detector that kills its process at the n-th frame that it is asked about."""
    asked = []

    def detect(image):
        asked.append(1)
        if len(asked) > number:
            os.kill(os.getpid(), 9)
        return find(image)

    return detect


def killed_by_itself(number, folder, source, settings, **options):
    """Ingest in a process of its own, which dies; a fork of this one would lack the threads that FFmpeg has here."""
    process = get_context("spawn").Process(target=doomed, args=(number, folder, source, settings, options))
    process.start()
    process.join()
    assert process.exitcode == -9


def doomed(number, folder, source, settings, options):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(f"vireid.ingest.footage.{name}", value)
        run(folder, source, detector=fatal(number), start=None, **options)


def test_a_video_that_is_done_is_left_alone_until_restarted(tmp_path, video):
    folder = tmp_path / "g"
    first = run(folder, video)
    with Gallery.open(folder) as gallery:
        gallery.erase(Use(purpose="request", case="1"), track=gallery.tracks()[0].id)
    again = run(folder, video, detector=None)
    assert again.tally == first.tally
    assert "already" in again.notices[0]
    assert len(content(folder)) == 8
    with pytest.raises(InputError, match="with every 1, not 2: repeat"):
        run(folder, video, every=2)
    run(folder, video, restart=True)
    assert len(content(folder)) == 12


@pytest.mark.parametrize("name", ["2026-05-03T12:00:00.avi", "pipe:0"])
def test_a_colon_in_a_name_is_no_protocol(tmp_path, video, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(video.read_bytes())
    with Video(Path(name)) as opened:
        assert next(opened.read()).index == 0


def test_a_name_that_is_not_utf_8_is_said(tmp_path, video):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff.avi"))
    path.write_bytes(video.read_bytes())
    with pytest.raises(InputError, match=r"n\\xff\.avi has a name that is not UTF-8: rename it"):
        run(tmp_path / "g", path)


def test_a_picture_whose_name_is_not_utf_8_is_skipped(tmp_path, crops):
    (crops / "0002/a.png").rename(Path(os.fsdecode(os.fsencode(crops) + b"/\xff.png")))
    outcome = run(tmp_path / "g", crops)
    assert (outcome.tally.damaged, outcome.tally.items) == (2, 3)
    assert r"\xff.png has a name that is not UTF-8: rename it" in "".join(outcome.notices)


def test_damaged_frames_are_counted_and_skipped(tmp_path, video):
    data = bytearray(video.read_bytes())
    chunks = [match.start() for match in re.finditer(b"00dc", data[: data.index(b"idx1")])]
    for number in (15, 16, 70):
        size = int.from_bytes(data[chunks[number] + 4 : chunks[number] + 8], "little")
        data[chunks[number] + 8 : chunks[number] + 8 + size] = bytes(size)
    (tmp_path / "bad.avi").write_bytes(data)
    outcome = run(tmp_path / "g", tmp_path / "bad.avi")
    assert (outcome.tally.frames, outcome.tally.damaged, outcome.tally.tracks) == (FRAMES, 3, 3)
    for row, *_ in content(tmp_path / "g").values():
        assert row["frame"] not in (15, 16, 70)
        assert row["time"] == NOON + timedelta(seconds=row["frame"] / FPS)


def test_a_video_cut_short_gives_what_it_holds(tmp_path, video):
    (tmp_path / "short.avi").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    outcome = run(tmp_path / "g", tmp_path / "short.avi")
    assert 30 < outcome.tally.frames < 70
    assert any("is cut short" in notice for notice in outcome.notices)


def test_a_file_that_cannot_be_read_on_is_said_and_not_done(tmp_path, video, monkeypatch):
    class FailingDisk(FileIO):
        whole = True

        def read(self, size=-1):
            if not self.whole and self.tell() > video.stat().st_size // 2:
                raise av.error.OSError(5, "Input/output error")
            return super().read(size)

    def open_failing(name, real=av.open):
        disk = FailingDisk(name)
        container = real(disk)
        disk.whole = False
        return container

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", open_failing)
        with pytest.raises(InputError, match=r"yard.avi cannot be read on after \d+ frames \(Input/output error\)"):
            run(tmp_path / "g", video)
    outcome = run(tmp_path / "g", video)
    assert (outcome.tally.frames, outcome.tally.tracks) == (FRAMES, 3)


def test_auto_decides_by_track_when_the_camera_switches_to_infrared(tmp_path):
    source = write_video(tmp_path / "dusk.avi", scene(night_from=35))
    outcome = run(tmp_path / "g", source, modality="auto")
    with Gallery.open(tmp_path / "g") as gallery:
        assert [track.modality for track in gallery.tracks()] == [Modality.VISIBLE, Modality.VISIBLE, Modality.INFRARED]
        assert all(item.frame < 35 for item in gallery.items(Filter(modality="visible")))
        night = gallery.items(Filter(modality="infrared"))[0].id
        assert gallery.vectors([night])[0, 6] > 0.1
        assert np.ptp(np.asarray(Image.open(BytesIO(gallery.crop(night)))), axis=2).max() == 0
    assert any("2 tracks as visible and 1 as infrared" in notice for notice in outcome.notices)


def test_no_persons_is_a_notice_and_done(tmp_path, video):
    nobody = lambda image: Detections.of([])  # noqa: E731
    outcome = run(tmp_path / "g", video, detector=nobody)
    assert outcome.tally.items == 0
    assert any("no persons found in yard.avi" in notice for notice in outcome.notices)


def test_options_reach_the_run(tmp_path, video):
    seen = []
    small = lambda image: seen.append(image) or find(image)  # noqa: E731
    outcome = run(tmp_path / "g", video, detector=small, every=3, max_frames=30, min_height=60)
    assert len(seen) == 10
    assert asdict(outcome.tally) == {
        "frames": 30, "damaged": 0, "detections": 0, "tracks": 0, "infrared": 0, "items": 0,
    }  # fmt: skip


def write_mp4(path, turn=0, created="2026-01-02T03:04:05Z"):
    with av.open(str(path), "w") as container:
        container.metadata["creation_time"] = created
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        picture = np.zeros((64, 96, 3), dtype=np.uint8)
        picture[:, :24] = 255
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_start_comes_from_metadata_else_from_the_files_last_change(tmp_path, video):
    outcome = run(tmp_path / "g", write_mp4(tmp_path / "phone.mp4"), start=None)
    assert outcome.notices[0].endswith("2026-01-02 03:04:05+00:00")
    copy = tmp_path / "yard.avi"
    copy.write_bytes(video.read_bytes())
    os.utime(copy, (NOON.timestamp(), NOON.timestamp()))
    outcome = run(tmp_path / "h", copy, start=None)
    assert "no start time known: 2026-05-03 11:59:50+00:00 supposed" in outcome.notices[0]
    with Gallery.open(tmp_path / "h") as gallery:
        assert gallery.items()[0].time.year == 2026


@pytest.mark.parametrize(("turn", "bright"), [(0, np.s_[:, :24]), (90, np.s_[-24:, :]), (-90, np.s_[:24, :])])
def test_frames_are_turned_upright(tmp_path, turn, bright):
    with Video(write_mp4(tmp_path / "phone.mp4", turn)) as opened:
        frame = next(opened.read())
    mask = np.zeros(frame.image.shape[:2], dtype=bool)
    mask[bright] = True
    assert frame.image.shape[:2] == ((96, 64) if turn else (64, 96))
    assert opened.height == len(frame.image)
    assert frame.image[mask].mean() > 200
    assert frame.image[~mask].mean() < 50


def test_reading_from_a_frame_on_gives_the_same_frames(video):
    with Video(video) as one, Video(video) as other:
        late = [frame for frame in one.read() if frame.index >= 40 and frame.index % 7 == 0]
        for a, b in zip(late, other.read(start=40, every=7), strict=True):
            assert (a.index, a.seconds) == (b.index, b.seconds)
            assert np.array_equal(a.image, b.image)


def test_fingerprint_is_of_the_content(tmp_path, video):
    copy, other = tmp_path / "copy.avi", tmp_path / "other.avi"
    data = video.read_bytes()
    copy.write_bytes(data)
    other.write_bytes(data[:-1] + b"?")
    assert fingerprint(copy) == fingerprint(video) != fingerprint(other)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("text.avi", b"hello, not a video" * 50, "cannot be opened as a video"),
        ("empty.avi", b"", "cannot be opened as a video"),
    ],
)
def test_what_is_no_video_is_said(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "g", tmp_path / name)
    with Gallery.open(tmp_path / "g") as gallery:
        assert not gallery.audit.entries()[-1].entry["details"]["complete"]


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="has no video stream"):
        run(tmp_path / "g", tmp_path / "sound.wav")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"camera": ()}, "0 cameras given: name the one"),
        ({"camera": ("a", "b")}, "2 cameras given"),
        ({"every": 0}, "every: Input should be greater than or equal to 1"),
        ({"modality": "thermal"}, "modality"),
        ({"camera": ("a\nb",)}, "camera"),
        ({"with_persons": True}, "--with-persons would do nothing for a video: leave it out"),
        ({"detector": None, "weights": Path("w.pth")}, "--weights would do nothing for the detector hog"),
    ],
)
def test_bad_options_are_said(tmp_path, video, options, sentence):
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "g", video, **options)


def test_a_gallery_without_a_bundle_is_said(tmp_path, video):
    with (
        Gallery.create(tmp_path / "g", dim=8) as gallery,
        pytest.raises(InputError, match="has no bundle to embed with"),
    ):
        ingest(gallery, video, Plan.of(camera=("gate",)), detector=find)


@pytest.fixture
def crops(tmp_path):
    """A folder of crops: two subfolders, one image beside them, one damaged file."""
    root = tmp_path / "crops"
    frames = list(scene())
    for name, number in [("0001/a.png", 10), ("0001/b.png", 14), ("0002/a.png", 70), ("lone.png", 20)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frames[number][:60]).save(root / name)
    night = np.repeat(frames[75].mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    Image.fromarray(night).save(root / "0002/a.png")
    (root / "0001/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return root


def test_subfolders_are_tracks_and_damaged_files_are_skipped(tmp_path, crops):
    outcome = run(tmp_path / "g", crops, modality="auto", start=None)
    assert asdict(outcome.tally) == {
        "frames": 5, "damaged": 1, "detections": 0, "tracks": 3, "infrared": 1, "items": 4,
    }  # fmt: skip
    assert "broken.jpg cannot be decoded" in outcome.notices[0]
    with Gallery.open(tmp_path / "g") as gallery:
        tracks = {track.id.split("#")[0]: track for track in gallery.tracks()}
        assert (tracks["0001"].items, tracks["0001"].modality) == (2, Modality.VISIBLE)
        assert tracks["0002"].modality is Modality.INFRARED
        assert all(item.time is None for item in gallery.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_frames": 2, "restart": True}, "--max-frames, --restart would do nothing for a folder of pictures"),
        ({"with_persons": True}, "--with-persons would do nothing for a folder of pictures: leave it out"),
    ],
)
def test_folders_refuse_what_has_no_place(tmp_path, crops, options, sentence):
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "g", crops, **options)


def test_a_subfolder_between_its_files_does_not_split_a_track(tmp_path, crops):
    (crops / "0001/aa").mkdir()
    (crops / "0002/a.png").rename(crops / "0001/aa/a.png")
    Image.open(crops / "0001/aa/a.png").save(crops / "0001/b.png")
    assert run(tmp_path / "g", crops, modality="auto", start=None).tally.tracks == 3


@pytest.mark.parametrize("again", ["infrared", "auto"])
def test_a_folder_goes_on_with_what_is_new(tmp_path, crops, monkeypatch, again):
    first = run(tmp_path / "g", crops, modality="infrared")
    before = content(tmp_path / "g")
    Image.open(crops / "lone.png").save(crops / "0002/b.png")
    decoded = []
    monkeypatch.setattr(folder, "decode", lambda path: decoded.append(path.name) or decode(path))
    second = run(tmp_path / "g", crops, modality=again)
    assert decoded == ["broken.jpg", "b.png"]
    assert second.tally == replace(first.tally, frames=6, items=5)
    after = content(tmp_path / "g")
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    assert {row["modality"] for row, *_ in after.values()} == {"infrared"}
    assert {row["time"] for row, *_ in after.values()} == {NOON}


@pytest.mark.parametrize("manifest", [False, True])
def test_where_a_folder_lies_is_not_stored_in_its_ids(tmp_path, crops, manifest):
    options = {"modality": "auto"}
    if manifest:
        write_manifest(crops)
        options["camera"] = ()
    first = run(tmp_path / "g", crops, **options)
    before = content(tmp_path / "g")
    moved = crops.rename(tmp_path / "moved")
    assert run(tmp_path / "g", moved, **options).tally == first.tally
    assert content(tmp_path / "g") == before


def test_subfolders_of_one_name_in_two_folders_are_two_tracks(tmp_path, crops):
    run(tmp_path / "g", crops)
    other = tmp_path / "tuesday/crops"
    for name in ("0001/a.png", "0001/c.png"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 30, 3), 90, np.uint8)).save(other / name)
    run(tmp_path / "g", other)
    Image.open(crops / "lone.png").save(other / "0001/0.png")  # now the first of its track
    run(tmp_path / "g", other)
    with Gallery.open(tmp_path / "g") as gallery:
        assert sorted(track.items for track in gallery.tracks() if track.id.startswith("0001#")) == [2, 3]


@pytest.mark.parametrize("batch", [1, 256])
def test_a_track_under_verification_keeps_no_other_from_being_stored(tmp_path, crops, batch):
    run(tmp_path / "g", crops)
    with Gallery.open(tmp_path / "g") as gallery:
        track = next(track.id for track in gallery.tracks() if track.id.startswith("0001#"))
        gallery.confirmations.propose("sha256:0", track, Use(purpose="why", case="9"))
    for name in ("0001/new.png", "0001/newer.png", "0002/new.png", "0003/new.png"):
        (crops / name).parent.mkdir(exist_ok=True)
        Image.open(crops / "lone.png").save(crops / name)
    outcome = run(tmp_path / "g", crops, batch=batch)
    assert f"2 new pictures of track {track} were left out, as people are verifying it" in outcome.notices[-1]
    assert (outcome.tally.items, outcome.tally.tracks) == (6, 4)
    with Gallery.open(tmp_path / "g") as gallery:
        assert {t.id.split("#")[0]: t.items for t in gallery.tracks()}.items() >= {"0001": 2, "0003": 1}.items()
        assert gallery.count() == 6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"camera": ("yard",)}, "is stored with camera gate, not yard: ingest it as before"),
        ({"modality": "infrared"}, "is stored with modality visible, not infrared"),
        ({"start": NOON + timedelta(hours=1)}, "is stored with time 2026-05-03 12:00:00"),
    ],
)
def test_what_is_stored_is_not_stored_otherwise(tmp_path, crops, options, sentence):
    run(tmp_path / "g", crops, use=Use(purpose="why", case="9"))
    before = content(tmp_path / "g")
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "g", crops, **options)
    assert content(tmp_path / "g") == before
    with Gallery.open(tmp_path / "g") as gallery:
        added = [entry.entry for entry in gallery.audit.entries() if entry.entry["action"] == "add"]
    assert {(entry["purpose"], entry["case"]) for entry in added} == {("why", "9")}


def write_manifest(root):
    rows = "0001/a.png,7,1,visible,2.5\n0001/b.png,-1,2,visible,3\n0002/a.png,7,2,infrared,\n"
    (root / "manifest.csv").write_text("path,pid,camid,modality,timestamp\n" + rows)


@pytest.mark.parametrize("with_persons", [False, True])
def test_manifests_bring_cameras_modality_and_time(tmp_path, crops, with_persons):
    write_manifest(crops)
    options = {"modality": "auto", "camera": ("2=yard",), "with_persons": with_persons}
    run(tmp_path / "g", crops, **options)
    stored = {row["source"].removeprefix(f"{crops}/"): row for row, *_ in content(tmp_path / "g").values()}
    assert {name: row["camera"] for name, row in stored.items()} == {
        "0001/a.png": "1", "0001/b.png": "yard", "0002/a.png": "yard",
    }  # fmt: skip
    assert stored["0001/a.png"]["time"] == NOON + timedelta(seconds=2.5)
    assert stored["0002/a.png"]["time"] is None
    assert stored["0002/a.png"]["modality"] == "infrared"
    persons = [stored[name]["person"] for name in ("0001/a.png", "0001/b.png", "0002/a.png")]
    assert persons == (["7", None, "7"] if with_persons else [None] * 3)
    before = content(tmp_path / "g")
    again = run(tmp_path / "g", crops, **{**options, "with_persons": True})
    told = "2 pictures that are stored keep their person of then, or none: delete them first"
    assert any(told in notice for notice in again.notices) is not with_persons
    assert content(tmp_path / "g") == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"modality": "visible"}, "names the modality of each image: leave --modality out"),
        ({"modality": "auto", "camera": ("gate",)}, "name them by --camera CAMID=NAME, not 'gate'"),
        ({"modality": "auto", "camera": ("--3=gate",)}, "name them by --camera CAMID=NAME, not '--3=gate'"),
        ({"modality": "auto", "camera": ("3= ",)}, "name them by --camera CAMID=NAME, not '3= '"),
        ({"modality": "auto", "camera": (), "every": 2}, "--every would do nothing for a manifest: leave it out"),
    ],
)
def test_manifests_refuse_what_has_no_place(tmp_path, crops, options, sentence):
    write_manifest(crops)
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "g", crops / "manifest.csv", **options)


def test_manifest_timestamps_are_seconds(tmp_path, crops):
    (crops / "manifest.csv").write_text("path,pid,camid,modality,timestamp\n0001/a.png,7,1,visible,1.78e15\n")
    with pytest.raises(InputError, match="write seconds, not milliseconds"):
        run(tmp_path / "g", crops, modality="auto", camera=())


def test_manifest_timestamps_need_a_start(tmp_path, crops):
    write_manifest(crops)
    outcome = run(tmp_path / "g", crops, modality="auto", camera=(), start=None)
    assert "pass --start" in outcome.notices[-1]
    assert all(row["time"] is None for row, *_ in content(tmp_path / "g").values())


def test_the_command_line(tmp_path, video, monkeypatch):
    from typer.testing import CliRunner

    from vireid.cli import app

    class FakeEmbedder:
        embed = staticmethod(embed)

    Gallery.create(tmp_path / "g", dim=8).close()
    monkeypatch.setattr(Gallery, "embedder", lambda self: FakeEmbedder())
    monkeypatch.setattr(footage, "open_detector", lambda name, **options: find)
    arguments = [
        "ingest",
        str(video),
        "--camera",
        "gate",
        "--gallery",
        str(tmp_path / "g"),
        "--start",
        "2026-05-03T12:00Z",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 tracks as visible" in result.output
    assert len(content(tmp_path / "g")) == 12
    for wrong in ([*arguments, "--case", "9" * 3000], ["ingest", str(video), "--gallery", str(tmp_path / "none")]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, InputError)
