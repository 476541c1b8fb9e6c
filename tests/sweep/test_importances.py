"""How much each key matters, by Optuna."""

from __future__ import annotations

import builtins
import math
import random

import pytest

from ftframe.sweep.board import build_board
from ftframe.sweep.importances import LEAST, importances
from ftframe.sweep.trials import read_sweep


def found_in(sweep):
    board = build_board([read_sweep(sweep.path)])
    return importances(board.entries, board.objectives[0])


def add_trials(sweep, number, loss):
    rng = random.Random(0)
    for _ in range(number):
        overrides = {"optim.lr": 10 ** rng.uniform(-5, -2), "peft": rng.choice(["lora", "qlora", None]), "seed": 0}
        overrides["peft.r"] = rng.choice([4, 8, 16])
        sweep.add(overrides, {"val/loss": loss(overrides)})


def test_the_key_that_matters_is_first(make_sweep):
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    sweep = make_sweep()
    add_trials(sweep, 40, lambda o: (math.log10(o["optim.lr"]) + 3) ** 2 + 0.3 * (o["peft"] is None))
    sweep.add({"optim.lr": 1e-3}, {"val/loss": math.nan})
    sweep.add({"optim.lr": 1e-3}, state="failed")
    shares, how = found_in(sweep)
    assert list(shares)[:2] == ["optim.lr", "peft"]
    assert set(shares) == {"optim.lr", "peft", "peft.r"}, "seed has one value"
    assert math.isclose(sum(shares.values()), 1)
    assert shares["optim.lr"] > 0.6
    assert "40 trials" in how


@pytest.mark.parametrize(
    ("number", "loss", "why"),
    [
        (LEAST - 1, lambda o: o["optim.lr"], f"need {LEAST} finished trials; there are {LEAST - 1}"),
        (20, lambda o: 1.0, "the same val/loss"),
    ],
    ids=["few", "all alike"],
)
def test_without_importances_there_is_a_reason(make_sweep, number, loss, why):
    sweep = make_sweep()
    add_trials(sweep, number, loss)
    shares, how = found_in(sweep)
    assert shares == {}
    assert why in how


def test_keys_that_do_not_vary_give_none(make_sweep):
    sweep = make_sweep()
    for number in range(LEAST):
        sweep.add({"seed": 1}, {"val/loss": float(number)})
    assert found_in(sweep) == ({}, "No key has two values among the finished trials.")


@pytest.mark.parametrize("package", ["optuna", "sklearn"])
def test_a_missing_package_is_named(make_sweep, monkeypatch, package):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *arguments, **named)

    if package == "sklearn":
        pytest.importorskip("optuna")
    sweep = make_sweep()
    add_trials(sweep, LEAST, lambda o: o["optim.lr"])
    monkeypatch.setattr(builtins, "__import__", without)
    shares, how = found_in(sweep)
    assert shares == {}
    assert f"need the package {package}: pip install 'ftframe[optuna]'" in how
