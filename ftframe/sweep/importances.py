"""How much each varied key matters for the objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ftframe.sweep.board import spell_value
from ftframe.sweep.ranking import Entry
from ftframe.sweep.trials import Objective

LEAST = 8
"""Trials below which a forest says more about chance than about the keys."""


def importances(entries: Iterable[Entry], objective: Objective) -> tuple[dict[str, float], str]:
    """The share of each key in the objective's variation, the greatest first, and a sentence on how or why not.

    Computed by Optuna: the mean decrease in impurity over a forest that predicts the objective from the keys.
    """
    ranked = [entry for entry in entries if entry.rank and math.isfinite(entry.trial.metrics[objective.metric])]
    if len(ranked) < LEAST:
        return {}, f"Importances need {LEAST} finished trials; there are {len(ranked)}."
    keys = _varying(ranked)
    if not keys:
        return {}, "No key has two values among the finished trials."
    values = [entry.trial.metrics[objective.metric] for entry in ranked]
    if len(set(values)) == 1:
        return {}, f"All finished trials have the same {objective.metric}."
    try:
        import optuna
        import sklearn  # noqa: F401 (Optuna's evaluator needs it, and would complain later)
    except ImportError as error:
        return {}, f"Importances need the package {error.name}: pip install 'ftframe[optuna]'."
    found = _evaluate(optuna, {key: [entry.trial.overrides[key] for entry in ranked] for key in keys}, values)
    how = f"Share of each key in how {objective.metric} varies, by a random forest over {len(ranked)} trials"
    return found, f"{how} (Optuna's mean decrease in impurity). With few trials it is a hint, no more."


def _varying(entries: Sequence[Entry]) -> list[str]:
    """The keys that every trial has, and that differ."""
    common = [key for key in entries[0].trial.overrides if all(key in entry.trial.overrides for entry in entries)]
    return [key for key in common if len({spell_value(entry.trial.overrides[key]) for entry in entries}) > 1]


def _evaluate(optuna: Any, columns: dict[str, list[Any]], values: list[float]) -> dict[str, float]:
    """Optuna's own evaluation of a study in memory that holds the trials."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        spaces = {key: _distribution(optuna, column) for key, column in columns.items()}
        given = {
            key: column if is_numeric(column) else list(map(spell_value, column)) for key, column in columns.items()
        }
        for index, value in enumerate(values):
            params = {key: column[index] for key, column in given.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
        evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {key: float(share) for key, share in found.items()}
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(optuna: Any, column: Sequence[Any]) -> Any:
    if is_numeric(column):
        return optuna.distributions.FloatDistribution(float(min(column)), float(max(column)))
    return optuna.distributions.CategoricalDistribution(sorted(set(map(spell_value, column))))


def is_numeric(column: Iterable[Any]) -> bool:
    """Whether all values are finite numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value) for value in column)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
