"""Fixtures that every floor's tests share."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from processes import packages_of, run_module

# Machines that run tests are shared: a slow draw says nothing about the code.
settings.register_profile("ftframe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ftframe")

CHECKOUT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, so one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ["HF_HUB_OFFLINE"] = "1"  # of the commands that tests start, too


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised data of the tests, and of the commands that they start, is kept apart from the user's."""
    os.environ["FTFRAME_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input data, which is not part of the project."""
    folder = Path(os.environ.get("FTFRAME_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set FTFRAME_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def llama2_folder(shared_data: Path) -> Path:
    """The real Llama 2 tokenizer's files."""
    return shared_data / "llama2_tokenizer"


@pytest.fixture(scope="session")
def llama2_tokenizer(llama2_folder: Path) -> Any:
    """The real Llama 2 tokenizer. Tests that change it load their own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama2_folder)


Distribute = Callable[..., Path]


@pytest.fixture
def distribute(tmp_path: Path) -> Distribute:
    """Write a distribution as it stands when it is installed; returns the folder to put on the import path."""

    def add(
        distribution: str,
        entries: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str],
        *,
        api: str | None = "v1",
        version: str = "1.2",
    ) -> Path:
        folder = tmp_path / "distributions" / distribution
        groups = {**({"ftframe.api": {api: distribution.replace("-", "_")}} if api else {}), **entries}
        lines = [
            line
            for group, names in groups.items()
            for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))
        ]
        info = f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        written = {f"{info}/METADATA": metadata, f"{info}/entry_points.txt": "\n".join(lines), **files}
        for name, text in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder

    return add


NOT_SOURCE = (".*", "build", "outputs", "*.egg-info", "__pycache__")
"""What a source tree may hold beside its sources."""


class Environment:
    """A virtual environment of its own, which sees the libraries and the ftframe of this one."""

    def __init__(self, folder: Path) -> None:
        """Make it; nothing is installed in it yet."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        self.python = folder / "bin" / "python"
        seen = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
        (packages_of(folder) / "seen.pth").write_text(f"import site; {seen}\n")

    def run(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a module with what is installed: `environment.run("ftframe", "fit", cwd=folder)`."""
        env = {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment}
        if arguments[0] == "pip":  # which goes by the interpreter that runs it
            command = [str(self.python), "-m", *arguments]
            return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
        return run_module(*arguments, cwd=cwd, env=env, python=self.python)

    def install(self, source: Path) -> Path:
        """Install a source tree as pip does, without an index; returns the copy that it used."""
        copy = self.python.parents[2] / source.name  # building leaves files beside the sources
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE))
        offline = ("--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "--quiet")
        done = self.run("pip", "install", *offline, str(copy), cwd=copy)
        assert done.returncode == 0, done.stderr
        return copy


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Makes environments in which plugins can be installed."""
    from importlib.metadata import PackageNotFoundError, version

    for package, least in (("setuptools", 77), ("pip", 23)):
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "0"
        if int(found.partition(".")[0]) < least:
            pytest.skip(f"{package}>={least} is needed to install a package without an index; here is {found}")
    return lambda: Environment(tmp_path_factory.mktemp("environment") / "venv")
