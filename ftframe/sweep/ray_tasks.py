"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ftframe.errors import ConfigError
from ftframe.sweep.processes import LOST, Job, claim
from ftframe.sweep.worker import run_trial, where


@dataclass
class RayProcess:
    """A task of Ray's.

    Attributes:
        ray: The library.
        task: The reference to its result.
        told: As `Process`.
    """

    ray: Any
    task: Any
    told: str = ""

    def poll(self) -> int | None:
        """As `Process`."""
        ready, _ = self.ray.wait([self.task], timeout=0)
        if not ready:
            return None
        try:
            return int(self.ray.get(self.task))
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            self.told = f"Ray lost its task: {said[-1] if said else type(error).__name__}"
            return LOST

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
        grace_seconds: How long what an earlier sweep left may take to end.
    """

    ray: Any
    num_cpus: float
    max_parallel: int
    grace_seconds: float

    def has_gpus(self, gpus: int) -> bool:
        """As `Engine`; the cluster finds them."""
        return True

    def start(self, job: Job) -> RayProcess:
        """As `Engine`."""
        os.close(claim(job.lock, self.grace_seconds))
        job.prepare()
        gpus = job.gpus if self.ray.cluster_resources().get("GPU") else 0
        # A trial goes on with its own run folder, if at all; Ray's own retries would start it in a folder that is used.
        task = self.ray.remote(num_cpus=self.num_cpus, num_gpus=gpus, max_retries=0)(run_trial)
        submitted = task.remote(list(job.command), str(job.log), **where(job.lock))
        return RayProcess(self.ray, submitted)

    def close(self) -> None:
        """As `Engine`; a cluster that others started goes on."""
        self.ray.shutdown()


def build_ray_engine(launcher: dict[str, Any], *, max_parallel: int | None, grace_seconds: float) -> RayEngine:
    """The engine of `hydra/launcher=ray`.

    Args:
        launcher: The `hydra.launcher` node.
        max_parallel: Most tasks at a time; None for as many as the cluster has cores for.
        grace_seconds: How long what an earlier sweep left may take to end.

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
    if launcher["num_cpus"] > cores:
        ray.shutdown()
        raise ConfigError(f"hydra.launcher.num_cpus={launcher['num_cpus']}: the cluster has {cores:g} in all.")
    at_a_time = max_parallel or max(1, int(cores // launcher["num_cpus"]))
    return RayEngine(ray, launcher["num_cpus"], at_a_time, grace_seconds)
