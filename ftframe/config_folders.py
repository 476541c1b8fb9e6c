"""Folders of config groups: ftframe's own and those that installed distributions bring. No package is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path

from ftframe import __version__
from ftframe.discovery import CONF_GROUP, OWN, claims

BUILT_IN = "ftframe.conf"
SUFFIX = ".yaml"


@dataclass(frozen=True)
class ConfigFolder:
    """Config-group files of one provider.

    Attributes:
        source: Who provides it, with the version.
        owner: The canonical name of the distribution; empty for a folder that the user names.
        path: The folder; None where there is trouble.
        trouble: Why it is not used; empty if it is.
        options: The file of each option, by `group/option`.
        is_disabled: Whether the user turned its distribution off.
    """

    source: str
    owner: str
    path: Path | None
    trouble: str = ""
    options: Mapping[str, Path] = field(default_factory=dict)
    is_disabled: bool = False


def built_in() -> ConfigFolder:
    """The groups that ftframe ships."""
    folder = read_folder(find_package(BUILT_IN), source=f"{OWN} {__version__}", owner=OWN)
    assert folder.path is not None, f"the package {BUILT_IN} is a folder"
    return folder


def installed() -> list[ConfigFolder]:
    """The folder of each entry point in `ftframe.conf`, with its trouble where it cannot be used."""
    found = []
    for claim in claims(CONF_GROUP):
        if claim.refusal:
            found.append(ConfigFolder(claim.source, claim.owner, None, claim.refusal, is_disabled=claim.is_disabled))
            continue
        path = find_package(claim.value)
        folder = read_folder(path, source=claim.source, owner=claim.owner)
        if path is None:
            missing = f"the package {claim.value} has no folder"
            folder = ConfigFolder(claim.source, claim.owner, None, missing)
        elif not folder.options:
            folder = ConfigFolder(claim.source, claim.owner, None, f"{path} holds no group/option{SUFFIX}")
        found.append(folder)
    return found


def usable() -> list[ConfigFolder]:
    """The folders of installed distributions that are searched for options."""
    return [folder for folder in installed() if folder.path is not None]


def read_folder(path: Path | None, *, source: str, owner: str = "") -> ConfigFolder:
    """A folder with what stands in it; without a path it holds nothing."""
    files = sorted(path.rglob(f"*{SUFFIX}")) if path is not None else []
    options = {file.relative_to(path).with_suffix("").as_posix(): file for file in files} if path is not None else {}
    return ConfigFolder(source, owner, path, options=options)


def groups(folders: Iterable[ConfigFolder]) -> dict[str, list[str]]:
    """Options of each group; the configs of the commands and Hydra's own groups are left out."""
    found: dict[str, set[str]] = {}
    for name in (name for folder in folders for name in folder.options):
        group, _, option = name.rpartition("/")
        if group and not group.startswith("hydra/"):
            found.setdefault(group, set()).add(option)
    return {group: sorted(options) for group, options in sorted(found.items())}


def clashes(folders: Sequence[ConfigFolder]) -> dict[str, list[ConfigFolder]]:
    """Everyone who provides an option, for each option that more than one provides."""
    owners: dict[str, list[ConfigFolder]] = {}
    for folder in folders:
        for name in folder.options:
            owners.setdefault(name, []).append(folder)
    return {name: found for name, found in owners.items() if len(found) > 1}


def describe_clashes(found: Mapping[str, Sequence[ConfigFolder]]) -> str:
    """One line for each option, and one for each of its files."""
    lines = []
    for name, folders in found.items():
        group, _, option = name.rpartition("/")
        lines.append(f"{len(folders)} providers have the config {f'{group}={option}' if group else option}:")
        lines += [f"  {folder.source} ({folder.options[name]})" for folder in folders]
    return "\n".join(lines)


def find_package(name: str) -> Path | None:
    """The folder of a package, found without executing it or the packages it lies in; None if there is none.

    `importlib.util.find_spec("a.b")` would import `a`, so the import system's finders are asked directly.
    """
    parts = name.split(".")
    locations: list[str] | None = None
    for depth in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:depth]), locations)
        if spec is not None and spec.submodule_search_locations is not None:
            locations = list(spec.submodule_search_locations)
        else:  # a folder without __init__.py inside of a package: a namespace needs its parent imported
            locations = [str(place / parts[depth - 1]) for place in map(Path, locations or [])]
    return next((place for place in map(Path, locations or []) if place.is_dir()), None)


def _spec(name: str, locations: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, locations)
        except Exception:  # a finder that cannot answer without its parent, or is broken, knows nothing
            continue
        if spec is not None:
            return spec
    return None
