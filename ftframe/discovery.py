"""What installed distributions add to ftframe, read from their metadata. Nothing of theirs is imported here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions
from typing import Any

from packaging.utils import canonicalize_name

from ftframe.api import API_VERSION

OWN = "ftframe"
"""The distribution whose built-in extensions are registered like anyone's."""

KINDS = ("dataset", "prompt_template", "metric")
"""What can be registered by a name; each has an entry-point group, its plural."""

API_GROUP = "ftframe.api"
"""Entry points `v1 = "package"`: the versions of `ftframe.api` that a distribution is written against."""

CONF_GROUP = "ftframe.conf"
"""Entry points `name = "package.conf"`: packages of config-group files."""

DISABLE_VARIABLE = "FTFRAME_DISABLE_PLUGINS"
"""Distributions to leave out, separated by commas; `all` for every one but ftframe itself."""


def group_of(kind: str) -> str:
    """The entry-point group of a kind."""
    return f"ftframe.{kind}s"


def disabled_names() -> set[str]:
    """The canonical names in `FTFRAME_DISABLE_PLUGINS`."""
    given = (name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(","))
    return {canonicalize_name(name) for name in given if name}


@dataclass(frozen=True)
class Claim:
    """One entry point: a name, what it stands for, and who registers it.

    Attributes:
        group: The entry-point group.
        name: What the config calls it.
        value: The object, as `module:attribute`, or the package of config files.
        distribution: Who registers it, as the distribution spells its own name.
        version: The distribution's version.
        trouble: Why it must not be used, known from the metadata alone; empty if nothing speaks against it.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str
    trouble: str = ""

    @property
    def owner(self) -> str:
        """The canonical name of the distribution."""
        return canonicalize_name(self.distribution)

    @property
    def source(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"

    @property
    def origin(self) -> str:
        """The distribution, its version and the module."""
        return f"{self.source} ({self.value})"

    @property
    def is_disabled(self) -> bool:
        """Whether `FTFRAME_DISABLE_PLUGINS` turns the distribution off."""
        return self.owner != OWN and not disabled_names().isdisjoint({self.owner, "all"})

    @property
    def refusal(self) -> str:
        """Why it must not be used, as far as can be told without importing it; empty if it may be tried."""
        return f"{DISABLE_VARIABLE} turns {self.distribution} off" if self.is_disabled else self.trouble

    def load(self) -> Any:
        """The object; this is what imports the distribution's module."""
        return EntryPoint(self.name, self.value, self.group).load()


def claims(group: str) -> list[Claim]:
    """The entry points of a group, those of disabled distributions included, ordered by name and value."""
    return sorted((c for c in _scan(tuple(sys.path)) if c.group == group), key=lambda c: (c.name, c.value))


def third_parties() -> dict[str, str]:
    """Version of each distribution that adds something that may be used, by its name; ftframe itself is left out."""
    found = [claim for claim in _scan(tuple(sys.path)) if claim.owner != OWN and not claim.refusal]
    return {claim.distribution: claim.version for claim in sorted(found, key=lambda claim: claim.owner)}


@lru_cache(maxsize=8)
def _scan(path: tuple[str, ...]) -> tuple[Claim, ...]:
    """Every entry point of ours on the import path; a distribution that is found twice counts once, as in imports."""
    found: dict[str, list[Claim]] = {}
    for distribution in distributions(path=list(path)):
        text = distribution.read_text("entry_points.txt") or ""
        if "ftframe." not in text:  # reading the names of all distributions would take most of the time of `--help`
            continue
        name = canonicalize_name(distribution.name)
        if name not in found:
            found[name] = list(_claims_of(distribution))
    return tuple(claim for several in found.values() for claim in several)


def _claims_of(distribution: Any) -> Iterator[Claim]:
    """A distribution's entry points in our groups."""
    entries = [entry for entry in distribution.entry_points if entry.group.startswith("ftframe.")]
    declared = [entry.name for entry in entries if entry.group == API_GROUP]
    name, version = distribution.name, distribution.version
    api = "" if canonicalize_name(name) == OWN else _api_trouble(declared)
    for entry in entries:
        yield Claim(entry.group, entry.name, entry.value, name, version, api or _name_trouble(entry.name))


def _api_trouble(declared: list[str]) -> str:
    """Why a distribution that declares these versions of the contracts cannot be used; empty if it can."""
    wanted = f"v{API_VERSION}"
    if wanted in declared:
        return ""
    if not declared:
        return f'it declares no API version; its pyproject.toml needs [project.entry-points."{API_GROUP}"] {wanted}'
    return f"it is written for ftframe API {', '.join(sorted(declared))}, and this ftframe has {wanted}"


def _name_trouble(name: str) -> str:
    """Why a name cannot be registered: it would be taken for a local file."""
    return (
        f"the name '{name}' holds '/' or '.py:', which stand for local files" if "/" in name or ".py:" in name else ""
    )
