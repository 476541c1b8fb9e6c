"""Look up extensions by name; import them only when they are used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ftframe.errors import ConfigError, PluginError, did_you_mean
from ftframe.signatures import check_arguments


class Registry:
    """Names of one kind of extension, read from one entry-point group.

    Reading names imports nothing. `load` imports the one module that is asked for.
    """

    def __init__(self, kind: str) -> None:
        """Start empty-handed; `kind` is the singular noun: dataset, prompt_template, metric."""
        self.kind = kind
        self.group = f"ftframe.{kind}s"

    @cached_property
    def entries(self) -> Mapping[str, EntryPoint]:
        """Entry points by name.

        Raises:
            PluginError: If two distributions register one name.
        """
        entries: dict[str, EntryPoint] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda e: (e.name, e.value)):
            first = entries.setdefault(entry.name, entry)
            if first is not entry and origin(first) != origin(entry):
                raise PluginError(
                    f"Two packages register the {self.kind} '{entry.name}':\n  {origin(first)}\n  {origin(entry)}\n"
                    "Uninstall one, or ask its author to rename the entry point."
                )
        return entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return list(self.entries)

    def load(self, name: str) -> Any:
        """The registered object.

        Raises:
            PluginError: If no package registers the name, or its module does not import.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise PluginError(
                f"Unknown {self.kind} '{name}'.{did_you_mean(name, self.entries)}\n"
                f"Installed: {', '.join(self.entries) or 'none'}.\n"
                f"Packages add more through the entry-point group '{self.group}'."
            )
        try:
            return entry.load()
        except Exception as error:  # a plugin may raise anything at import
            raise PluginError(
                f"The {self.kind} '{name}' is registered by {origin(entry)}, but it does not import:\n"
                f"{type(error).__name__}: {error}"
            ) from error

    def build(self, spec: Mapping[str, Any], *, key: str, **offered: Any) -> Any:
        """The object that a node of the config describes.

        Args:
            spec: `name`, and the keyword arguments for the registered class or function.
            key: Where the node stands in the config, for messages.
            offered: Arguments that are passed if the registered object has a parameter of that name.

        Raises:
            ConfigError: If `name` is missing or an argument is unknown or missing.
            PluginError: As `load`.
        """
        arguments = dict(spec)
        name = arguments.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{key}.name is missing. Installed: {', '.join(self.names())}.")
        target = self.load(name)
        parameters = inspect.signature(target).parameters
        offered = {given: value for given, value in offered.items() if given in parameters}
        check_arguments(target, {**arguments, **offered}, key=key)
        return target(**arguments, **offered)


def origin(entry: EntryPoint) -> str:
    """The distribution, version and module that an entry point comes from."""
    return f"{entry.dist.name} {entry.dist.version} ({entry.value})" if entry.dist else entry.value


datasets = Registry("dataset")
prompt_templates = Registry("prompt_template")
metrics = Registry("metric")
