"""Processes that begin with the libraries imported: forks of one that has, so that a start costs no seconds of imports.

What is looked at, ftframe and its plugins, each of them imports anew.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = (
    "bitsandbytes", "hydra._internal.hydra", "lightning.pytorch", "omegaconf", "optuna", "peft", "rich.live",
    "sqlalchemy.dialects.sqlite", "torch",
    "torchmetrics", "torchmetrics.text", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
)  # fmt: skip

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(LIBRARIES))


class ModuleProcess:
    """`python -m <module> <arguments>`, to be used as a `subprocess.Popen` whose output is text in pipes."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        python: Path | None = None,
        merged: bool = False,
    ) -> None:
        """Start it.

        Args:
            module: Its name.
            arguments: Its command line.
            cwd: Where it runs.
            env: All its variables; those of this process if absent.
            python: The interpreter of another environment, whose packages it sees too.
            merged: Whether what it complains of goes where it prints.
        """
        self.args = [module, *arguments]
        self._files = [tempfile.TemporaryFile(mode="w+", errors="replace") for _ in range(2)]  # noqa: SIM115 it outlives this
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._files]
        paths = paths[:1] * 2 if merged else paths
        variables = dict(os.environ if env is None else env)
        given = (self.args, os.fspath(cwd), variables, paths, python)
        self._process = _FORKS.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, below 0 the signal that killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed and what it complained of, once it has ended."""
        self.wait(timeout)
        out, err = (self._text(file) for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    @staticmethod
    def _text(file: Any) -> str:
        file.seek(0)
        return str(file.read())


def run_module(
    module: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    python: Path | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end, as `subprocess.run` does."""
    process = ModuleProcess(module, *arguments, cwd=cwd, env=env, python=python)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def packages_of(environment: Path) -> Path:
    """Where a virtual environment, given its folder, has its packages."""
    return Path(sysconfig.get_path("purelib", vars=dict.fromkeys(("base", "platbase"), str(environment))))


def _run(command: list[str], cwd: str, variables: dict[str, str], outputs: list[str], python: Path | None) -> None:
    """What the fork does."""
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    if python is not None:
        sys.executable = str(python)  # for what it starts itself
        site.addsitedir(str(packages_of(python.parents[1])))
    sys.path[:0] = [cwd, *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[:] = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
