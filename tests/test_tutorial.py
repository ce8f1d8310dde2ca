"""The files on the page that adds a method: written out and executed as they stand."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from vireid.methods import METHODS

PAGE = Path(__file__).parent.parent / "docs" / "add-a-method.md"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The page's files in a folder of their own, which is the current one."""
    blocks = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL))
    assert sorted(blocks) == ["heterocenter.py", "heterocenter.yaml", "test_heterocenter.py", "train.py"]
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "heterocenter", METHODS["agw"])  # the page's entry is taken out with this one
    yield tmp_path
    for module in ("heterocenter", "test_heterocenter"):
        sys.modules.pop(module, None)


def test_the_worked_number(files):
    importlib.import_module("test_heterocenter").test_hetero_center()


def test_the_method_trains_and_evaluates(files, tiny_recipe, monkeypatch, capsys):
    overrides = [f"{key}={json.dumps(value)}" for key, value in tiny_recipe.items()]
    monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
    runpy.run_path("train.py")
    table = capsys.readouterr().out
    assert "cross-ir2vis" in table
    assert "cross-vis2ir" in table
    assert (files / "runs/heterocenter/last.safetensors").is_file()
