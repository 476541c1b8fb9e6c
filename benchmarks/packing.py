"""How fast and how tight rows are packed: `python benchmarks/packing.py [--rows N] [--capacity N]`.

Lengths are drawn from a seed. One core is enough: nothing here runs in parallel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np

from ftframe.data.packing import Rows, pack_best_fit, pack_window, packing_efficiency


def draw_lengths(rows: int, capacity: int, seed: int) -> dict[str, Rows]:
    """Token counts of several shapes of data, by name."""
    rng = np.random.default_rng(seed)
    lognormal = rng.lognormal(np.log(200), 0.8, rows).astype(np.int64)
    short = rng.integers(1, 1 + capacity // 20, rows)
    mixed = np.where(rng.random(rows) < 0.2, rng.integers(capacity // 2, capacity + 1, rows), short)
    return {
        "lognormal around 200": lognormal.clip(1, capacity),
        "uniform": rng.integers(1, capacity + 1, rows),
        "a fifth over half full": mixed,
    }


def timed_whole(lengths: Rows, capacity: int, seed: int) -> tuple[list[list[int]], float]:
    """Packs of all rows in a seeded order, and the seconds that they took."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    start = time.perf_counter()
    packs = pack_best_fit(lengths, capacity, order=order)
    return packs, time.perf_counter() - start


def timed_window(lengths: Rows, capacity: int, window: int) -> tuple[list[list[int]], float]:
    """Packs of a stream of which `window` rows wait, and the seconds that they took."""
    rows: Iterable[tuple[int, int]] = zip(lengths.tolist(), range(len(lengths)), strict=True)
    start = time.perf_counter()
    packs = list(pack_window(rows, capacity, window=window))
    return packs, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Rows packed a second, and the share of the packs that they fill.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--capacity", type=int, default=2048)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.rows:,} rows to {options.capacity} tokens")
    print(f"{'lengths':<24}{'how':<14}{'seconds':>9}{'rows/s':>12}{'packs':>10}{'least':>10}{'full':>9}")
    # No packing needs fewer packs than `least`: all tokens, or all rows over half of the capacity, one a pack.
    for name, lengths in draw_lengths(options.rows, options.capacity, options.seed).items():
        runs = {
            "whole": timed_whole(lengths, options.capacity, options.seed),
            f"window {options.window}": timed_window(lengths, options.capacity, options.window),
        }
        least = max(-(-lengths.sum() // options.capacity), (2 * lengths > options.capacity).sum())
        for how, (packs, seconds) in runs.items():
            full = packing_efficiency(lengths, packs, options.capacity)
            speed = f"{len(lengths) / seconds:>12,.0f}"
            print(f"{name:<24}{how:<14}{seconds:>9.2f}{speed}{len(packs):>10,}{least:>10,}{full:>9.2%}")


if __name__ == "__main__":
    main()
