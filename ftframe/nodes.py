"""Nodes of the config: held against what they name, and built."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from ftframe.compose import targets
from ftframe.errors import ConfigError
from ftframe.signatures import check_arguments


def plain(node: Any) -> Any:
    """A node as dicts, lists and plain values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def check_node(node: Any, key: str) -> None:
    """Hold one node with a `_target_` against its target's signature.

    Raises:
        ConfigError: As `check_nodes`, or if the target cannot be imported.
    """
    if node is None:
        return
    arguments = plain(node)
    name = arguments.pop("_target_", None)
    if name is None:
        raise ConfigError(f"{key}._target_ is missing: it names the class that {key} builds.")
    target = locate(name, f"{key}._target_")
    is_partial = arguments.pop("_partial_", False)
    check_arguments(target, arguments, key=key, partial=is_partial)


def locate(name: str, key: str) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        ConfigError: If it cannot be imported, or its package only borrows it: `ftframe.cli.os.system` has an allowed
            beginning, and would still run anything.
    """
    try:
        target = get_object(name)
    except Exception as error:  # whatever the import raises
        raise ConfigError(f"{key}={name} cannot be imported: {error}") from error
    package = name.partition(".")[0]
    home = f"{package}.optim." if package in ("torch", "bitsandbytes") else f"{package}."
    if not f"{getattr(target, '__module__', None)}.".startswith(home):
        raise ConfigError(f"{key}={name} is not allowed: {package} does not define it.")
    return target


def build(node: Any, key: str, **further: Any) -> Any:
    """The object of a node with a `_target_`.

    Raises:
        ConfigError: If its class refuses the arguments or a package of its own is missing.
    """
    for target_key, name in targets(node, key):
        locate(name, target_key)
    try:
        return instantiate(node, _convert_="all", **further)
    except Exception as error:
        cause = error.__cause__ or error
        hint = f"\nInstall what it needs: pip install 'ftframe[{_extra(node)}]'" if _is_import(cause) else ""
        raise ConfigError(f"{key}: {type(cause).__name__}: {cause}{hint}") from error


def _is_import(error: BaseException) -> bool:
    return isinstance(error, ImportError)


def _extra(node: Any) -> str:
    """The optional extra that a logger belongs to."""
    return str(node["_target_"]).rpartition(".")[2].removesuffix("Logger").lower()
