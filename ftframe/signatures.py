"""Hold arguments from a config against a callable's own signature, before it is called."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from ftframe.errors import ConfigError, did_you_mean

_SCALARS = (bool, int, float, str)


def check_arguments(target: Any, arguments: Mapping[str, Any], *, key: str, partial: bool = False) -> None:
    """Refuse arguments that the callable would not take.

    Args:
        target: A class or function.
        arguments: Keyword arguments for it.
        key: Where they stand in the config, for messages.
        partial: Whether further arguments will be given later, so that none can be called missing.

    Raises:
        ConfigError: If one is unknown, missing or of the wrong type; the message names the config key.
    """
    parameters = inspect.signature(target).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    hints = _type_hints(target)
    for given, value in arguments.items():
        if given in named:
            _check_type(value, hints.get(given, Any), f"{key}.{given}")
        elif inspect.Parameter.VAR_KEYWORD not in kinds:
            raise ConfigError(f"Unknown key '{key}.{given}'.{did_you_mean(given, named)}\nAllowed: {', '.join(named)}.")
    missing = [f"{key}.{n}" for n, p in named.items() if p.default is p.empty and n not in arguments]
    if missing and not partial:
        raise ConfigError(f"No value for {', '.join(missing)}. Set it on the command line: {missing[0]}=...")


def _type_hints(target: Any) -> dict[str, Any]:
    """Resolved annotations of the parameters; empty where a library's cannot be resolved."""
    hints: dict[str, Any] = {}
    for owner in (target, getattr(target, "__init__", None)):
        try:
            hints |= typing.get_type_hints(owner)
        except (NameError, TypeError, AttributeError):
            continue
    return hints


def _check_type(value: Any, hint: Any, key: str) -> None:
    members = _members(hint)
    scalars = [m for m in members if m in _SCALARS or typing.get_origin(m) is typing.Literal or m is type(None)]
    if Any in members or not any(m is not type(None) for m in scalars):
        return  # the library says nothing that a plain value could be held against
    if not isinstance(value, (*_SCALARS, type(None))) and len(scalars) < len(members):
        return  # a list or a mapping, which another member may take
    if not any(_accepts(member, value) for member in scalars):
        wanted = " or ".join(dict.fromkeys(_name(member) for member in scalars))
        raise ConfigError(f"{key}={value}: {wanted} is needed.")


def _members(hint: Any) -> list[Any]:
    """The members of a union, nested ones included; a plain type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [leaf for member in typing.get_args(hint) for leaf in _members(member)]
    return [hint]


def _accepts(member: Any, value: Any) -> bool:
    if typing.get_origin(member) is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(member))
    if member is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is member


def _name(member: Any) -> str:
    if typing.get_origin(member) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(member))
    return "null" if member is type(None) else str(member.__name__)
