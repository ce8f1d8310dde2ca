"""Feature files of any code base become records and features."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from vireid.errors import InputError
from vireid.evaluation import PRESETS, evaluate_features, read_features
from vireid.evaluation.builders import read_permutations

FEATURES = np.arange(8, dtype=np.float32).reshape(4, 2)
COLUMNS = {"pid": [1, 2, 1, 2], "camid": [3, 3, 1, 2], "modality": ["infrared", "infrared", "visible", "visible"]}


def write(path, columns):
    if path.suffix == ".parquet":
        pd.DataFrame({**columns, "features": list(FEATURES)}).to_parquet(path)
    elif path.suffix == ".npz":
        np.savez(path, features=FEATURES, **columns)
    else:
        savemat(path, {"features": FEATURES, **columns})


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".mat"])
@pytest.mark.parametrize("extra", [{}, {"path": ["a", "bcd", "e", "f"], "split": ["query"] * 2 + ["gallery"] * 2}])
def test_every_kind_of_file_reads_the_same(tmp_path, suffix, extra):
    write(tmp_path / f"f{suffix}", COLUMNS | extra)
    records, features = read_features(tmp_path / f"f{suffix}")
    np.testing.assert_array_equal(features, FEATURES)
    assert records.pid.tolist() == COLUMNS["pid"]
    assert records.camid.tolist() == COLUMNS["camid"]
    assert records.modality.tolist() == [1, 1, 0, 0]
    assert records.split.tolist() == extra.get("split", ["test"] * 4)
    assert records.path.tolist() == extra.get("path", [f"{row:09d}" for row in range(4)])
    assert evaluate_features(PRESETS["cross"], records, features).trials[0].num_valid_queries == 2


def test_matlab_numbers_are_doubles(tmp_path):
    write(tmp_path / "f.mat", {name: [0.0, 1.0, 1.0, 0.0] for name in COLUMNS})
    assert read_features(tmp_path / "f.mat")[0].modality.tolist() == [0, 1, 1, 0]


def test_matlab_text_may_be_a_cell_array(tmp_path):
    write(tmp_path / "f.mat", COLUMNS | {"modality": np.array(COLUMNS["modality"], dtype=object)})
    assert read_features(tmp_path / "f.mat")[0].modality.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pid": [1, 2, np.nan, 2]}, "row 2 of pid in .* is nan: write a whole number"),
        ({"camid": [1, 1.5, 2, 3]}, "row 1 of camid in .* is 1.5: write a whole number"),
        ({"pid": [1, 1e30, 1, 2]}, r"row 1 of pid in .* is 1e\+30: write a whole number"),
        ({"pid": ["a", "b", "c", "d"]}, "pid of .* holds <U1 in place of numbers"),
        ({"pid": 1}, r"pid of .* has shape \(\): give one value per image"),
        ({"modality": ["vis", "ir", "vis", "ir"]}, r"row 0 of .*f.npz: unknown modality 'vis'"),
        ({"modality": "visible"}, r"modality of .* has shape \(\)"),
        ({"split": "test"}, r"split of .* has shape \(\)"),
        ({"features": np.full((4, 2), "x")}, "features of .* holds <U1 in place of numbers"),
        ({"features": np.zeros((4, 0))}, r"features of .* have shape \(4, 0\)"),
        ({"features": 1.0}, r"features of .* have shape \(\)"),
    ],
)
def test_a_column_that_is_none_is_named(tmp_path, changed, sentence):
    np.savez(tmp_path / "f.npz", **{"features": FEATURES, **COLUMNS, **changed})
    with pytest.raises(InputError, match=sentence):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".mat"])
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_torn_file_is_one_sentence(tmp_path, suffix, share):
    write(tmp_path / f"f{suffix}", COLUMNS)
    whole = (tmp_path / f"f{suffix}").read_bytes()
    (tmp_path / f"f{suffix}").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cannot be read|lacks"):
        read_features(tmp_path / f"f{suffix}")


def test_an_empty_permutation_file_is_one_sentence(tmp_path):
    (tmp_path / "rand_perm_cam.mat").touch()
    with pytest.raises(InputError, match="holds no readable variable"):
        read_permutations(tmp_path / "rand_perm_cam.mat")
