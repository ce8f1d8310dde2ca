"""The gallery's commands: help with examples, one path through all of them, one sentence an error."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from vireid.cli import app
from vireid.errors import InputError
from vireid.gallery import Filter, Gallery

USE = ["--purpose", "lost child", "--case", "7"]
COMMANDS = [
    *(["gallery", name] for name in ("create", "add", "search", "delete", "erase", "retain")),
    *(["gallery", name] for name in ("export", "stats", "maintain")),
    ["gallery", "cameras", "list"],
    ["gallery", "cameras", "describe"],
    ["audit", "verify"],
    ["audit", "export"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["calibrate"],
]


def call(*arguments):
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_every_help_text_has_an_example():
    for command in COMMANDS:
        output = " ".join(call(*command, "--help").output.replace("│", " ").split())
        assert f"vireid {' '.join(command)}" in output, command


def test_from_crops_to_an_answer_and_back_to_nothing(run, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("vireid.cli_gallery.console.width", 200)
    place = ["--gallery", tmp_path / "station"]
    bundle = run / "last.safetensors"
    added = call("gallery", "add", manifest, *place, "--bundle", bundle, "--camera", "1=gate").output
    assert "96 items" in added
    call("gallery", "cameras", "describe", "gate", *place, "--place", "north", "--purpose", "p", "--legal-basis", "l")
    stats = call("gallery", "stats", *place).output
    assert "96 items (48 infrared, 48 visible), 96 tracks" in stats
    assert "not calibrated" in stats
    table = call("calibrate", *place, "--root", manifest, "--target-fpr", 0.01, "--figure", tmp_path / "roc.png").output
    assert "infrared-visible" in table
    with Image.open(tmp_path / "roc.png") as figure:
        assert figure.width > 400
    sheet = tmp_path / "sheet.html"
    query = ["gallery", "search", manifest / "infrared_3_0.jpg", *place, "--among", "visible"]
    found = call(*query, *USE, "--top", 5, "--below", "--sheet", sheet).output
    assert "gate" in found
    assert sheet.exists()
    with Gallery.open(tmp_path / "station") as gallery:
        item = gallery.items(Filter(modality="infrared"), limit=1)[0]
    assert item.id not in call("gallery", "search", "--item", item.id, *place, *USE, "--below").output
    call("gallery", "export", "--track", item.track, *place, *USE, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["items"][0]["id"] == item.id
    call("gallery", "erase", "--track", item.track, *place, *USE)
    key = call("keys", "create", *place, "--user", "ada", "--role", "operator").output.split()[2]
    assert "ada" in call("keys", "list", *place).output
    call("keys", "revoke", key, *place)
    call("gallery", "delete", *place, "--camera", "gate", *USE, "--receipt", tmp_path / "receipt.json")
    assert json.loads((tmp_path / "receipt.json").read_text())["items"] == 48
    call("gallery", "retain", *place)
    call("gallery", "maintain", *place)
    call("gallery", "delete", *place, "--everything", *USE)
    assert not (tmp_path / "station").exists()
    call("audit", "export", *place, "--out", tmp_path / "audit.jsonl")
    entries = [json.loads(line)["entry"]["action"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert entries[:2] == ["create", "ingest"]
    assert entries.count("search") == 2
    assert {"create key", "revoke key", "describe camera", "export", "erase", "delete", "retain", "destroy"} < set(
        entries
    )
    for log in (place, ["--file", tmp_path / "audit.jsonl"]):
        assert f"{len(entries)} entries in order" in call("audit", "verify", *log).output


def test_audit_verify_fails_loudly(tmp_path):
    with Gallery.create(tmp_path / "g", dim=4) as gallery:
        gallery.configure(name="h")
    log = tmp_path / "log.jsonl"
    call("audit", "export", "--gallery", tmp_path / "g", "--out", log)
    noted = call("audit", "verify", "--file", log, "--noted", "0" * 64)
    assert (noted.exit_code, "cut short" in noted.output) == (1, True)
    log.write_text(log.read_text().replace("create", "search"))
    broken = call("audit", "verify", "--file", log)
    assert (broken.exit_code, "entry 1 is broken" in broken.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gallery", "stats", "--gallery", "/nowhere"], "there is no gallery at /nowhere"),
        (["gallery", "search", "--gallery", "/nowhere"], "search with a picture or with --item ID"),
        (["gallery", "search", "x.jpg", "--gallery", "/nowhere", "--start", "2026-05-03"], "start"),
        (["gallery", "search", "x.jpg", "--gallery", "/nowhere", "--among", "sonar"], "unknown modality 'sonar'"),
        (["gallery", "delete", "--gallery", "/nowhere", "--everything", "--camera", "c"], "leave the conditions out"),
        (["audit", "verify"], "name a gallery or an exported log"),
        (["audit", "verify", "--file", "/nowhere.jsonl"], "no such exported log"),
        (["audit", "verify", "--gallery", "/nowhere"], "there is no audit log"),
    ],
)
def test_errors_name_the_thing(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        call(*arguments)
