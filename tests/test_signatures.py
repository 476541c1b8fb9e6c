"""Arguments of a config against a callable's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

import lightning
import peft
import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig

from ftframe.errors import ConfigError
from ftframe.signatures import check_arguments

INT_OR_NULL, FLOAT = "k.limit={}: int or null is needed.", "k.ratio={}: float is needed."


def plain(size: int, *, ratio: float = 0.5, limit: int | None = None, name: str = "x", flag: bool = False) -> None:
    """Plain types only."""


def choices(mode: Literal["fast", "slow"] = "fast", depth: Literal[1, 2] | None = None) -> None:
    """Literals."""


def old_style(limit: Optional[int] = None, size: Union[int, str] = 1) -> None:  # noqa: UP007, UP045
    """Unions as they were written before."""


def mixed(lr: float | Tensor = 0.1, columns: Mapping[str, str] | None = None, anything: Any = None) -> None:
    """Unions with types that no plain value has."""


def nested(limit: Literal["all"] | Union[int, None] = None) -> None:  # noqa: UP007
    """A union in a union."""


def items(values: Sequence[int] = (), pair: tuple[float, float] = (0.0, 1.0)) -> None:
    """Containers, which are left to the callable."""


def unannotated(size, limit=None):
    """No annotations."""


def open_ended(size: int = 1, **kwargs: Any) -> None:
    """Takes anything."""


def positional(a: int, /, b: int = 1, *rest: int) -> None:
    """Parameters that a config cannot name."""


def unresolvable(size: "NoSuchType" = None, limit: int = 1) -> None:  # noqa: F821, UP037
    """An annotation of a library that only exists while types are checked."""


class Plain:
    """A class with a constructor."""

    def __init__(self, *, size: int = 1) -> None:
        """Take a size."""


class Child(Plain):
    """Inherits its constructor."""


@dataclass
class Data:
    """A dataclass."""

    size: int
    ratio: float = 0.5
    names: list[str] = field(default_factory=list)


ADAMW_UNKNOWN = "Unknown key 'k.weight_deacy'. Did you mean 'weight_decay'?\nAllowed: params, lr, "
CASES = {
    "all right": (plain, {"size": 1, "ratio": 0.1, "limit": 3, "name": "y", "flag": True}, None),
    "defaults": (plain, {"size": 1}, None),
    "unknown, near": (
        plain,
        {"size": 1, "limt": 3},
        "Unknown key 'k.limt'. Did you mean 'limit'?\nAllowed: size, ratio, limit, name, flag.",
    ),
    "unknown, far": (plain, {"size": 1, "zzz": 3}, "Unknown key 'k.zzz'.\nAllowed: size, ratio, limit, name, flag."),
    "missing": (plain, {}, "No value for k.size. Set it on the command line: k.size=..."),
    "int accepted for float": (plain, {"size": 1, "ratio": 1}, None),
    "null accepted": (plain, {"size": 1, "limit": None}, None),
    "str for int or null": (plain, {"size": 1, "limit": "abc"}, INT_OR_NULL.format("abc")),
    "float for int or null": (plain, {"size": 1, "limit": 1.5}, INT_OR_NULL.format("1.5")),
    "str for float": (plain, {"size": 1, "ratio": "much"}, FLOAT.format("much")),
    "bool for float": (plain, {"size": 1, "ratio": True}, FLOAT.format("True")),
    "null for float": (plain, {"size": 1, "ratio": None}, FLOAT.format("None")),
    "bool for int": (plain, {"size": True}, "k.size=True: int is needed."),
    "int for bool": (plain, {"size": 1, "flag": 1}, "k.flag=1: bool is needed."),
    "int for str": (plain, {"size": 1, "name": 1}, "k.name=1: str is needed."),
    "literal": (choices, {"mode": "slow", "depth": 2}, None),
    "not in literal": (choices, {"mode": "sloww"}, "k.mode=sloww: 'fast' or 'slow' is needed."),
    "not in optional literal": (choices, {"depth": 3}, "k.depth=3: 1 or 2 or null is needed."),
    "bool for a literal of ints": (choices, {"depth": True}, "k.depth=True: 1 or 2 or null is needed."),
    "null for optional literal": (choices, {"depth": None}, None),
    "Optional": (old_style, {"limit": "abc"}, "k.limit=abc: int or null is needed."),
    "Union": (old_style, {"size": 1.5}, "k.size=1.5: int or str is needed."),
    "Union, either": (old_style, {"size": "s"}, None),
    "nested union, literal": (nested, {"limit": "all"}, None),
    "nested union, null": (nested, {"limit": None}, None),
    "nested union, neither": (nested, {"limit": "al"}, "k.limit=al: 'all' or int or null is needed."),
    "float beside Tensor": (mixed, {"lr": 1e-3}, None),
    "str beside Tensor": (mixed, {"lr": "fast"}, "k.lr=fast: float is needed."),
    "mapping": (mixed, {"columns": {"a": "b"}}, None),
    "Any": (mixed, {"anything": "x"}, None),
    "containers": (items, {"values": [1, 2], "pair": [0.9, 0.999]}, None),
    "unannotated": (unannotated, {"size": "anything", "limit": 1.5}, None),
    "unannotated, missing": (unannotated, {}, "No value for k.size. Set it on the command line: k.size=..."),
    "kwargs": (open_ended, {"whatever": 1}, None),
    "kwargs, named one checked": (open_ended, {"size": "x"}, "k.size=x: int is needed."),
    "kwargs by that name": (open_ended, {"kwargs": 1}, None),
    "positional only": (positional, {"a": 1}, "Unknown key 'k.a'.\nAllowed: b."),
    "star arguments": (positional, {"rest": 1}, "Unknown key 'k.rest'.\nAllowed: b."),
    "unresolvable annotation": (unresolvable, {"size": 1}, None),
    "class": (Plain, {"size": "x"}, "k.size=x: int is needed."),
    "inherited constructor": (Child, {"siez": 1}, "Unknown key 'k.siez'. Did you mean 'size'?\nAllowed: size."),
    "dataclass": (Data, {"size": 1, "names": ["a"]}, None),
    "dataclass, type": (Data, {"size": "x"}, "k.size=x: int is needed."),
    "dataclass, missing": (Data, {}, "No value for k.size. Set it on the command line: k.size=..."),
    "LoraConfig": (peft.LoraConfig, {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "bias": "none"}, None),
    "LoraConfig, list": (peft.LoraConfig, {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}, None),
    "LoraConfig, type": (peft.LoraConfig, {"r": "abc"}, "k.r=abc: int is needed."),
    "LoraConfig, float": (peft.LoraConfig, {"lora_dropout": "abc"}, "k.lora_dropout=abc: float is needed."),
    "LoraConfig, literal": (
        peft.LoraConfig,
        {"bias": "some"},
        "k.bias=some: 'none' or 'all' or 'lora_only' is needed.",
    ),
    "Trainer": (lightning.Trainer, {"max_epochs": 1, "devices": "auto", "limit_train_batches": 0.5}, None),
    "Trainer, either": (lightning.Trainer, {"devices": 2, "gradient_clip_val": 1}, None),
    "Trainer, type": (lightning.Trainer, {"max_epochs": "abc"}, "k.max_epochs=abc: int or null is needed."),
    "AdamW": (torch.optim.AdamW, {"params": [], "lr": 1e-3, "betas": [0.9, 0.999]}, None),
    "AdamW, type": (torch.optim.AdamW, {"params": [], "lr": "abc"}, "k.lr=abc: float is needed."),
    "AdamW, missing": (torch.optim.AdamW, {}, "No value for k.params. Set it on the command line: k.params=..."),
    "BitsAndBytesConfig takes kwargs": (BitsAndBytesConfig, {"load_in_4bit": True}, None),
}


@pytest.mark.parametrize(("target", "arguments", "message"), CASES.values(), ids=CASES)
def test_check_arguments(target: Any, arguments: dict[str, Any], message: str | None) -> None:
    if message is None:
        check_arguments(target, arguments, key="k")
        return
    with pytest.raises(ConfigError) as caught:
        check_arguments(target, arguments, key="k")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "arguments", "beginning"),
    [
        (peft.LoraConfig, {"rr": 8}, "Unknown key 'k.rr'. Did you mean 'r'?\nAllowed: "),
        (lightning.Trainer, {"max_epoch": 1}, "Unknown key 'k.max_epoch'. Did you mean 'max_epochs'?\nAllowed: "),
        (torch.optim.AdamW, {"weight_deacy": 1}, ADAMW_UNKNOWN),
    ],
    ids=["LoraConfig", "Trainer", "AdamW"],
)
def test_unknown_key_of_a_library(target: Any, arguments: dict[str, Any], beginning: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments(target, arguments, key="k", partial=True)
    assert str(caught.value).startswith(beginning)


def test_partial_can_miss_arguments_but_not_take_wrong_ones() -> None:
    check_arguments(torch.optim.AdamW, {"lr": 1e-3}, key="k", partial=True)
    check_arguments(plain, {}, key="k", partial=True)
    with pytest.raises(ConfigError, match=r"^k\.size=x: int is needed\.$"):
        check_arguments(plain, {"size": "x"}, key="k", partial=True)
    with pytest.raises(ConfigError, match=r"^Unknown key 'k\.sze'\. Did you mean 'size'\?"):
        check_arguments(plain, {"sze": 1}, key="k", partial=True)


def test_several_missing_are_named_together() -> None:
    def needs(a: int, b: int, c: int = 0) -> None:
        """Two without a default."""

    with pytest.raises(ConfigError, match=r"^No value for k\.a, k\.b\. Set it on the command line: k\.a=\.\.\.$"):
        check_arguments(needs, {}, key="k")
