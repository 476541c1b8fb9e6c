"""The nodes of a config that registries build: where they are, whether they are sound, and where their code is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftframe.discovery import third_parties
from ftframe.errors import ConfigError
from ftframe.local_files import is_local
from ftframe.registry import Registry, datasets, metrics, prompt_templates

OFFERED: Mapping[str, Mapping[str, Any]] = {"prompt_template": {"tokenizer": None}, "dataset": {"node": ""}}
"""Arguments that ftframe passes itself where a registered object has such a parameter, by kind, with stand-ins."""


def named_nodes(node: Any, key: str = "") -> Iterator[tuple[Registry, str, Mapping[str, Any]]]:
    """Every node that a registry builds, with its key: `dataset`, `template`, the items of `metrics`, at any depth.

    Args:
        node: A config, or a part of one, as dicts and lists.
        key: Where it stands.
    """
    for name, child in node.items() if isinstance(node, Mapping) else ():
        path = f"{key}.{name}" if key else str(name)
        if name in ("dataset", "template") and isinstance(child, Mapping):
            registry = datasets if name == "dataset" else prompt_templates
            if child.get("name") is not None or (name == "dataset" and child):
                yield registry, path, child
        elif name == "metrics" and isinstance(child, list):
            yield from (
                (metrics, f"{path}[{index}]", item) for index, item in enumerate(child) if isinstance(item, Mapping)
            )
        else:
            yield from named_nodes(child, path)


def check_named(node: Any) -> None:
    """Hold every named node against the signature of what it names, without calling it.

    Args:
        node: A config, as dicts and lists.

    Raises:
        ConfigError: If an argument is unknown, missing or of the wrong type.
        PluginError: If a name is unknown, or what it stands for cannot be used.
    """
    for registry, key, named in named_nodes(node):
        try:
            registry.check(named, key=key, offered=OFFERED.get(registry.kind, {}))
        except ConfigError as error:
            if registry is datasets and is_local(str(named.get("name"))):  # the keys that stand there are another's
                raise ConfigError(f"{error}\ndata=local starts without the keys of another dataset.") from error
            raise


def origins(*nodes: Any) -> dict[str, str]:
    """Which distribution and version, or which local file, each registered name below the nodes comes from."""
    found = [item for node in nodes for item in named_nodes(node)]
    return {f"{registry.kind} {node['name']}": registry.origin(node["name"]) for registry, _, node in found}


def manifest(*nodes: Any) -> dict[str, Any]:
    """For a run's manifest: the extensions that it used, and every distribution that could add some."""
    return {"plugins": origins(*nodes), "installed_plugins": third_parties()}
