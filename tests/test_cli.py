"""The command line: exit codes, one sentence an error."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import vireid
from trees import write_manifest
from vireid.cli import app
from vireid.cli.options import plain, write_figure
from vireid.data import open_dataset
from vireid.errors import InputError
from vireid.evaluation.command import EvaluateRequest, run_evaluation
from vireid.evaluation.strangers import embed_strangers
from vireid.files import explain
from vireid.recipe import load_recipe
from vireid.records import Modality


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "vireid", "evaluate", str(tmp_path / "none"), "--data", "sysu_mm01"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: pass --root DIR, the folder of SYSU-MM01")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["a[/b]", "sw[red]", "a: b # c"])
def test_any_folder_can_be_named(name, tmp_path):
    write_manifest(tmp_path / name, ["a.jpg,1,1,visible"])
    (tmp_path / name / "a.jpg").touch()
    result = CliRunner().invoke(app, ["data", "check", "manifest", "--root", str(tmp_path / name)])
    assert f"{tmp_path / name} is complete" in result.output
    assert load_recipe({}, root=tmp_path / name).data.root == tmp_path / name


@pytest.mark.parametrize(
    ("words", "name"),
    [("--recipe own.yaml", "regdb"), ("--recipe own.yaml --data manifest", "manifest"), ("", "synthetic")],
)
def test_a_recipe_names_its_data_set(words, name, tmp_path, monkeypatch):
    started = []

    def train(recipe, run, **_):
        started.append((recipe.data.name, run))
        return run / "last.safetensors"

    monkeypatch.setattr("vireid.training.train", train)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("method: agw\ndata: {name: regdb}\n")
    result = CliRunner().invoke(app, ["train", "agw", *words.split()])
    assert result.exit_code == 0, result.exception
    assert started == [(name, Path("runs") / f"{name}-agw-0")]


def evaluate(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_evaluate_writes_json_and_rows(run, tmp_path):
    out = tmp_path / "o.json"
    assert "| cross-ir2vis |" in evaluate(run, "--json", out, "--format", "markdown")
    values = json.loads(out.read_text())
    assert {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "trials"} <= set(values)
    assert [r["protocol"] for r in values["results"]] == ["cross-ir2vis", "cross-vis2ir"]
    assert all(0 <= values[k] <= 1 for k in ("rank1", "mAP", "mINP"))
    stamp = {"data_set": "manifest", "synthetic": False, "method": "agw", "bundle": "last.safetensors"}
    assert stamp.items() <= values.items()
    assert "cross-ir2vis &" in evaluate(run, "--format", "latex")


def test_the_table_is_printed_before_a_file_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    command = ["evaluate", run, "--protocol", "cross", "--format", "latex", "--json", tmp_path / "file" / "o.json"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert isinstance(result.exception, OSError)
    assert "cross-ir2vis &" in result.output


def test_a_figure_makes_its_folder(tmp_path):
    write_figure(Figure(), tmp_path / "new" / "figure.svg")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.svg"]


def test_a_bundle_needs_its_data_and_scores_like_its_run(run, manifest, tmp_path):
    evaluate(run / "last.safetensors", "--data", "manifest", "--root", manifest, "--json", tmp_path / "bundle.json")
    evaluate(run, "--json", tmp_path / "run.json")
    assert (tmp_path / "bundle.json").read_text() == (tmp_path / "run.json").read_text()


def test_rerank_is_stamped(run, tmp_path):
    evaluate(run, "--rerank", "k-reciprocal", "--json", tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text())["rerank"] == "k-reciprocal"


def test_several_models_are_trials_of_one_result(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    evaluate(run, other, "--protocol", "cross", "--json", tmp_path / "o.json")
    values = json.loads((tmp_path / "o.json").read_text())
    assert values["trials"][0] == values["trials"][1]
    assert values["sd"]["mAP"] == 0
    with pytest.raises(InputError, match="--roc is of one model"):
        run_evaluation(EvaluateRequest(models=(run, other), roc=True))


def test_features_of_any_code_base_score_like_the_model(run, manifest, tmp_path):
    records = open_dataset("manifest", manifest).where(split="test")
    features = vireid.load(run / "last.safetensors").extract(records)["global"].numpy()
    columns = {"pid": records.pid, "camid": records.camid, "modality": records.modality}
    np.savez(tmp_path / "features.npz", features=3 * features, **columns)
    own = ("--features", tmp_path / "features.npz", "--protocol", "cross", "--data", "manifest")
    evaluate(*own, "--json", tmp_path / "a.json")
    evaluate(run, "--protocol", "cross", "--json", tmp_path / "b.json")
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert all(ours[k] == pytest.approx(theirs[k], abs=1e-9) for k in ("rank1", "mAP", "mINP"))
    assert ours["data_set"] == "manifest"


def test_roc_and_distractors(run, tmp_path):
    assert "equal error rate" in evaluate(run, "--protocol", "cross", "--roc")
    out, figure = tmp_path / "curve.json", tmp_path / "curve.png"
    evaluate(run, "--protocol", "cross", "--distractors", "synthetic:120", "--json", out, "--figure", figure)
    evaluate(run, "--protocol", "cross", "--json", tmp_path / "plain.json")
    result, plain = (json.loads(file.read_text()) for file in (out, tmp_path / "plain.json"))
    result, curve = result["cross-ir2vis"], result["cross-ir2vis"]["curve"]
    assert result["distractors"] == "synthetic:120"
    assert all(result[key] == plain[key] for key in ("data_set", "bundle_sha256", "feature", "flip", "checkpoint"))
    assert all(curve[0][key] == plain[key] for key in ("rank1", "mAP", "mINP"))
    sizes = [point["num_gallery"] for point in curve]
    assert [size - sizes[0] for size in sizes] == [0, 100, 120]
    assert all(later["mAP"] <= earlier["mAP"] for earlier, later in pairwise(curve))
    assert figure.stat().st_size > 1000


@pytest.mark.parametrize("flip", [False, True])
def test_strangers_are_embedded_like_the_gallery(run, manifest, flip):
    embedder = vireid.load(run / "last.safetensors")
    records = open_dataset("manifest", manifest)
    records = records.take(np.argsort(records.path.astype(str)))
    ours = embed_strangers(embedder, str(manifest), Modality.VISIBLE, {"global"}, flip=flip)
    rows, features = records.mask(modality=Modality.VISIBLE), embedder.extract(records, flip=flip)
    assert list(ours) == ["global"]
    np.testing.assert_allclose(ours["global"][rows], features["global"][rows], atol=1e-5)


def test_doctor_and_methods():
    doctor = CliRunner().invoke(app, ["doctor"])
    assert doctor.exit_code == 0, doctor.output
    assert "EfficientNet-Lite0" in doctor.output
    methods = CliRunner().invoke(app, ["methods"])
    assert "agw" in methods.output
    assert "vireid_best" in methods.output


def test_text_that_is_not_utf8_gets_its_sentence():
    with pytest.raises(UnicodeEncodeError) as caught:
        "A. M\udcffller".encode()
    assert explain(caught.value) == "A. M\\xffller is not UTF-8: write it in UTF-8"


def test_a_stored_text_gives_the_terminal_no_orders():
    assert plain("\x1b[2J\x9b[red]a\nb") == "\ufffd[2J\ufffd\\[red]a\nb"
