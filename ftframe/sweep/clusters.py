"""Trials on a cluster: SLURM through submitit, or Ray. Each is asked for what it has in public."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftframe.errors import ConfigError
from ftframe.sweep.processes import Job
from ftframe.sweep.worker import run_trial

_LOST = -9
"""The exit code of a trial whose job is gone without one: as if it had been killed."""


def _environment() -> dict[str, str]:
    """What a trial on another machine needs of this process's variables."""
    names = ("FTFRAME_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "PYTHONPATH")
    return {name: os.environ[name] for name in names if name in os.environ}


@dataclass
class SubmititProcess:
    """A job of submitit's.

    Attributes:
        job: The job.
    """

    job: Any

    def poll(self) -> int | None:
        """As `Process`."""
        if not self.job.done():
            return None
        return _LOST if self.job.exception() is not None else int(self.job.result())

    def stop(self) -> None:
        """As `Process`."""
        self.job.cancel(check=False)

    def kill(self) -> None:
        """As `Process`."""
        self.job.cancel(check=False)


@dataclass
class SubmititEngine:
    """Trials as jobs of submitit's.

    Attributes:
        executor: Which submits them.
        max_parallel: Most jobs at a time.
    """

    executor: Any
    max_parallel: int
    _running: list[SubmititProcess] = field(default_factory=list)

    def has_room(self, gpus: int) -> bool:
        """As `Engine`."""
        self._running = [process for process in self._running if process.poll() is None]
        return len(self._running) < self.max_parallel

    def start(self, job: Job) -> SubmititProcess:
        """As `Engine`."""
        job.prepare()
        submitted = self.executor.submit(run_trial, list(job.command), str(job.log), str(job.lock), _environment())
        self._running.append(SubmititProcess(submitted))
        return self._running[-1]

    def close(self) -> None:
        """As `Engine`."""


def build_submitit_engine(launcher: dict[str, Any], folder: Path, *, max_parallel: int, gpus: int) -> SubmititEngine:
    """The engine of `hydra/launcher=submitit_slurm` and `submitit_local`.

    Args:
        launcher: The `hydra.launcher` node.
        folder: Where submitit keeps its files.
        max_parallel: Most jobs at a time.
        gpus: Of one trial.

    Raises:
        ConfigError: If submitit is missing, or there is no such cluster here, or it refuses a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"hydra/launcher: {error}. Install it: pip install 'ftframe[submitit]'") from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher["cluster"])
        given = {} if launcher["cluster"] == "local" else {"gpus_per_node": gpus}
        executor.update_parameters(**{"name": "ftframe", **given, **launcher["parameters"]})
    except Exception as error:  # RuntimeError, NameError and others of submitit's own
        raise ConfigError(f"hydra.launcher: {type(error).__name__}: {error}") from error
    return SubmititEngine(executor, max_parallel)


@dataclass
class RayProcess:
    """A task of Ray's.

    Attributes:
        ray: The library.
        task: The reference to its result.
    """

    ray: Any
    task: Any

    def poll(self) -> int | None:
        """As `Process`."""
        ready, _ = self.ray.wait([self.task], timeout=0)
        if not ready:
            return None
        try:
            return int(self.ray.get(self.task))
        except self.ray.exceptions.RayError:
            return _LOST

    def stop(self) -> None:
        """As `Process`: Ray ends the worker, and the kernel tells the trial of its parent's death."""
        self.ray.cancel(self.task, force=True)

    def kill(self) -> None:
        """As `Process`."""
        self.ray.cancel(self.task, force=True)


@dataclass
class RayEngine:
    """Trials as tasks of Ray's, which finds their machines and GPUs.

    Attributes:
        ray: The library, connected.
        num_cpus: Cores of one trial.
        max_parallel: Most tasks at a time.
    """

    ray: Any
    num_cpus: float
    max_parallel: int
    _running: list[RayProcess] = field(default_factory=list)

    def has_room(self, gpus: int) -> bool:
        """As `Engine`."""
        self._running = [process for process in self._running if process.poll() is None]
        return len(self._running) < self.max_parallel

    def start(self, job: Job) -> RayProcess:
        """As `Engine`."""
        job.prepare()
        gpus = job.gpus if self.ray.cluster_resources().get("GPU") else 0
        # A trial goes on with its own run folder, if at all; Ray's own retries would start it in a folder that is used.
        task = self.ray.remote(num_cpus=self.num_cpus, num_gpus=gpus, max_retries=0)(run_trial)
        submitted = task.remote(list(job.command), str(job.log), str(job.lock), _environment())
        self._running.append(RayProcess(self.ray, submitted))
        return self._running[-1]

    def close(self) -> None:
        """As `Engine`; a cluster that others started goes on."""
        self.ray.shutdown()


def build_ray_engine(launcher: dict[str, Any], *, max_parallel: int | None) -> RayEngine:
    """The engine of `hydra/launcher=ray`.

    Args:
        launcher: The `hydra.launcher` node.
        max_parallel: Most tasks at a time; None for as many as the cluster has cores for.

    Raises:
        ConfigError: If Ray is missing, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"hydra/launcher=ray: {error}. Install it: pip install 'ftframe[ray]'") from error
    try:
        ray.init(address=launcher["address"], include_dashboard=False, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"hydra.launcher.address={launcher['address']}: {error}") from error
    cores = ray.cluster_resources().get("CPU", 1.0)
    return RayEngine(ray, launcher["num_cpus"], max_parallel or max(1, int(cores // launcher["num_cpus"])))
