"""Samplers for studies that several processes ask, each trial by trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class NumberedSampler(BaseSampler):
    """Seeds another sampler anew for each trial.

    Two processes that share a study and a seed would draw the same values, and so would one that goes on with it: the
    state of a sampler's random numbers is in no storage.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        """Take a function from a seed to a sampler.

        Args:
            build: Makes the sampler.
            seed: Of the study.
        """
        self._build = build
        self._seed = seed
        self._sampler = build(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As `BaseSampler`."""
        mixed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
        self._sampler = self._build(int(mixed))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As `BaseSampler`."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As `BaseSampler`."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As `BaseSampler`."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As `BaseSampler`."""
        self._sampler.after_trial(study, trial, state, values)


class WholeGrid(GridSampler):
    """Optuna's grid, which would stop Optuna's own loop at its end; `sweep.n_trials` is held to its size instead."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As `BaseSampler`: there is nothing to do."""
