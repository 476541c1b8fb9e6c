"""A study of Optuna's that one or several sweeps share: its storage, sampler, pruner and trials."""

from __future__ import annotations

import copy
import inspect
import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ftframe.errors import ConfigError
from ftframe.redaction import redact
from ftframe.schema import Direction, Pruner, Sampler, SweepConfig
from ftframe.signatures import check_arguments
from ftframe.sweep.sampling import NumberedSampler, WholeGrid
from ftframe.sweep.space import Parameter

_SURPLUS = "ftframe:surplus"
_SEARCHED = "ftframe:searched"
_OPENING_WAITS = (0.2, 0.5, 1.0, 0.0)
"""Seconds between attempts to open a storage."""

_PRUNERS = {
    Pruner.none: optuna.pruners.NopPruner,
    Pruner.median: optuna.pruners.MedianPruner,
    Pruner.asha: optuna.pruners.SuccessiveHalvingPruner,
    Pruner.hyperband: optuna.pruners.HyperbandPruner,
}
_SAMPLERS = {
    Sampler.tpe: optuna.samplers.TPESampler,
    Sampler.random: optuna.samplers.RandomSampler,
    Sampler.gp: optuna.samplers.GPSampler,
    Sampler.cmaes: optuna.samplers.CmaEsSampler,
    Sampler.grid: WholeGrid,
}


class SharedStudy:
    """The trials of a study, of which several processes may ask at once.

    A trial that is asked for has the next number of the whole study, whoever asks. Those that came too late, since two
    asked for the last one, are surplus: told as failed at once, and never run.
    """

    def __init__(self, settings: SweepConfig, space: Sequence[Parameter], folder: Path) -> None:
        """Open the study, or make it.

        Args:
            settings: The `sweep` node.
            space: What varies.
            folder: The sweep's, for the default storage.

        Raises:
            ConfigError: If the storage cannot be used, or an argument is wrong.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # this loop is ours, and beats
        if settings.pruner is not Pruner.none and len(settings.objectives) > 1:
            raise ConfigError("sweep.pruner: Optuna prunes by one objective; sweep.objectives has several.")
        self._distributions = {parameter.key: parameter.distribution for parameter in space}
        self._n_trials = settings.n_trials
        if settings.sampler is Sampler.grid:
            self._n_trials = min(settings.n_trials, math.prod(len(parameter.grid()) for parameter in space))
        self._storage = _open_storage(settings, folder)
        try:
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=settings.study_name,
                sampler=_build_sampler(settings, space),
                pruner=_build(_PRUNERS[settings.pruner], settings.pruner_args, "sweep.pruner_args"),
                directions=[_direction(objective.direction) for objective in settings.objectives],
                load_if_exists=True,
            )
        except (OptunaError, SQLAlchemyError, ValueError) as error:
            raise ConfigError(f"sweep.study_name={settings.study_name}: {type(error).__name__}: {error}") from error
        self._refuse_another(settings)
        directions = [direction.name.lower() for direction in self.study.directions]
        if directions != [objective.direction.value for objective in settings.objectives]:
            raise ConfigError(f"sweep.objectives: the study {settings.study_name} has the directions {directions}.")

    def _refuse_another(self, settings: SweepConfig) -> None:
        """Keep what is searched in the study, and hold it against what is searched now.

        Raises:
            ConfigError: If the study is of something else.
        """
        spaces = {key: json.loads(distribution_to_json(kind)) for key, kind in self._distributions.items()}
        now = {"objectives": [objective.metric for objective in settings.objectives], "space": spaces}
        before = self.study.user_attrs.get(_SEARCHED)
        if before is None:
            self.study.set_user_attr(_SEARCHED, now)
        elif before != json.loads(json.dumps(now)):
            raise ConfigError(
                f"sweep.study_name={settings.study_name}: the study there searches {_told(before)}, and this sweep "
                f"{_told(now)}. Choose another name, or another sweep.storage."
            )

    def ask(self) -> Trial | None:
        """The next trial; None if the study has all its trials, though one of a silent sweep may come back."""
        if self._n_counted() >= self._n_trials:
            return None
        trial = self.study.ask(fixed_distributions=self._distributions)
        self.beat(trial)
        if self._n_counted(before=trial.number) >= self._n_trials:
            trial.set_user_attr(_SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def find(self, number: int) -> Trial | None:
        """A trial that was asked for before and is not told yet."""
        for frozen in self._trials():
            if frozen.number == number and frozen.state is TrialState.RUNNING:
                return Trial(self.study, frozen._trial_id)
        return None

    def beat(self, trial: Trial) -> None:
        """Say that a trial lives."""
        self._storage.record_heartbeat(trial._trial_id)

    def take_over_silent(self) -> None:
        """Fail the trials whose sweeps are silent, and queue their values again."""
        optuna.storages.fail_stale_trials(self.study)

    def queue_again(self, number: int) -> bool:
        """Queue the values of a trial that failed, once; whether that was done now."""
        failed = [trial for trial in self._trials() if trial.number == number and trial.state is TrialState.FAIL]
        if not failed or number in self._tried_again():
            return False
        _retry()(self.study, copy.deepcopy(failed[0]))  # to which it adds
        return True

    def _tried_again(self) -> set[int]:
        """The trials whose values were queued again."""
        return {number for trial in self._trials() for number in trial.system_attrs.get("retry_history", [])}

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _n_counted(self, before: int | None = None) -> int:
        """Trials that count: all but surplus ones, those that others took over, and those that wait for someone."""
        trials = self._trials()
        again = self._tried_again()
        return sum(
            trial.number not in again
            and _SURPLUS not in trial.user_attrs
            and trial.state is not TrialState.WAITING
            and (before is None or trial.number < before)
            for trial in trials
        )


def _told(searched: dict[str, Any]) -> str:
    ends = {key: space["attributes"] for key, space in searched["space"].items()}
    return f"{', '.join(searched['objectives'])} over {ends}"


def _direction(direction: Direction) -> Literal["minimize", "maximize"]:
    return "maximize" if direction is Direction.maximize else "minimize"


def _has_new_names() -> bool:
    """Whether this Optuna, since 4.9, says `heartbeat_stale` where it said `failed`."""
    return "heartbeat_stale_trial_callback" in inspect.signature(RDBStorage).parameters


def _retry() -> Any:
    """Optuna's own callback that queues the values of a trial again."""
    name = "RetryHeartbeatStaleTrialCallback" if _has_new_names() else "RetryFailedTrialCallback"
    return getattr(optuna.storages, name)()


