"""`vireid embed`: order, bad files, runs that are killed and go on, the engines' equal output."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import psutil
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import vireid
from vireid import embed
from vireid.cli import app
from vireid.embed import embed_files, find_images
from vireid.embed_parts import Job, on_threads
from vireid.errors import InputError
from vireid.onnx_embedder import CARD, OnnxEmbedder
from vireid.records import Modality


@pytest.fixture(scope="module")
def crops(manifest, tmp_path_factory):
    """Eleven crops, of which the fourth and the ninth cannot be read."""
    folder = tmp_path_factory.mktemp("crops")
    for k, source in enumerate(sorted(manifest.glob("infrared_*.jpg"))[:11]):
        (folder / f"{k:02d}.jpg").write_bytes(b"no" if k in (3, 8) else source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A model that opens in no time: the mean colour of each row, as an ONNX graph."""
    file = tmp_path_factory.mktemp("model") / "rows.onnx"
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["rows"], axes=[2, 3], keepdims=0),
        helper.make_node("LpNormalization", ["rows"], ["embedding"], axis=1, p=2),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 16, 8, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph(nodes, "rows", [images], [embedding])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {CARD: json.dumps({"image_size": [16, 8]}), "modality": "infrared"})
    onnx.save(model, file)
    return Job(file, Modality.INFRARED, batch_size=2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(embed, "PART", 4)


@pytest.fixture(scope="module")
def whole(job, crops, tmp_path_factory):
    """The table of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "night.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "PART", 4)
        embed_files(job, [crops], out)
    return out


def test_rows_are_in_order_and_bad_files_are_listed(job, crops, whole):
    frame = pd.read_parquet(whole)
    good = [path for path in sorted(crops.iterdir()) if path.stem not in ("03", "08")]
    assert frame["path"].tolist() == [str(path) for path in good]
    assert set(frame["modality"]) == {"infrared"}
    vectors = np.stack(frame["embedding"])
    assert vectors == pytest.approx(OnnxEmbedder(job.model).embed(good), abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    skipped = pd.read_csv(whole.with_name("night.parquet.skipped.csv"))
    assert skipped["path"].tolist() == [str(crops / "03.jpg"), str(crops / "08.jpg")]
    assert skipped["reason"].str.contains("cannot be decoded").all()
    assert sorted(p.name for p in whole.parent.iterdir()) == ["night.parquet", "night.parquet.skipped.csv"]


def test_images_are_found_through_links_once_and_not_where_hidden(tmp_path):
    for name in ("night/a.jpg", "night/.thumbs/t.jpg", "night/.h.jpg", "disk/b.png", "disk/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "night" / "cam2").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "night")
    night = tmp_path / "night"
    assert find_images([night]) == [night / "a.jpg", night / "cam2" / "b.png"]


def test_the_vectors_of_a_bundle_do_not_depend_on_the_number_of_threads(run, crops, tmp_path):
    job = Job(run / "last.safetensors", Modality.INFRARED, batch_size=2)
    for threads in (1, 3):
        embed_files(job, [crops], tmp_path / f"{threads}.parquet", partial(on_threads, threads=threads))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    frame = pd.read_parquet(tmp_path / "1.parquet")
    expected = vireid.load(job.model).embed(frame["path"], "infrared")
    assert np.stack(frame["embedding"]) == pytest.approx(expected, abs=1e-5)


KILLED = """
import os, signal
from pathlib import Path
from vireid import embed
from vireid.embed_parts import Job
from vireid.records import Modality

embed.PART = 4

def die(done, total):
    if done > 6:
        os.kill(os.getpid(), signal.SIGKILL)

job = Job(Path({model!r}), Modality.INFRARED, batch_size=2)
embed.embed_files(job, [Path({crops!r})], Path({out!r}), progress=die)
"""


def test_a_killed_run_goes_on_to_the_same_bytes(job, crops, whole, tmp_path):
    out = tmp_path / "night.parquet"
    script = KILLED.format(model=str(job.model), crops=str(crops), out=str(out))
    killed = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(InputError, match=r"unfinished run with another modality, another batch size: repeat its"):
        embed_files(Job(job.model, Modality.VISIBLE, 3), [crops], out)
    with pytest.raises(InputError, match="with another images"):
        embed_files(job, [crops / "00.jpg"], out)
    times = (crops / "00.jpg").stat().st_atime_ns, (crops / "00.jpg").stat().st_mtime_ns
    os.utime(crops / "00.jpg", ns=(times[0], times[1] + 1))
    with pytest.raises(InputError, match="with another images"):
        embed_files(job, [crops], out)
    os.utime(crops / "00.jpg", ns=times)
    seen = []
    done, bad = embed_files(job, [crops], out, progress=lambda done, total: seen.append((done, total)))
    assert (done, len(bad)) == (9, 2)
    assert seen[0] == (6, 11)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["night.parquet", "night.parquet.skipped.csv"]


def test_parts_without_their_plan_are_not_trusted(job, crops, whole, tmp_path):
    parts = tmp_path / "night.parquet.parts"
    parts.mkdir()
    (parts / "part-000000.parquet").write_bytes(b"half a file")
    (parts / "notes.txt").write_text("mine")
    embed_files(job, [crops], tmp_path / "night.parquet")
    assert (tmp_path / "night.parquet").read_bytes() == whole.read_bytes()
    assert [file.name for file in parts.iterdir()] == ["notes.txt"]


def test_a_place_has_one_writer(job, crops, tmp_path):
    def again(done, total):
        with pytest.raises(InputError, match=r"another process is writing .*night\.parquet\.parts: wait for it"):
            embed_files(job, [crops], tmp_path / "night.parquet")

    assert embed_files(job, [crops], tmp_path / "night.parquet", progress=again)[0] == 9


def test_a_run_without_a_readable_file_leaves_nothing(job, crops, tmp_path):
    with pytest.raises(InputError, match=r"none of 1 files .* the first: image .*03\.jpg cannot be decoded"):
        embed_files(job, [crops / "03.jpg"], tmp_path / "none.parquet")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_first_bad_files(run, crops, tmp_path):
    for k in range(7):
        (tmp_path / f"bad{k}.jpg").write_bytes(b"no")
    out = tmp_path / "out.parquet"
    arguments = ["embed", str(run / "last.safetensors"), str(crops), str(tmp_path), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--precision", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert result.output.count("skipped:") == 5
    assert f"9 embeddings in {out}, 9 files skipped, listed in {out}.skipped.csv" in result.output


def test_a_name_that_is_not_utf_8_is_skipped_and_can_be_printed(job, crops, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes((crops / "00.jpg").read_bytes())
    done, bad = embed_files(job, [crops / "00.jpg", odd], tmp_path / "night.parquet")
    assert (done, bad) == (1, [f"image {tmp_path}/caf\\xe9.jpg has a name that is not UTF-8: rename it"])


@pytest.mark.parametrize("out", ["", ".", "/", ".."])
def test_a_folder_is_refused_before_the_work(job, crops, out):
    with pytest.raises(InputError, match="is a folder: name a Parquet file in it"):
        embed_files(job, [crops], Path(out), engine=None)


@pytest.mark.parametrize(
    ("model", "precision", "sentence"),
    [("m.onnx", "bfloat16", "m.onnx has its precision inside"), ("none.safetensors", "auto", "there is no model")],
)
def test_models_that_cannot_be_used_are_named(model, precision, sentence, crops, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"graph")
    with pytest.raises(InputError, match=sentence):
        embed_files(Job(tmp_path / model, Modality.INFRARED, 2, precision), [crops], tmp_path / "out.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, two processes, little memory."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_ray_gives_the_same_table_though_a_worker_is_killed(cluster, job, crops, whole, tmp_path, monkeypatch):
    from vireid.embed_ray import on_ray

    killed = []

    def kill_one(done, total):
        processes = [] if killed else psutil.Process().children(recursive=True)
        for process in processes:
            if not killed and any("MapWorker" in word for word in process.cmdline()):
                process.kill()
                killed.append(process)

    monkeypatch.setattr(embed, "PART", 2)
    out = tmp_path / "night.parquet"
    done, bad = embed_files(job, [crops], out, partial(on_ray, workers=2), kill_one)
    assert (done, len(bad), len(killed)) == (9, 2, 1)
    same, other = pd.read_parquet(whole), pd.read_parquet(out)
    assert other["path"].tolist() == same["path"].tolist()
    assert np.array_equal(np.stack(other["embedding"]), np.stack(same["embedding"]))


def test_an_error_in_a_ray_worker_is_one_sentence(cluster, crops, tmp_path):
    from vireid.embed_ray import on_ray

    (tmp_path / "m.onnx").write_bytes(b"no")
    job = Job(tmp_path / "m.onnx", Modality.INFRARED)
    with pytest.raises(InputError, match=r"m\.onnx cannot be opened"):
        embed_files(job, [crops], tmp_path / "out.parquet", partial(on_ray, workers=1))
