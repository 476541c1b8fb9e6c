"""Everything that is installed for ftframe, row by row: kind, name, distribution, version, state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from packaging.utils import canonicalize_name

from ftframe import config_folders
from ftframe.config_folders import ConfigFolder
from ftframe.discovery import OWN, Claim
from ftframe.probe import Probed, probe
from ftframe.registry import REGISTRIES, Registry
from ftframe.search_path import find_clashes

SLOW = 2.0
"""Seconds of import from which on a plugin is called slow."""


State = Literal["ok", "slow", "broken", "disabled"]


@dataclass(frozen=True)
class Row:
    """One name, or one folder of config groups.

    Attributes:
        kind: `dataset`, `prompt_template`, `metric` or `config`.
        name: What the config calls it.
        distribution: Who provides it.
        version: The distribution's version.
        state: Whether it can be used; `slow` if it can, but takes its time.
        reason: What is the matter, where the state is not `ok`.
    """

    kind: str
    name: str
    distribution: str
    version: str
    state: State = "ok"
    reason: str = ""

    @property
    def owner(self) -> str:
        """The canonical name of the distribution."""
        return canonicalize_name(self.distribution)


def look() -> list[Row]:
    """A row for each name and each group of configs, as far as can be told without importing a plugin."""
    rows = [
        _row(registry, claim)
        for registry in REGISTRIES.values()
        for found in registry.claims.values()
        for claim in found
    ]
    clashes = find_clashes()
    return rows + [row for folder in config_folders.installed() for row in _config_rows(folder, clashes)]


def look_closely(rows: Iterable[Row]) -> list[Row]:
    """The same rows after each plugin was imported in a process of its own; what ftframe ships is trusted unseen."""
    rows = list(rows)
    usable = {row.owner for row in rows if row.kind in REGISTRIES and row.state == "ok"}
    asked = sorted(usable - {OWN})
    with ThreadPoolExecutor(max_workers=2) as pool:
        probed = dict(zip(asked, pool.map(probe, asked), strict=True))
    return [_closer(row, probed.get(row.owner, {}).get((row.kind, row.name))) for row in rows]


def troubles() -> list[str]:
    """A line for each plugin that cannot be used, as far as can be told without importing one."""
    return [f"{row.kind} {row.name} of {row.distribution} {row.version}: {row.reason}" for row in look() if row.reason]


def _row(registry: Registry, claim: Claim) -> Row:
    rivals = [c for c in registry.claims[claim.name] if c is not claim and not c.refusal]
    row = Row(registry.kind, claim.name, claim.distribution, claim.version)
    if claim.is_disabled:
        return replace(row, state="disabled", reason=claim.refusal)
    if claim.trouble:
        return replace(row, state="broken", reason=claim.trouble)
    if rivals:
        return replace(row, state="broken", reason=f"registered by {' and by '.join(c.origin for c in rivals)} as well")
    return row


def _config_rows(folder: ConfigFolder, clashes: Mapping[str, Sequence[ConfigFolder]]) -> Iterator[Row]:
    distribution, _, version = folder.source.rpartition(" ")
    if folder.trouble:
        state: State = "disabled" if folder.is_disabled else "broken"
        yield Row("config", "", distribution, version, state, folder.trouble)
    groups: dict[str, list[str]] = {}
    for name in folder.options:
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    for group, names in groups.items():
        rivals = [
            f"{other.source} has {name} as well"
            for name in names
            for other in clashes.get(name, ())
            if other.owner != folder.owner
        ]
        shown = ",".join(name.rpartition("/")[2] for name in names)
        row = Row("config", f"{group}={shown}" if group else shown, distribution, version)
        yield replace(row, state="broken", reason="; ".join(rivals)) if rivals else row


def _closer(row: Row, probed: Probed | None) -> Row:
    """The row with what its import has shown."""
    if probed is None:
        return row
    if probed.trouble:
        return replace(row, state="broken", reason=probed.trouble)
    if probed.seconds > SLOW:
        return replace(row, state="slow", reason=f"it takes {probed.seconds:.1f} s to import")
    return row
