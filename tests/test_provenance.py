"""Which data and model a result comes from, and which models are trials of one result."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import trees
from vireid.bundle import METADATA_KEY, BundleCard
from vireid.data import is_synthetic, open_dataset
from vireid.errors import InputError
from vireid.evaluation import PRESETS
from vireid.evaluation.command import EvaluateRequest, resolve_protocols
from vireid.evaluation.evaluate import FeatureTable, join_trials
from vireid.evaluation.provenance import Subject, check_trials
from vireid.evaluation.strangers import (
    _compared,
    _open,
    _origin,
    _spectra,
    evaluate_with_strangers,
    gallery_size_curve,
    infrared_spectra,
)
from vireid.evaluation.tables import describe_stamp, render
from vireid.methods import cosine_distance
from vireid.records import LabelMap, Modality


@pytest.fixture(scope="module")
def regdb(tmp_path_factory):
    root = tmp_path_factory.mktemp("regdb")
    trees.write_regdb(root, 2, 2)
    return root


@pytest.fixture
def subject(regdb, tmp_path):
    """Make a model, trained and scored on trials of RegDB."""

    def make(name, trial, trained, method="agw", of="RegDB: 206 identities", data="regdb"):
        people = open_dataset("regdb", regdb, trial=trained).where(split="train").pid
        shape = {"num_classes": 2, "image_size": (64, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        card = BundleCard(method=method, training_data=of, label_map=LabelMap.of(people).digest, **shape)
        file = tmp_path / f"{name}.safetensors"
        save_file({"x": torch.zeros(1)}, file, metadata={METADATA_KEY: card.model_dump_json()})
        records = open_dataset("regdb", regdb, trial=trial)
        return Subject(Path(name), file, None, data, {"trial": trial}, records, [PRESETS["regdb-v2t"]])

    return make


def test_models_of_regdb_are_of_different_trials_and_of_their_own(subject):
    first, other = subject("first", 1, 1), subject("other", 2, 2)
    check_trials([first, other])
    check_trials([subject("elsewhere", 1, 2, of="synthetic people: 8 identities")])
    general, llcm = [PRESETS["cross-ir2vis"]], subject("llcm", 2, 2, data="llcm")
    wrong = {
        "first and again are scored on the same test people of RegDB: name one model": [first, subject("again", 1, 1)],
        "llcm and llcm are one model, whose trials would count twice: name it once": [llcm, llcm],
        "not trained on trial 1 of RegDB, .* pass --option trial=N": [
            other,
            replace(subject("third", 1, 2), protocols=general),
        ],
        r"first and caj are no trials of one result \(method agw, method caj\)": [first, subject("caj", 2, 2, "caj")],
        "no trials of one result .data set regdb, data set llcm.": [first, llcm],
    }
    for sentence, subjects in wrong.items():
        with pytest.raises(InputError, match=sentence):
            check_trials(subjects)


def test_a_joint_result_names_its_splits_and_models(regdb):
    results = []
    for trial in (1, 2):
        records = open_dataset("regdb", regdb, trial=trial).where(split="test")
        features = {"global": torch.randn(len(records), 4, generator=torch.Generator().manual_seed(0))}
        stamp = {
            "data_set": "regdb",
            "synthetic": True,
            "flip": False,
            "precision": "32",
            "checkpoint": "last",
            "bundle": f"{trial}.st",
        }
        results.append(FeatureTable(records, features, cosine_distance, stamp).evaluate(PRESETS["regdb-v2t"]))
    single, joint = (join_trials(part).as_dict() for part in (results[:1], results))
    assert single["note"] == "one model per split, 1 of 10 splits scored"
    assert joint["note"] == "one model per split, 2 of 10 splits scored"
    assert joint["bundle"] == ["1.st", "2.st"]
    assert (len(joint["label_map"]), joint["checkpoint"]) == (2, "last")
    assert render([join_trials(results)], "console").caption.startswith("synthetic data, percent, 2 of 10 splits;")
    assert describe_stamp({**single, "synthetic": "unknown"}, "1 trial").startswith("percent, 1 trial;")


def test_strangers_are_ranked_by_the_tables_own_distance(regdb):
    records = open_dataset("regdb", regdb).where(split="test")
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(len(records), 4, 3, generator=generator) for name in ("stripes", "unused")}
    features["global"] = torch.randn(len(records), 4, generator=generator)

    def distance(query, gallery):
        return torch.cdist(query["stripes"].flatten(1), gallery["stripes"].flatten(1))

    table, protocol = FeatureTable(records, features, distance), PRESETS["regdb-v2t"]
    assert _compared(table) == {"stripes"}
    curve = gallery_size_curve(table, protocol, {"stripes": torch.randn(120, 4, 3, generator=generator)})
    assert [point.num_gallery for point in curve] == [4, 104, 124]
    assert curve[0].as_dict() == table.evaluate(protocol).summary.trials[0].as_dict()


@pytest.mark.parametrize(
    ("asked", "data", "names"),
    [
        ({}, "regdb", ["regdb-v2t", "regdb-t2v"]),
        ({}, None, ["cross-ir2vis", "cross-vis2ir"]),
        ({"query": "visible"}, "manifest", ["cross-vis2ir"]),
        ({"query": "infrared"}, "manifest", ["cross-ir2vis"]),
        ({"gallery": "visible"}, "manifest", ["cross-ir2vis"]),
        ({"gallery": "infrared"}, "manifest", ["cross-vis2ir"]),
        ({"query": "infrared", "gallery": "infrared"}, "manifest", ["intra-ir"]),
        ({"protocols": ("cross", "intra-vis")}, "sysu_mm01", ["cross-ir2vis", "intra-vis"]),
        ({"protocols": ("sysu-all",)}, None, ["sysu-all"]),
    ],
)
def test_protocols_asked_for(asked, data, names):
    assert [protocol.name for protocol in resolve_protocols(EvaluateRequest(**asked), data)] == names


def test_a_protocol_of_other_data_is_refused():
    with pytest.raises(InputError, match="sysu-all is for sysu_mm01, not regdb: use regdb-v2t or regdb-t2v"):
        resolve_protocols(EvaluateRequest(protocols=("sysu-all",)), "regdb")


def test_a_curve_is_of_one_model_and_of_no_file_of_features():
    with pytest.raises(InputError, match="--features does not go with --distractors"):
        evaluate_with_strangers(EvaluateRequest((Path("run"),), features=Path("features.npz")), "synthetic:10")


@pytest.mark.parametrize(
    ("data", "options", "spectra"),
    [
        ("sysu_mm01", {}, ["nir"]),
        ("regdb", {"trial": 2}, ["lwir"]),
        ("synthetic", {"spectrum": "lwir"}, ["lwir"]),
        ("synthetic", {"spectrum": "both"}, ["nir", "lwir"]),
    ],
)
def test_rendered_strangers_are_as_the_gallery(data, options, spectra, monkeypatch):
    monkeypatch.setattr("vireid.evaluation.strangers.take", lambda shot, *_: SimpleNamespace(pixels=shot.spectrum))
    infrared = infrared_spectra(data, options)
    seen = {m: set(_open("synthetic:4", _spectra(m, infrared), (64, 32))[1]) for m in Modality}
    assert seen == {Modality.VISIBLE: {"visible"}, Modality.INFRARED: set(spectra)}
    assert _origin("synthetic:4", Modality.INFRARED, infrared)["distractors_spectra"] == spectra
    assert _origin("crops", Modality.INFRARED, infrared) == {"distractors": "crops"}


def test_rendered_data_is_known_in_any_layout(tmp_path):
    assert is_synthetic("synthetic", tmp_path)
    assert not is_synthetic("sysu_mm01", tmp_path)
    (tmp_path / "synthetic.json").touch()
    assert is_synthetic("sysu_mm01", tmp_path)
