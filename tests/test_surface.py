"""What people and plugins build on, frozen: a change of it is a conscious act.

`python tests/test_surface.py` writes `tests/surface.txt` anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ftframe import api, compose, config_folders, discovery
from ftframe.cli import CONFIGURED, PLAIN
from ftframe.registry import REGISTRIES

FROZEN = Path(__file__).with_name("surface.txt")


def surface() -> list[str]:
    """Every command, key, option, registered name, entry-point group and signature, a line each."""
    lines = [f"command {name}" for name in (*CONFIGURED, *PLAIN)]
    for command in CONFIGURED:
        cfg = OmegaConf.to_container(compose.compose(command), enum_to_str=True)
        lines += [f"key {command} {key}" for key in keys(cfg)]
    options = config_folders.groups([config_folders.built_in()])
    lines += [f"option {group}={option}" for group, names in options.items() for option in names]
    for registry in REGISTRIES.values():
        own = [name for name, found in registry.claims.items() if found[0].owner == discovery.OWN]
        lines += [f"name {registry.kind} {name}" for name in own]
    groups = [discovery.API_GROUP, discovery.CONF_GROUP, *map(discovery.group_of, discovery.KINDS)]
    lines += [f"entry points {group}" for group in groups]
    lines += [f"api {line}" for line in signatures(api)]
    return lines


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a config's leaves; an empty node is one."""
    if not isinstance(node, Mapping) or not node:
        yield prefix
        return
    for name, child in node.items():
        yield from keys(child, f"{prefix}.{name}" if prefix else str(name))


def signatures(module: Any) -> Iterator[str]:
    """What the module promises: values, and signatures of classes and of their methods."""
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            yield f"{name} = {thing!r}"
            continue
        has_signature = not getattr(thing, "_is_protocol", False) and not issubclass(thing, Exception)
        yield f"{name}{inspect.signature(thing)}" if has_signature else name
        for attribute, value in vars(thing).items():
            is_public = not attribute.startswith("_") or attribute == "__call__"
            if is_public and inspect.isfunction(value) and not attribute.startswith("__init"):
                yield f"{name}.{attribute}{inspect.signature(value)}"
            elif is_public and isinstance(value, property):
                yield f"{name}.{attribute}"


def checks_for_authors() -> list[str]:
    """The signatures of the checks for authors of plugins."""
    from ftframe import testing

    functions = [getattr(testing, name) for name in testing.__all__ if name.startswith("check_")]
    return [f"testing {function.__name__}{inspect.signature(function)}" for function in functions]


def whole() -> str:
    return "\n".join([*surface(), *checks_for_authors()]) + "\n"


def test_surface_is_as_it_was() -> None:
    frozen, now = FROZEN.read_text(encoding="utf-8").splitlines(), whole().splitlines()
    assert len(frozen) >= 200
    changes = [f"- {line}" for line in frozen if line not in now] + [f"+ {line}" for line in now if line not in frozen]
    assert not changes, (
        "What people and plugins build on has changed:\n" + "\n".join(changes) + "\n"
        "If that is meant, run `python tests/test_surface.py` and commit tests/surface.txt. What a plugin written "
        "before would trip over needs a new ftframe.api.API_VERSION as well."
    )


if __name__ == "__main__":
    FROZEN.write_text(whole(), encoding="utf-8")
