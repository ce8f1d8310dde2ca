"""Feature files of any code base become records and features."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from vireid.errors import InputError
from vireid.evaluation import PRESETS, evaluate_features, read_features

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


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_features(tmp_path / "none.npz")
    (tmp_path / "f.pkl").touch()
    with pytest.raises(InputError, match="unknown kind"):
        read_features(tmp_path / "f.pkl")
    write(tmp_path / "f.npz", {"pid": [1] * 4})
    with pytest.raises(InputError, match="lacks camid, modality"):
        read_features(tmp_path / "f.npz")
    np.savez(tmp_path / "g.npz", features=FEATURES[:3], **COLUMNS)
    with pytest.raises(InputError, match="3 features but 4 pids"):
        read_features(tmp_path / "g.npz")
    np.savez(tmp_path / "h.npz", features=np.array([{}], object), **COLUMNS)
    with pytest.raises(InputError, match="cannot be read"):
        read_features(tmp_path / "h.npz")
