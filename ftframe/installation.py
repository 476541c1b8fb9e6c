"""Look over what is installed: Python, the required packages, harmful releases and plugins."""

from __future__ import annotations

import platform
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ftframe.discovery import DISABLE_VARIABLE, OWN
from ftframe.errors import PluginError
from ftframe.registry import Registry

State = Literal["ok", "warn", "fail"]

# Releases that must not be trained with even where a requirement would let them in.
KNOWN_BAD = (
    ("lightning", "==2.6.2", "malware on the index; rotate every secret that this machine holds"),
    ("lightning", "==2.6.3", "malware on the index; rotate every secret that this machine holds"),
    ("lightning", "<=2.6.5", "CVE-2026-58659"),
    ("torch", "<2.10", "CVE-2026-24747, and older than the tested models and kernels"),
    ("transformers", "<5.5", "CVE-2026-4372 and CVE-2026-5241, and older than what is tested"),
    ("hydra-core", "<1.3.6", "GHSA-37p2, and older than the tested override grammar"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is the command that mends what is not ok."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


def requirements() -> dict[str, Requirement]:
    """What the installed ftframe needs, by canonical name; extras are left out."""
    needed = [Requirement(text) for text in requires("ftframe") or []]
    kept = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return {canonicalize_name(need.name): need for need in kept}


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pip_install(*names: str, options: str = "") -> str:
    """The command that installs these packages within ftframe's own bounds."""
    needed = requirements()
    return " ".join(["pip install", *options.split(), *(shlex.quote(str(needed.get(name, name))) for name in names)])


def python() -> Check:
    """The running interpreter, held against what ftframe declares."""
    running = ".".join(str(part) for part in sys.version_info[:3])
    wanted = metadata("ftframe")["Requires-Python"]
    if SpecifierSet(wanted).contains(running):
        return Check("python", "ok", f"{running} on {platform.system()} {platform.machine()}")
    return Check("python", "fail", f"{running}, but ftframe needs {wanted}", "uv venv --python 3.12")


def packages() -> Check:
    """Every requirement of ftframe: missing or below its floor fails, above its ceiling is untested."""
    broken: dict[str, str] = {}
    untested: dict[str, str] = {}
    needed = requirements()
    for name, need in needed.items():
        found = installed(name)
        if found is None:
            broken[name] = f"{name} is missing"
        elif not need.specifier.contains(found, prereleases=True):
            floor = SpecifierSet(",".join(str(part) for part in need.specifier if part.operator not in ("<", "<=")))
            side = untested if floor.contains(found, prereleases=True) else broken
            side[name] = f"{name} {found}, but {need} is needed"
    if not needed:
        return Check("packages", "fail", "ftframe's metadata names none", "pip install --force-reinstall ftframe")
    if not broken and not untested:
        return Check("packages", "ok", f"all {len(needed)} required packages fit")
    detail = "; ".join([*broken.values(), *untested.values()])
    return Check("packages", "fail" if broken else "warn", detail, pip_install(*broken, *untested))


def known_bad() -> Check:
    """Installed releases that are known to be harmful or not to work."""
    found = {name: release for name in {row[0] for row in KNOWN_BAD} if (release := installed(name))}
    bad = [
        row for row in KNOWN_BAD if row[0] in found and SpecifierSet(row[1]).contains(found[row[0]], prereleases=True)
    ]
    if not bad:
        shown = ", ".join(f"{name} {found[name]}" for name in sorted(found))
        return Check("known bad", "ok", f"none of {len(KNOWN_BAD)} known bad releases among {shown or 'no packages'}")
    detail = "; ".join(f"{name} {found[name]} ({bounds}): {why}" for name, bounds, why in bad)
    return Check("known bad", "fail", detail, pip_install(*dict.fromkeys(row[0] for row in bad), options="--upgrade"))


def plugins(registry: Registry) -> Check:
    """The names of one kind and where they come from; those that ftframe does not ship are imported."""
    name = f"{registry.kind}s".replace("_", " ")
    grouped = defaultdict(list)
    for given in registry.names():
        for claim in registry.claims[given]:
            grouped[claim.source].append(given)
    if not grouped:
        return Check(name, "fail", f"no package registers a {registry.kind}", "pip install --force-reinstall ftframe")
    shown = "; ".join(f"{', '.join(names)} ({where})" for where, names in grouped.items())
    broken = {given: trouble for given in registry.claims if (trouble := name_trouble(registry, given))}
    if not broken:
        return Check(name, "ok", shown)
    rivals = [[claim.owner for claim in registry.claims[given] if claim.owner != OWN] for given in broken]
    owners = dict.fromkeys(owners[-1] for owners in rivals)  # of two that are at odds, one has to go
    return Check(name, "warn", "; ".join([shown, *broken.values()]), f"export {DISABLE_VARIABLE}={','.join(owners)}")


def name_trouble(registry: Registry, name: str) -> str:
    """Why a name cannot be used, or an empty string. What ftframe ships is trusted unseen, what is disabled ignored."""
    found = [claim for claim in registry.claims[name] if not claim.is_disabled]
    if not found or {claim.owner for claim in found} == {OWN}:
        return ""
    try:
        registry.load(name)
    except PluginError as error:
        return str(error)
    return ""
