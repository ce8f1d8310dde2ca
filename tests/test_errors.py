"""The catalogue of errors: every row of docs/errors.md is run as it stands."""

import errno
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import trees
from vireid.cli import main
from vireid.files import replacing

PAGE = (Path(__file__).parent.parent / "docs" / "errors.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^\| what is wrong .*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
ROWS = [line.strip("| ").split(" | ") for lines in TABLES for line in lines.splitlines()]
COMMANDS = [(wrong, command.strip("`"), sentence) for wrong, command, sentence in (r for r in ROWS if len(r) == 3)]
REQUESTS = [(*row[:2], row[2].strip("`"), *row[3:]) for row in ROWS if len(row) == 5]
BROKEN = {"the disk is full": errno.ENOSPC, "a folder that may not be written": errno.EACCES}
"""Rows for which the disk answers with an error."""


def says(sentence: str) -> re.Pattern:
    """A row's sentence, in which `…` is any text."""
    return re.compile(re.escape(sentence).replace("…", ".*"))


def test_every_row_of_the_page_is_run():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    assert len(COMMANDS) + len(REQUESTS) == len(rows)
    assert len({command for _, command, _ in COMMANDS}) == len(COMMANDS)
    assert BROKEN.keys() <= {wrong for wrong, *_ in COMMANDS}


@pytest.fixture(scope="module")
def place(tmp_path_factory, run, manifest):
    """The folder in which the page's commands are given."""
    from vireid.gallery import Gallery

    place = tmp_path_factory.mktemp("place")
    (place / "run").symlink_to(run)
    (place / "crops").symlink_to(manifest)
    for folder in ("empty", "locked", "torn"):
        (place / folder).mkdir()
    trees.write_regdb(place / "RegDB", 2, 2)
    write_manifests(place, manifest)
    write_models(place, (run / "last.safetensors").read_bytes())
    write_features(place)
    texts = {"broken.yaml": "a: [b\n", "list.yaml": "- a\n", "agw.yaml": "method: agw\n", "text.avi": "no video" * 99}
    Image.fromarray(np.full((64, 32), 30000, np.uint16)).save(place / "deep.png")
    (place / "latin.yaml").write_bytes(b"method: agw  # caf\xe9\n")
    for name, text in {**texts, "text.onnx": "x", "note.txt": "x", "zero.jpg": ""}.items():
        (place / name).write_text(text)
    Gallery.create(place / "station", bundle=run / "last.safetensors").close()
    Gallery.create(place / "plain", dim=4).close()
    return place


def write_manifests(place, manifest):
    trees.write_manifest(place / "no-camid", ["a.jpg,1,visible"], "path,pid,modality")
    trees.write_manifest(place / "thermal", ["a.jpg,1,1,thermal"])
    trees.write_manifest(place / "outside", ["../a.jpg,1,1,visible"])
    trees.write_manifest(place / "untested", ["gone.jpg,1,1,visible,train"], "path,pid,camid,modality,split")
    trees.write_manifest(place / "torn", ["a.jpg,1,1,visible", "b.jpg,1,2,infrared"])
    picture = (manifest / "visible_0_0.jpg").read_bytes()
    (place / "torn" / "a.jpg").write_bytes(picture)
    for name in ("torn/b.jpg", "torn.jpg"):
        (place / name).write_bytes(picture[: len(picture) // 2])


def write_models(place, bundle):
    onnx = pytest.importorskip("onnx")
    (place / "text.safetensors").write_text("hello")
    (place / "torn.safetensors").write_bytes(bundle[: len(bundle) // 3])
    torch.save({"x": torch.zeros(1)}, place / "pickle.safetensors")
    save_file({"x": torch.zeros(1)}, place / "foreign.safetensors")
    save_file({"x": torch.zeros(1)}, place / "old.safetensors", metadata={"vireid": '{"method": "agw"}'})
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), place / "foreign.onnx")


def write_features(place):
    features, columns = np.ones((4, 2), np.float32), {"pid": [1, 2, 1, 2], "camid": [3, 3, 1, 2]}
    columns["modality"] = ["infrared", "infrared", "visible", "visible"]
    bad = features.copy()
    bad[1, 0] = np.nan
    np.savez(place / "nan.npz", features=bad, **columns)
    np.savez(place / "fraction.npz", features=features, **{**columns, "pid": [1, 2.5, 1, 2]})
    np.savez(place / "uneven.npz", features=features[:3], **columns)
    np.savez(place / "objects.npz", features=np.array([{}], object), **columns)
    np.savez(place / "lacks.npz", features=features, pid=columns["pid"])
    np.savez(place / "visible.npz", features=features, **{**columns, "modality": ["visible"] * 4})
    (place / "features.pkl").touch()


def listing(place):
    """All that a refused command must leave as it is; SQLite's own files may stay."""
    found = {str(path.relative_to(place)) for path in [*place.rglob("*"), *(place / "run").rglob("*")]}
    return {name for name in found if not name.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize(("wrong", "command", "sentence"), COMMANDS, ids=[command for _, command, _ in COMMANDS])
def test_a_wrong_command_gets_its_sentence(wrong, command, sentence, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    if wrong in BROKEN:
        error = OSError(BROKEN[wrong], os.strerror(BROKEN[wrong]), "locked")
        monkeypatch.setattr("vireid.files.os.fsync", lambda descriptor: (_ for _ in ()).throw(error))
    before = listing(place)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says(f"error: {sentence}").fullmatch(lines[0]), lines[0]
    assert listing(place) == before


def test_a_full_disk_is_known_by_the_words_of_safetensors(tmp_path):
    from safetensors import SafetensorError

    from vireid.errors import InputError

    with pytest.raises(InputError, match="is full: a was not written"), replacing(tmp_path / "a"):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")


def test_an_unknown_system_error_keeps_its_traceback(monkeypatch):
    def fail():
        raise OSError(errno.EIO, "Input/output error", "x")

    monkeypatch.setattr("vireid.cli.app", fail)
    with pytest.raises(OSError, match="Input/output"):
        main()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    from serve_site import Site

    site = Site(tmp_path_factory.mktemp("errors") / "gallery", failures=10**6)
    yield site
    site.app.state.service.close()


HOLDERS = {"none": None, "wrong": None, "viewer": "vera", "operator": "olga", "admin": "ada"}


def body(words: str, place: Path) -> dict:
    """What a row sends: JSON, or a form whose files are `name=@file`."""
    if not words or words.startswith("{"):
        return {"content": words, "headers": {"content-type": "application/json"}}
    fields = dict(word.split("=", 1) for word in words.split())
    files = {name: (place / value[1:]).read_bytes() for name, value in fields.items() if value.startswith("@")}
    return {"files": files, "data": {name: value for name, value in fields.items() if name not in files}}


@pytest.mark.parametrize(("wrong", "key", "request_", "status", "sentence"), REQUESTS)
def test_a_wrong_request_gets_its_sentence(wrong, key, request_, status, sentence, site, place):
    method, path, *words = request_.split(" ", 2)
    sent = body("".join(words), place)
    if key == "wrong":
        sent["headers"]["authorization"] = "Bearer vireid_0123456789ab_secret"
    before = site.state()
    answer = site.ask(method, path, HOLDERS[key], **sent)
    assert answer.status_code == int(status), answer.text
    assert set(answer.json()) == {"detail"}
    assert says(sentence).fullmatch(answer.json()["detail"]), answer.json()["detail"]
    assert site.state() == before
