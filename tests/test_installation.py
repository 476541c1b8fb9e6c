"""The checks of what is installed, with made-up versions and with real distributions on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from ftframe import installation
from ftframe.registry import Registry

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one dataset, and the module behind it, on the path."""

    def add(distribution: str, *, name: str, code: str) -> None:
        module = distribution.replace("-", "_")
        folder = tmp_path / distribution
        info = folder / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(
            f"[ftframe.api]\nv1 = {module}\n[ftframe.datasets]\n{name} = {module}:build\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return add


def pretend(monkeypatch: pytest.MonkeyPatch, *, needs: list[str], versions: Mapping[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installation, "requires", lambda name: needs)
    monkeypatch.setattr(installation, "version", version)


@pytest.mark.parametrize(
    ("running", "state"), [((3, 10, 14), "fail"), ((3, 11, 0), "ok"), ((3, 12, 7), "ok"), ((2, 7, 18), "fail")]
)
def test_python(running: tuple[int, ...], state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (*running, "final", 0))
        check = installation.python()
    assert check.state == state
    assert ".".join(map(str, running)) in check.detail
    assert bool(check.remedy) == (state == "fail")


NEEDS = ["lightning<2.7,>=2.6.6", "torch>=2.10", 'wandb>=0.22; extra == "wandb"', 'pywin32; sys_platform == "other"']


@pytest.mark.parametrize(
    ("versions", "state", "detail", "remedy"),
    [
        ({"lightning": "2.6.6", "torch": "2.13.0+cpu"}, "ok", "all 2 required packages fit", ""),
        ({"lightning": "2.6.6"}, "fail", "torch is missing", "pip install 'torch>=2.10'"),
        ({"lightning": "2.6.6", "torch": "2.9.1"}, "fail", "torch 2.9.1, but torch>=2.10", "pip install 'torch>=2.10'"),
        ({"lightning": "2.7.0", "torch": "2.10"}, "warn", "lightning 2.7.0", "pip install 'lightning<2.7,>=2.6.6'"),
        ({"lightning": "2.6.0", "torch": "2.10"}, "fail", "lightning 2.6.0", "pip install 'lightning<2.7,>=2.6.6'"),
        ({"lightning": "2.8", "torch": "1"}, "fail", "torch 1", "pip install 'torch>=2.10' 'lightning<2.7,>=2.6.6'"),
    ],
)
def test_packages(
    versions: dict[str, str], state: str, detail: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, needs=NEEDS, versions=versions)
    check = installation.packages()
    assert (check.state, check.remedy) == (state, remedy)
    assert detail in check.detail


def test_packages_fails_if_there_is_nothing_to_hold_against(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, needs=[], versions={})
    assert installation.packages().state == "fail"


def test_requirements_come_from_the_installed_metadata() -> None:
    needed = installation.requirements()
    assert {"torch", "lightning", "pyyaml"} <= set(needed)
    assert "wandb" not in needed


@pytest.mark.parametrize(
    ("package", "bad", "good", "why"),
    [
        ("lightning", "2.6.2", "2.6.6", "malware"),
        ("lightning", "2.6.3", "2.6.6", "malware"),
        ("lightning", "2.6.5", "2.6.6", "CVE-2026-58659"),
        ("torch", "2.9.1+cu128", "2.10.0+cpu", "older"),
        ("transformers", "5.4.9", "5.5.0", "older"),
        ("hydra-core", "1.3.2", "1.3.6", "older"),
    ],
)
def test_known_bad(package: str, bad: str, good: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, needs=NEEDS, versions={package: bad})
    check = installation.known_bad()
    assert check.state == "fail"
    assert f"{package} {bad}" in check.detail
    assert why in check.detail
    assert check.remedy.startswith("pip install --upgrade ")
    assert package in check.remedy
    pretend(monkeypatch, needs=NEEDS, versions={package: good})
    check = installation.known_bad()
    assert check.state == "ok"
    assert f"{package} {good}" in check.detail


def test_every_known_bad_row_is_outside_the_declared_bounds() -> None:
    needed = installation.requirements()
    assert installation.KNOWN_BAD
    for package, bounds, _ in installation.KNOWN_BAD:
        edge = bounds.lstrip("<=")
        if bounds.startswith("<") and not bounds.startswith("<="):
            edge += ".dev0"
        assert not needed[package].specifier.contains(edge), f"{package}{bounds}"


def test_plugins_names_a_third_party_plugin(install: Install) -> None:
    install("good-rows", name="good", code="def build(): ...")
    check = installation.plugins(Registry("dataset"))
    assert check.state == "ok"
    assert "good (good-rows 1.2)" in check.detail
    assert "table" in check.detail


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module_of_theirs", "ModuleNotFoundError: No module named 'no_such_module_of_theirs'"),
        ("other = 1", "AttributeError"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise BaseException('one\\ntwo')", "BaseException: one"),
        ("def build(:", "SyntaxError"),
    ],
)
def test_plugins_warns_of_a_broken_plugin(code: str, why: str, install: Install) -> None:
    install("bad-rows", name="bad", code=code)
    check = installation.plugins(Registry("dataset"))
    assert check.state == "warn"
    assert f"The dataset 'bad' is registered by bad-rows 1.2 (bad_rows:build), but it does not import:\n{why}" in (
        check.detail
    )
    assert "table" in check.detail
    assert check.remedy == "export FTFRAME_DISABLE_PLUGINS=bad-rows"


def test_plugins_lets_the_user_interrupt(install: Install) -> None:
    install("slow-rows", name="slow", code="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        installation.plugins(Registry("dataset"))


@pytest.mark.parametrize(("others", "name"), [(["b-rows"], "same"), ([], "table")], ids=["each other", "ftframe"])
def test_plugins_warns_of_duplicates(
    others: list[str], name: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution in ("a-rows", *others):
        install(distribution, name=name, code="def build(): ...")
    check = installation.plugins(Registry("dataset"))
    assert check.state == "warn"
    assert f"Two packages register the dataset '{name}':" in check.detail
    one = (*others, "a-rows")[0]
    assert check.remedy == f"export FTFRAME_DISABLE_PLUGINS={one}"
    monkeypatch.setenv("FTFRAME_DISABLE_PLUGINS", one)
    assert installation.plugins(Registry("dataset")).state == "ok"


def test_plugins_fails_if_not_even_the_built_in_ones_are_there() -> None:
    check = installation.plugins(Registry("no_such_kind"))
    assert (check.name, check.state) == ("no such kinds", "fail")
