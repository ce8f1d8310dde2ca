"""The command line: exit codes, one sentence an error, every help text with an example."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vireid.cli import app
from vireid.errors import InputError

COMMANDS = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]


def test_every_help_text_has_an_example():
    runner = CliRunner()
    for command in [[name] for name in COMMANDS] + [["data", "check"], ["data", "list"]]:
        result = runner.invoke(app, [*command, "--help"])
        assert result.exit_code == 0, command
        assert f"vireid {' '.join(command)}" in " ".join(result.output.replace("│", " ").split()), command


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "vireid", "evaluate", str(tmp_path / "none"), "--data", "sysu_mm01"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: pass --root DIR, the folder of SYSU-MM01")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "name a method"),
        (["train", "agw", "--data", "atlantis"], "no recipe ships for method agw on data atlantis"),
        (["train", "nope"], "no recipe ships for method nope"),
        (["evaluate", "x", "--root", ".", "--protocol", "a", "--query", "visible"], "not both"),
        (["evaluate", "x", "--root", ".", "--protocol", "a"], "unknown protocol 'a'"),
        (["evaluate", "x", "--root", ".", "--data", "manifest", "--query", "sonar"], "unknown modality 'sonar'"),
        (["evaluate", "x", "--root", ".", "--option", "trial"], "write key=value"),
        (["report", "nowhere"], "nowhere"),
        (["embed", "none.safetensors", "/nowhere", "--out", "x.parquet"], "/nowhere: no such file or folder"),
        (["data", "check", "nope", "--root", "."], "unknown data set 'nope'"),
    ],
)
def test_errors_name_the_thing(arguments, sentence):
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert sentence in str(result.exception)


def test_evaluate_writes_json_and_rows(run, manifest, tmp_path):
    arguments = [
        "evaluate",
        str(run),
        "--data",
        "manifest",
        "--root",
        str(manifest),
        "--json",
        str(tmp_path / "o.json"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--format", "markdown"])
    assert result.exit_code == 0, result.output
    assert "| cross-ir2vis |" in result.output
    values = json.loads((tmp_path / "o.json").read_text())
    assert {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "trials"} <= set(values)
    assert [r["protocol"] for r in values["results"]] == ["cross-ir2vis", "cross-vis2ir"]
    assert all(0 <= values[k] <= 1 for k in ("rank1", "mAP", "mINP"))
    latex = CliRunner().invoke(app, [*arguments, "--format", "latex"])
    assert "cross-ir2vis &" in latex.output


def test_rerank_is_stamped(run, manifest, tmp_path):
    out = tmp_path / "o.json"
    arguments = ["evaluate", str(run), "--data", "manifest", "--root", str(manifest), "--rerank", "k-reciprocal"]
    assert CliRunner().invoke(app, [*arguments, "--json", str(out)]).exit_code == 0
    assert json.loads(out.read_text())["rerank"] == "k-reciprocal"


def test_doctor_and_methods():
    doctor = CliRunner().invoke(app, ["doctor"])
    assert doctor.exit_code == 0, doctor.output
    assert "EfficientNet-Lite0" in doctor.output
    methods = CliRunner().invoke(app, ["methods"])
    assert "agw" in methods.output
