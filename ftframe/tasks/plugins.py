"""`ftframe plugins`: what is installed, a new plugin, and whether one is sound."""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftframe import survey
from ftframe.compose import groups
from ftframe.discovery import DISABLE_VARIABLE, OWN, disabled_names
from ftframe.errors import ConfigError, PluginError, did_you_mean
from ftframe.runs import shown
from ftframe.survey import Row

__all__ = ["plugins"]

PLACEHOLDER = "newplugin"
STYLES = {"ok": "green", "slow": "yellow", "disabled": "dim", "broken": "red"}
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def plugins(arguments: Sequence[str] = ()) -> int:
    """List, start or check plugins; the exit code, 2 if a check has failed and 0 otherwise.

    Raises:
        ConfigError: If a new plugin's name or folder cannot be used.
        PluginError: If no such distribution is installed.
    """
    given = _parser().parse_args(arguments)
    if given.action == "new":
        return _new(given.name, Path(given.folder))
    if given.action == "check":
        return _check(given.name, given.overrides)
    return _list(as_json=given.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ftframe plugins", description="List what is installed, whoever provides it.")
    parser.add_argument("--json", action="store_true", help="one JSON array in place of the table")
    actions = parser.add_subparsers(dest="action")
    new = actions.add_parser("new", help="write a package with a dataset, a template, a metric, configs and tests")
    new.add_argument("name", help="what the config will call it: data=NAME")
    new.add_argument("--folder", default=".", help="where ftframe-NAME is made (default: here)")
    check = actions.add_parser("check", help="hold an installed distribution against what ftframe asks of a plugin")
    check.add_argument("name", help="the distribution")
    check.add_argument("overrides", nargs="*", help="what its config leaves open, such as data.dataset.path=rows.jsonl")
    return parser


def _list(*, as_json: bool) -> int:
    rows = survey.look_closely(survey.look())
    console = Console(highlight=False)
    if as_json:
        console.print_json(data=[asdict(row) for row in rows])
        return 0
    table = Table()
    for column in ("kind", "name", "distribution", "version", "state"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = f"[{STYLES[row.state]}]{row.state}[/]"
        table.add_row(row.kind, escape(row.name), escape(row.distribution), row.version, state)
    console.print(table)
    for row in rows:
        if row.reason:
            what = " ".join(part for part in (row.kind, row.name) if part)
            reason = " ".join(row.reason.split())
            console.print(f"{row.state}: {escape(f'{what} of {row.distribution}: {reason}')}", soft_wrap=True)
    absent = sorted(disabled_names() - {row.owner for row in rows} - {"all"})
    if absent:
        console.print(f"{DISABLE_VARIABLE} names what is not installed: {escape(', '.join(absent))}", soft_wrap=True)
    return 0


def _new(name: str, folder: Path) -> int:
    name = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"A plugin's name is a word of small letters, digits and '_', not '{name}'.")
    for row in survey.look():
        if row.name in (name, f"{name}_f1"):
            raise ConfigError(f"'{row.name}' is the name of a {row.kind} of {row.distribution} already.")
    options = groups()
    for group, option in (("data", name), ("experiment", name), ("metrics", f"{name}_f1")):
        if option in options[group]:
            raise ConfigError(f"'{option}' is an option of {group} already.")
    target = folder.expanduser() / f"ftframe-{name.replace('_', '-')}"
    if target.exists():
        raise ConfigError(f"{target} exists already, and nothing is overwritten. Choose another --folder.")
    written = _write_scaffold(name, target.resolve())
    console = Console(highlight=False)
    for path in written:
        console.print(escape(str(shown(path))), soft_wrap=True)
    place = shown(target.resolve())
    # Without the dot, pip would look for a distribution of this name on the index.
    install = f"pip install -e {shlex.quote(str(place) if place.is_absolute() else f'./{place}')}"
    console.print(f"\nNext: {escape(install)} && ftframe fit data={name} metrics={name}_f1", soft_wrap=True)
    return 0


def _write_scaffold(name: str, target: Path) -> list[Path]:
    """Copy the package `ftframe_newplugin`, with its name in place of that one."""
    root = Path(str(files("ftframe"))) / "scaffold"
    words = {
        f"ftframe-{PLACEHOLDER}": target.name,
        PLACEHOLDER.capitalize(): "".join(word.capitalize() for word in name.split("_")),
        PLACEHOLDER: name,
    }
    written = []
    for source in sorted(root.rglob("*")):
        if not source.is_file() or "__pycache__" in source.parts:
            continue
        path = target / _replaced(source.relative_to(root).as_posix(), words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_replaced(source.read_text(encoding="utf-8"), words), encoding="utf-8")
        written.append(path)
    return written


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """The text with each word in place of another, in one pass: a new word may hold an old one."""
    return re.sub("|".join(words), lambda found: words[found[0]], text)


def _check(name: str, overrides: Sequence[str]) -> int:
    rows = survey.look()
    mine = [row for row in rows if row.owner == canonicalize_name(name)]
    if not mine:
        others = sorted({row.distribution for row in rows if row.owner != OWN})
        raise PluginError(
            f"No installed distribution '{name}' adds anything to ftframe.{did_you_mean(name, others)}\n"
            f"Installed: {', '.join(others) or 'none'}."
        )
    return _check_rows(mine, overrides)


def _check_rows(rows: Sequence[Row], overrides: Sequence[str]) -> int:
    from ftframe.plugin_checks import checks_of  # imports torch, which a list of plugins does not need

    console = Console(highlight=False)
    failed = False
    for what, outcome, is_good in checks_of(rows, overrides):
        failed = failed or not is_good
        mark = "[green]ok[/]  " if is_good else "[red]FAIL[/]"
        console.print(f"{mark} {escape(what)}: {escape(' '.join(outcome.split()))}", soft_wrap=True)
    return 2 if failed else 0
