"""Feature files of any code base become records and features."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

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
