"""What the wheel holds is what stands in the tree."""

import re
import tomllib
from pathlib import Path

import ftframe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("ftframe/**/__init__.py")}
    found = {package for package in found if not package.startswith("ftframe.scaffold.")}  # data, to be copied
    assert len(found) >= 7
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"ftframe.conf"}


def test_version_is_the_same_in_both_places():
    assert PROJECT["project"]["version"] == ftframe.__version__


def test_constraints_are_exact_and_cover_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    of_tests = {"optuna", "submitit", "tensorboard", "test"}
    asked = [*PROJECT["project"]["dependencies"], *(each for name in of_tests for each in extras[name])]
    wanted = {re.split(r"[\[>]", requirement)[0].strip().lower() for requirement in asked} - {"ftframe"}
    assert "ftframe[optuna,submitit]" in asked
    assert len(wanted) >= 18
    assert wanted <= pinned


def test_readme_has_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "```bash ci\npip install -c constraints.txt -e . && ftframe fit\n```" in readme
    assert "```bash ci\npip install -c constraints.txt -e '.[test]' && pytest\n```" in readme


def test_scaffold_is_shipped_whole():
    folder = ROOT / "ftframe"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ftframe"]
    shipped = {path for pattern in patterns for path in folder.glob(pattern)}
    files = {path for path in (folder / "scaffold").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert len(files) == 12
    assert files <= shipped