def _open_storage(settings: SweepConfig, folder: Path) -> RDBStorage:
    url = settings.storage or f"sqlite:///{folder / 'study.db'}"
    hook = "heartbeat_stale_trial_callback" if _has_new_names() else "failed_trial_callback"
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    arguments: dict[str, Any] = {
        "engine_kwargs": waits,
        "heartbeat_interval": settings.heartbeat_seconds,
        "grace_period": 2 * settings.heartbeat_seconds,
        hook: _retry(),
    }
    for wait in _OPENING_WAITS:
        try:
            return RDBStorage(url, **arguments)
        except (OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
            # Two processes that find an empty database both make its tables, and one of them fails.
            if isinstance(error, DBAPIError) and wait:
                time.sleep(wait)
                continue
            shown = f"sweep.storage={redact(url)}: {type(error).__name__}: {redact(str(error))}"
            raise ConfigError(shown) from error
    raise AssertionError("the last attempt returns or raises")


def _build_sampler(settings: SweepConfig, space: Sequence[Parameter]) -> Any:
    kind, key = _SAMPLERS[settings.sampler], "sweep.sampler_args"
    if settings.sampler is Sampler.grid:  # its seed is the order of the grid, and has to stay
        grid = {parameter.key: parameter.grid() for parameter in space}
        return _build(kind, {"seed": settings.seed, **settings.sampler_args, "search_space": grid}, key)
    return NumberedSampler(lambda seed: _build(kind, {**settings.sampler_args, "seed": seed}, key), settings.seed)


def _build(kind: Any, arguments: dict[str, Any], key: str) -> Any:
    """An object of Optuna's.

    Raises:
        ConfigError: If its class refuses the arguments, or lacks a package.
    """
    check_arguments(kind, arguments, key=key)
    try:
        return kind(**arguments)
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {type(error).__name__}: {error}") from error
