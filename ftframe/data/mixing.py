"""How often the rows of several tasks are seen in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ftframe.errors import ConfigError


@dataclass(frozen=True)
class Mixture:
    """Draws from several tasks whose examples lie one behind the other.

    A task that is drawn more often than it has examples repeats: each example as often as any other, or once more. One
    that is drawn less often goes on in the next epoch where it stopped, so that every example has its turn.

    Attributes:
        sizes: Examples of each task.
        draws: Draws from each task in an epoch.
    """

    sizes: tuple[int, ...]
    draws: tuple[int, ...]

    def rows(self, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """The example numbers of an epoch, task by task, [sum of draws]; a function of seed and epoch alone."""
        firsts = np.cumsum([0, *self.sizes])
        parts = []
        for task, (size, draws) in enumerate(zip(self.sizes, self.draws, strict=True)):
            passes, rest = divmod(draws, size)
            again = np.tile(np.arange(size), passes)
            parts.append(firsts[task] + np.concatenate([again, _next_turns(size, rest, seed, task, epoch)]))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _next_turns(size: int, count: int, seed: int, task: int, epoch: int) -> npt.NDArray[np.int64]:
    """`count` examples from where the epoch before stopped in an endless row of shuffled passes; `count` < `size`."""
    if count == 0:
        return np.zeros(0, np.int64)
    cycle, start = divmod(epoch * count, size)
    turns = np.concatenate([np.random.default_rng((seed, task, cycle + i)).permutation(size) for i in range(2)])
    return turns[start : start + count]


def plan_mixture(
    sizes: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    epoch_size: int | None = None,
) -> Mixture:
    """Draws by weight, by temperature, or of each example once.

    Args:
        sizes: Examples of each task.
        weights: The share of each task is its weight over the sum of weights.
        temperature: The share of a task is its size to the power of 1 / temperature: 1 keeps the sizes' proportions,
            a high one makes all tasks alike.
            Source: Arivazhagan et al. (2019), Massively Multilingual Neural Machine Translation in the Wild, 3.3.
        epoch_size: Draws of an epoch; all examples together if None.

    Raises:
        ConfigError: If a task with a share would not be drawn in an epoch.
    """
    if weights is None and temperature is None:
        if epoch_size is not None:
            raise ConfigError(
                "data.mixing.epoch_size has no meaning with data.mixing.strategy=all_once, where an epoch is every "
                "example once. Set data.mixing.strategy=weights or temperature."
            )
        return Mixture(tuple(sizes), tuple(sizes))
    scores = np.asarray(weights, float) if weights is not None else np.asarray(sizes, float) ** (1 / (temperature or 1))
    total = sum(sizes) if epoch_size is None else epoch_size
    draws = _largest_remainders(scores / scores.sum(), total)
    for task, draw in enumerate(draws):
        if draw == 0:
            raise ConfigError(
                f"Task {task + 1} of {len(sizes)} would never be drawn: its share of an epoch of {total} draws is "
                f"{scores[task] / scores.sum():.2g}. Raise its weight or data.mixing.epoch_size."
            )
    return Mixture(tuple(sizes), draws)


def _largest_remainders(shares: npt.NDArray[np.float64], total: int) -> tuple[int, ...]:
    """Whole numbers that add up to `total`, each within one of its share."""
    exact = shares * total
    whole = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[index] += 1
    return tuple(int(number) for number in whole)
