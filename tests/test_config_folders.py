"""Folders of config groups, found in every way a package can be installed, and never imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ftframe import config_folders, search_path
from ftframe.config_folders import find_package, read_folder

EXPLODES = "raise SystemExit('imported')\n"
FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            place = MAPPING[name] + "/__init__.py"
            return spec_from_file_location(name, place, submodule_search_locations=[MAPPING[name]])

sys.meta_path.append(Finder)
"""


@pytest.fixture
def package(tmp_path):
    """`x_pkg` with `conf/data/a.yaml`, which no one may import."""

    def make(root: Path, *, with_init: bool = True) -> Path:
        conf = root / "x_pkg" / "conf"
        (conf / "data").mkdir(parents=True)
        (conf / "data" / "a.yaml").write_text("{}\n")
        (root / "x_pkg" / "__init__.py").write_text(EXPLODES)
        if with_init:
            (conf / "__init__.py").write_text(EXPLODES)
        return conf

    return make


@pytest.mark.parametrize("with_init", [True, False], ids=["package", "folder without __init__.py"])
def test_folder_of_a_package_on_the_path(with_init, package, tmp_path, monkeypatch):
    conf = package(tmp_path / "site", with_init=with_init)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_package("x_pkg.conf") == conf
    assert "x_pkg" not in sys.modules


def test_folder_of_an_editable_install_by_a_finder(package, tmp_path, monkeypatch):
    """As setuptools installs what is not laid out as it is imported: `x_pkg.conf` lies elsewhere."""
    conf = package(tmp_path / "src")
    elsewhere = tmp_path / "conf"
    conf.rename(elsewhere)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    mapping = {"x_pkg": str(tmp_path / "src" / "x_pkg"), "x_pkg.conf": str(elsewhere)}
    exec(f"MAPPING = {mapping!r}\n{FINDER}", {})
    assert find_package("x_pkg.conf") == elsewhere
    assert "x_pkg" not in sys.modules


def test_broken_finder_and_missing_package(monkeypatch):
    class Broken:
        @staticmethod
        def find_spec(name, path=None, target=None):
            raise RuntimeError(name)

    monkeypatch.setattr(sys, "meta_path", [Broken, object(), *sys.meta_path])
    assert find_package("ftframe.conf") == config_folders.built_in().path
    assert find_package("no_such_package.conf") is None
    assert find_package("json.decoder") is None


@pytest.mark.parametrize(
    ("files", "trouble"),
    [
        ({"x_one/__init__.py": EXPLODES, "x_one/conf/data/a.yaml": "{}"}, ""),
        ({"x_one/__init__.py": EXPLODES}, "the package x_one.conf has no folder"),
        ({"x_one/conf/a.txt": ""}, "/x_one/conf holds no group/option.yaml"),
    ],
    ids=["good", "missing", "empty"],
)
def test_installed_folder_says_what_is_wrong(files, trouble, distribute, monkeypatch):
    monkeypatch.syspath_prepend(str(distribute("x-one", {"ftframe.conf": {"one": "x_one.conf"}}, files)))
    (folder,) = [folder for folder in config_folders.installed() if folder.owner == "x-one"]
    assert folder.trouble.endswith(trouble) and bool(folder.trouble) == bool(trouble)
    assert (folder in config_folders.usable()) == (not trouble)
    assert "x_one" not in sys.modules


def test_groups_leave_out_what_is_no_option_of_ours(tmp_path):
    for name in ("fit", "data/a", "data/deep/b", "hydra/launcher/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("{}\n")
    assert config_folders.groups([read_folder(tmp_path, source="x")]) == {"data": ["a"], "data/deep": ["b"]}


def test_ftframe_alone_has_no_clash():
    assert config_folders.clashes([config_folders.built_in()]) == {}
    assert len(config_folders.built_in().options) >= 39


@pytest.mark.parametrize(
    "name", ["fit_schema", "hydra/help/ftframe", "hydra/job_logging/none", "evaluate", "data/text"]
)
def test_what_a_file_would_shadow_is_a_clash(name, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / f"{name}.yaml").write_text("{}\n")
    clashes = search_path.find_clashes([read_folder(tmp_path, source="mine")])
    assert [folder.source for folder in clashes[name]][-1] == "mine"
    assert len(clashes[name]) == 2
