"""From Hydra's override syntax to a search space of Optuna's, and from suggested values back to overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ftframe.errors import ConfigError
from ftframe.redaction import REDACTED, redact
from ftframe.sweep.cells import parse


@dataclass(frozen=True)
class Parameter:
    """One key that varies.

    Attributes:
        key: As typed.
        distribution: What its values are drawn from.
        spellings: For a choice, how each value is typed, in the order of the choices.
    """

    key: str
    distribution: BaseDistribution
    spellings: tuple[str, ...] = ()

    def spell(self, value: Any) -> str:
        """A suggested value as it would be typed."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.spellings[int(self.distribution.to_internal_repr(value))]
        return repr(value)

    def grid(self) -> list[Any]:
        """All values, for a grid.

        Raises:
            ConfigError: If there is no end of them.
        """
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        step = getattr(self.distribution, "step", None)
        if step is None or getattr(self.distribution, "log", False):
            raise ConfigError(f"{self.key}: sweep.sampler=grid needs choice(...) or range(...), not an interval.")
        low, high = self.distribution.low, self.distribution.high  # type: ignore[attr-defined]
        return [low + step * index for index in range(int((high - low) / step + 1e-9) + 1)]


def build_space(varied: Sequence[Override]) -> list[Parameter]:
    """The parameters of a search.

    Raises:
        ConfigError: If nothing varies, or an interval makes no sense.
    """
    if not varied:
        raise ConfigError(
            "hydra/sweeper=optuna needs keys that vary, such as 'optim.lr=tag(log,interval(1e-5,1e-2))' peft=lora,dora."
        )
    for override in varied:
        values = [] if override.is_interval_sweep() else list(override.sweep_string_iterator())
        if any(REDACTED in str(redact({override.key_or_group.rpartition(".")[2]: value})) for value in values):
            raise ConfigError(
                f"{override.key_or_group}: a secret cannot be searched: the study would hold it in clear."
            )
    return [_parameter(override) for override in varied]


def spell(space: Sequence[Parameter], values: Mapping[str, Any]) -> dict[str, str]:
    """Suggested values by key, as they would be typed."""
    return {parameter.key: parameter.spell(values[parameter.key]) for parameter in space}


def _parameter(override: Override) -> Parameter:
    key = override.get_key_element()
    try:
        if override.is_interval_sweep():
            return Parameter(key, _interval(override))
        if override.is_range_sweep():
            return Parameter(key, _range(override))
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from error
    spellings = tuple(override.sweep_string_iterator())
    if not spellings:
        raise ConfigError(f"{override.input_line}: there is nothing to choose from.")
    plain = tuple(_values(override))
    are_plain = all(isinstance(value, str | int | float | bool | None) for value in plain)
    # Optuna holds 1, 1.0 and True for the same choice.
    choices = plain if are_plain and len(set(plain)) == len(plain) else spellings
    return Parameter(key, CategoricalDistribution(choices), spellings)


def _values(override: Override) -> list[Any]:
    key = override.get_key_element()
    return [parse(f"{key}={spelling}").value() for spelling in override.sweep_string_iterator()]


def _interval(override: Override) -> BaseDistribution:
    interval: Any = override.value()
    is_log = "log" in interval.tags
    low, high = interval.start, interval.end
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=is_log)
    return FloatDistribution(float(low), float(high), log=is_log)


def _range(override: Override) -> BaseDistribution:
    """A range, whose stop is not one of its values."""
    given: Any = override.value()
    assert isinstance(given, RangeSweep)
    values = [float(value) if isinstance(value, float) else value for value in given.range()]
    if not values:
        raise ValueError("the range is empty")
    if "log" in given.tags:
        return CategoricalDistribution(values) if len(values) == 1 else _log_range(values)
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(low), int(high), step=abs(int(given.step)))
    return FloatDistribution(low, high, step=abs(given.step))


def _log_range(values: Sequence[Any]) -> BaseDistribution:
    if not all(isinstance(value, int) for value in values) or abs(values[1] - values[0]) != 1:
        raise ValueError("a logarithmic range has no step; use tag(log,interval(...))")
    return IntDistribution(min(values), max(values), log=True)
