"""Look up extensions by name; import them only when they are used."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ftframe.contracts import built_trouble, registered_trouble
from ftframe.discovery import DISABLE_VARIABLE, OWN, Claim, claims, group_of
from ftframe.errors import ConfigError, PluginError, did_you_mean
from ftframe.local_files import is_local, load_local, local_source
from ftframe.signatures import check_arguments


class Registry:
    """Names of one kind of extension, read from one entry-point group.

    Reading names imports nothing. `load` imports the one module that is asked for.
    """

    def __init__(self, kind: str) -> None:
        """Start empty-handed; `kind` is the singular noun: dataset, prompt_template, metric."""
        self.kind = kind
        self.group = group_of(kind)

    @cached_property
    def claims(self) -> Mapping[str, list[Claim]]:
        """Everyone who registers a name, by name; more than one where distributions are at odds."""
        found: dict[str, list[Claim]] = {}
        for claim in claims(self.group):
            found.setdefault(claim.name, []).append(claim)
        return found

    def names(self) -> list[str]:
        """All names that may be used, sorted."""
        return [name for name, found in self.claims.items() if any(not claim.refusal for claim in found)]

    def claim(self, name: str) -> Claim:
        """The entry point that a name stands for.

        Raises:
            PluginError: If no package registers the name, two do, or its package was written for another API.
        """
        found = self.claims.get(name, [])
        usable = [claim for claim in found if not claim.refusal]
        if len(usable) > 1:
            raise PluginError(
                f"Two packages register the {self.kind} '{name}':\n  "
                + "\n  ".join(claim.origin for claim in usable)
                + f"\n{remedy(claim.owner for claim in usable)}"
            )
        if usable:
            return usable[0]
        if found:
            raise PluginError(f"The {self.kind} '{name}' of {found[0].origin} cannot be used: {found[0].refusal}.")
        raise PluginError(
            f"Unknown {self.kind} '{name}'.{did_you_mean(name, self.names())}\n"
            f"Installed: {', '.join(self.names()) or 'none'}.\n"
            f"Packages add more through the entry-point group '{self.group}'."
        )

    def origin(self, name: str) -> str:
        """Where a name's code comes from: distribution, version and module, or a local file and its digest."""
        return local_source(name) if is_local(name) else self.claim(name).origin

    def load(self, name: str, *, key: str = "name") -> Any:
        """The registered object, or the object of a local file.

        Args:
            name: As registered, or `path/to/file.py:attribute`.
            key: The config key that gives it, for messages.

        Raises:
            ConfigError: If a local file or its attribute is missing.
            PluginError: As `claim`; or if its module does not import, or the object is not of this kind.
        """
        if is_local(name):
            loaded, where = load_local(name, key=key), name
        else:
            claim = self.claim(name)
            loaded, where = self._import(claim), f"'{name}' of {claim.origin}"
        if trouble := registered_trouble(self.kind, loaded):
            raise PluginError(f"The {self.kind} {where} cannot be used: {trouble}.")
        return loaded

    def _import(self, claim: Claim) -> Any:
        try:
            return claim.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything at import, or even leave
            raise PluginError(
                f"The {self.kind} '{claim.name}' is registered by {claim.origin}, but it does not import:\n"
                f"{type(error).__name__}: {error}"
            ) from error

    def check(self, spec: Mapping[str, Any], *, key: str, offered: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Hold a node of the config against the signature of what it names, without calling it.

        Args:
            spec: `name`, and the keyword arguments for the registered class or function.
            key: Where the node stands in the config, for messages.
            offered: Arguments that ftframe passes itself if the registered object has a parameter of that name.

        Raises:
            ConfigError: If `name` is missing or an argument is unknown, missing or of the wrong type.
            PluginError: As `load`.
        """
        arguments = dict(spec)
        name = arguments.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{key}.name is missing. Installed: {', '.join(self.names())}.")
        target = self.load(name, key=f"{key}.name")
        if taken := sorted(set(offered) & set(arguments)):
            raise ConfigError(f"{key}.{taken[0]} cannot be set: ftframe passes the run's own.")
        parameters = inspect.signature(target).parameters
        passed = {given: value for given, value in offered.items() if given in parameters}
        check_arguments(target, {**arguments, **passed}, key=key)
        return target

    def build(self, spec: Mapping[str, Any], *, key: str, **offered: Any) -> Any:
        """The object that a node of the config describes.

        Args:
            spec: `name`, and the keyword arguments for the registered class or function.
            key: Where the node stands in the config, for messages.
            offered: Arguments that are passed if the registered object has a parameter of that name.

        Raises:
            ConfigError: As `check`.
            PluginError: As `load`; or if what is built is not of this kind.
        """
        target = self.check(spec, key=key, offered=offered)
        parameters = inspect.signature(target).parameters
        arguments = {name: value for name, value in spec.items() if name != "name"}
        offered = {given: value for given, value in offered.items() if given in parameters}
        whose = f"{self.kind} {self._shown(spec['name'])}"
        try:
            built = target(**arguments, **offered)
        except SystemExit as error:  # a run that ends here would look like one that is done
            raise PluginError(
                f"The {whose} cannot be used: it leaves the process (SystemExit {error.code})."
            ) from error
        except Exception as error:
            error.add_note(f"(raised by the {whose})")
            raise
        if trouble := built_trouble(self.kind, built):
            raise PluginError(f"The {whose} cannot be used: {trouble}.")
        return built

    def _shown(self, name: str) -> str:
        return name if is_local(name) else f"'{name}' of {self.claim(name).origin}"


def remedy(owners: Iterable[str]) -> str:
    """What to do where distributions, by their canonical names, are at odds."""
    choices = " or ".join(f"{DISABLE_VARIABLE}={owner}" for owner in dict.fromkeys(owners) if owner != OWN)
    return f"Leave one out ({choices}), uninstall it, or ask its author to rename what it adds."


datasets = Registry("dataset")
prompt_templates = Registry("prompt_template")
metrics = Registry("metric")
REGISTRIES = {registry.kind: registry for registry in (datasets, prompt_templates, metrics)}
