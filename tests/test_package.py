"""What is published: a wheel that holds the whole package, and one version everywhere."""

import re
import subprocess
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import vireid
from vireid import environment

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "vireid"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in a wheel of the checkout."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    builder = builders.WheelBuilder(str(ROOT))
    (file,) = builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*") if path.is_file()}
    assert {name for name in wheel if name.startswith("vireid/")} == {f for f in files if "__pycache__" not in f}


def test_the_wheel_holds_what_is_no_module(wheel):
    for pattern in (
        "vireid/py.typed",
        "vireid/recipes/sysu_mm01/agw.yaml",
        "vireid/gallery/migrations/versions/m0001_initial.py",
        "vireid/serve/page/templates/search.html",
        "vireid/serve/page/static/page.js",
        "vireid/report/page.html.j2",
        f"vireid-{PROJECT['version']}.dist-info/licenses/LICENSE",
    ):
        assert pattern in wheel


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+?)(?:, |$)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == newest[1] == vireid.__version__ == version("vireid") == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_an_installed_package_has_no_commit_of_the_project_that_it_lies_in(tmp_path, monkeypatch):
    installed = tmp_path / ".venv" / "lib" / "site-packages" / "vireid" / "environment.py"
    installed.parent.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.git_commit.__wrapped__() == ""
