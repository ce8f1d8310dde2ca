"""A training that survives: kills, a full disk, and the same seed twice."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from vireid.cli import main
from vireid.errors import InputError
from vireid.files import alone
from vireid.methods.agw import AGW
from vireid.recipe import load_recipe
from vireid.training import resume, train
from vireid.training import run as run_module
from vireid.training.checkpoint import latest_checkpoint
from vireid.training.logs import open_log

LOOP = Path(__file__).parents[1] / "benchmarks" / "kill_loop.py"


def test_killed_runs_end_like_the_uninterrupted_one(manifest):
    """Three kills; `python benchmarks/kill_loop.py` makes ten."""
    command = [sys.executable, str(LOOP), "--kills", "3", "--seed", "1", "--root", str(manifest)]
    loop = subprocess.run(command, capture_output=True, text=True, check=False)
    assert loop.returncode == 0, loop.stdout + loop.stderr
    assert loop.stdout.count("kill ") == 3
    assert "kill 2: writing a checkpoint" in loop.stdout


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_how_to_go_on(sent, code, tiny_recipe, tmp_path, monkeypatch):
    """Lightning ends with 0 after SIGTERM, as if the run were finished, and with 1 after Ctrl-C, leaving it ignored."""
    console = Console(file=io.StringIO())
    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}  # as in a process of its own
    before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    monkeypatch.setattr(AGW, "after_step", lambda self: os.kill(os.getpid(), sent))
    try:
        with pytest.raises(SystemExit) as ended:
            train(load_recipe(tiny_recipe), tmp_path / "run", console=console)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.value.code == code
    remedy = f"stopped in epoch 1: go on with `vireid train --resume {tmp_path / 'run'}`"
    assert console.file.getvalue().splitlines()[-1] == remedy


def test_a_resume_holds_the_folder_before_it_chooses_its_checkpoint(run, tmp_path, monkeypatch):
    """Else another process may train epochs between the choice and the lock."""
    folder = shutil.copytree(run, tmp_path / "run")

    def choose(run):
        with pytest.raises(InputError, match="busy"), alone(run, busy="busy"):
            pass

    monkeypatch.setattr(run_module, "latest_checkpoint", choose)
    monkeypatch.setattr(run_module, "_fit", lambda *_: "fitted")
    assert resume(folder) == "fitted"


def test_one_seed_gives_one_bundle(run, tiny_recipe, tmp_path):
    train(load_recipe(tiny_recipe), tmp_path / "again")
    for name in ("last.safetensors", "best.safetensors", "logs/metrics.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_a_full_disk_keeps_the_last_good_checkpoint(run, tiny_recipe, tmp_path):
    """The second checkpoint is written to a device that is always full; after that, the run goes on."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    temporary = folder / "checkpoints" / f".epoch-0001.ckpt.{os.getpid()}.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"checkpoints is full: epoch-0001\.ckpt was not written, free some space"):
        train(load_recipe(tiny_recipe), folder)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch-0000.ckpt"]
    assert latest_checkpoint(folder).name == "epoch-0000.ckpt"
    resume(folder)
    for name in ("last.safetensors", "logs/metrics.csv"):
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.parametrize("place", ["vireid.data.images.os.posix_fallocate", "lightning.fabric.loggers.csv_logs.csv"])
def test_a_full_disk_is_one_sentence_wherever_a_run_writes(place, tiny_recipe, tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(place, full if place.endswith("fallocate") else type("Full", (), {"DictWriter": full}))
    monkeypatch.setenv("VIREID_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe))
    data = ["--data", "manifest", "--root", tiny_recipe["data"]["root"]]
    arguments = ["train", "agw", *data, "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["vireid", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a disk is full")


@pytest.mark.parametrize("torn", ["2,0.1", "0,0.1,5e-"])
def test_a_resumed_log_keeps_the_epochs_of_the_checkpoint(torn, tmp_path):
    (tmp_path / "logs").mkdir()
    file = tmp_path / "logs" / "metrics.csv"
    file.write_text(f"epoch,id,step\n0,0.5,1\n1,0.25,3\n{torn}")
    open_log(tmp_path, 1).save()
    assert file.read_text().splitlines() == ["epoch,id,step", "0,0.5,1"]
