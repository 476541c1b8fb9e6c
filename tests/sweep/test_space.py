"""Hydra's override syntax as search spaces of Optuna's."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ftframe.errors import ConfigError
from ftframe.sweep.space import build_space, spell


def space(*overrides: str):
    return build_space(OverridesParser.create().parse_overrides(list(overrides)))


SPACES = {
    "a list": ("peft=lora,dora", CategoricalDistribution(["lora", "dora"])),
    "choice": ("peft.r=choice(4,8)", CategoricalDistribution([4, 8])),
    "range": ("peft.r=range(2,9,2)", IntDistribution(2, 8, step=2)),
    "range of floats": ("a=range(0.0,1.0,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
    "range, log": ("a=tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
    "interval": ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
    "interval, log": ("a=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
    "interval, int": ("a=int(interval(2,64))", IntDistribution(2, 64)),
    "interval, int, log": ("a=tag(log,int(interval(2,64)))", IntDistribution(2, 64, log=True)),
}


@pytest.mark.parametrize(("override", "distribution"), SPACES.values(), ids=SPACES)
def test_space(override: str, distribution) -> None:
    (parameter,) = space(override)
    assert parameter.key == override.partition("=")[0]
    assert parameter.distribution == distribution


CHOICES = {
    "lists": ("a=[1,2],[3]", ["[1,2]", "[3]"]),
    "nodes": ("a={b:1},{b:2}", ["{b:1}", "{b:2}"]),
    "equal numbers": ("a=1,1.0,true", ["1", "1.0", "True"]),
    "quoted": ("a='x,y',z", ["'x,y'", "z"]),
    "null": ("a=null,1", ["null", "1"]),
}


@pytest.mark.parametrize(("override", "spellings"), CHOICES.values(), ids=CHOICES)
def test_a_chosen_value_is_typed_as_it_was(override: str, spellings: list[str]) -> None:
    (parameter,) = space(override)
    assert [spell([parameter], {"a": choice})["a"] for choice in parameter.distribution.choices] == spellings


def test_numbers_are_typed_exactly() -> None:
    assert spell(space("a=interval(0,1)"), {"a": 1.23456789012345e-05}) == {"a": "1.23456789012345e-05"}


BAD = {
    "nothing varies": ((), "needs keys that vary"),
    "the wrong way round": (("a=interval(2,1)",), "a=interval(2,1)"),
    "log from 0": (("a=tag(log,interval(0,1))",), "tag(log,interval(0,1))"),
    "an empty range": (("a=range(3,3)",), "the range is empty"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_bad_space(overrides, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(*overrides)
    assert message in str(caught.value)


def test_a_grid_has_all_values() -> None:
    choice, numbers, floats = space("a=x,y", "b=range(2,9,2)", "c=range(0.0,1.0,0.25)")
    assert [choice.grid(), numbers.grid(), floats.grid()] == [["x", "y"], [2, 4, 6, 8], [0.0, 0.25, 0.5, 0.75]]
    with pytest.raises(ConfigError, match="needs choice"):
        space("a=interval(0,1)")[0].grid()
