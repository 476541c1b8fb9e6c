"""`experiment/best.yaml`: the config of the best trial, as a file that Hydra composes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ftframe import config_folders
from ftframe.durable_files import write_text
from ftframe.redaction import REDACTED
from ftframe.sweep.board import spell_value
from ftframe.sweep.ranking import Entry
from ftframe.sweep.trials import Objective, Sweep

FILE = "experiment/best.yaml"
"""Where it lies in a sweep's folder, so that `--config-dir FOLDER experiment=best` finds it."""

_OF_THE_SWEEP = re.compile(r"(hydra|sweep)([./](?!searchpath).*)?|output_dir")
_PLAIN = re.compile(r"(override )?/?[A-Za-z_][A-Za-z0-9_./@-]*")
_INDEX = re.compile(r"\[|\.[0-9]+(\.|$)")
"""In a dotted key, a place in a list: a file can only say the whole list."""


@dataclass(frozen=True)
class Override:
    """An override with its value.

    Attributes:
        key: A dotted key, or a group with or without its package.
        sign: `+`, `++`, `~` or nothing.
        text: As it is typed.
    """

    key: str
    value: Any
    sign: str = ""
    text: str = ""


def write_experiment(sweep: Sweep, best: Entry | None) -> None:
    """Write the file, or take away an old one if there is no best trial.

    It says what was typed for all trials and what varies, so that it composes to the trial's own config.
    """
    path = sweep.folder / FILE
    if best is None:
        path.unlink(missing_ok=True)
        return
    overrides = [*_typed(sweep.typed, best.trial.overrides), *_varied(best.trial.overrides)]
    said = [override for override in overrides if override.value != REDACTED]
    left_out = [override for override in overrides if override.value == REDACTED]
    path.parent.mkdir(exist_ok=True)
    write_text(path, _header(sweep, best, left_out) + _render(said))


def _header(sweep: Sweep, best: Entry, left_out: Iterable[Override]) -> str:
    metrics = ", ".join(f"{o.metric} {best.trial.metrics[o.metric]:.6g}" for o in sweep.objectives)
    name = sweep.folder.resolve().name
    lines = [
        "@package _global_",
        f"Trial {best.trial.number} of {name}, the best by {_by(sweep.objectives)}: {metrics}.",
        f"ftframe {sweep.command} --config-dir {name} experiment=best",
        *(f"Left out, since it is a secret: {override.key}" for override in left_out),
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _by(objectives: Iterable[Objective]) -> str:
    return " and ".join(objective.metric for objective in objectives)


def _typed(typed: Iterable[str], varied: Mapping[str, Any]) -> Iterator[Override]:
    """What was typed for every trial alike; the sweep's own keys are left out."""
    taken = {_split_sign(key)[1] for key in varied}
    for text in typed:
        if text.endswith(f"={REDACTED}"):  # which is outside of Hydra's grammar
            sign, key = _split_sign(text.partition("=")[0])
            yield Override(key, REDACTED, sign)
            continue
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException:
            continue  # what Hydra does not read was never applied
        sign, key = _split_sign(parsed.get_key_element())
        if key not in taken and not _OF_THE_SWEEP.fullmatch(key) and not parsed.is_sweep_override():
            yield Override(key, parsed.value(), sign, text)


def _varied(varied: Mapping[str, Any]) -> Iterator[Override]:
    for written, value in varied.items():
        sign, key = _split_sign(written)
        if not _OF_THE_SWEEP.fullmatch(key):
            yield Override(key, value, sign, f"{written}={spell_value(value)}")


def _split_sign(key: str) -> tuple[str, str]:
    bare = key.lstrip("+~")
    return key[: len(key) - len(bare)], bare


def _render(overrides: Iterable[Override]) -> str:
    """The defaults list, the keys, and as a comment what no file can say."""
    groups = config_folders.groups([config_folders.built_in(), *config_folders.usable()])
    base: list[Any] = []
    defaults: list[Any] = []
    keys: dict[str, Any] = {}
    unsaid: list[str] = []
    for override in overrides:
        name = override.key.partition("@")[0]
        if override.sign == "~" or override.key == "hydra.searchpath" or _INDEX.search(override.key):
            unsaid.append(override.text)
        elif name == "experiment":
            base += _as_options(override.value)
        elif name in groups or "/" in name:
            word = "" if override.sign == "+" else "override "
            defaults.append({f"{word}/{override.key}": _as_choice(override.value)})
        else:
            _nest(keys, override.key.split("."), override.value)
    content: dict[str, Any] = {"defaults": [*base, *defaults, "_self_"], **keys}
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=2**20)
    return text + "".join(f"# Type it as well, no file can say it: {' '.join(key.split())}\n" for key in unsaid)


def _as_choice(value: Any) -> Any:
    """The option, which is a text also where it looks like a number."""
    return value if value is None or isinstance(value, list) else str(value)


def _as_options(value: Any) -> list[Any]:
    """The options of a group as entries of a defaults list in that group."""
    return [option for option in (value if isinstance(value, list) else [value]) if option is not None]


def _nest(keys: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a dotted key; what is set later wins, as on a command line."""
    *parents, last = path
    for parent in parents:
        if not isinstance(keys.get(parent), dict):
            keys[parent] = {}
        keys = keys[parent]
    keys[last] = value


class _Dumper(yaml.SafeDumper):
    """Writes every text that is not plainly a word in quotes: OmegaConf reads `1e-4` as a number, PyYAML as a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice out in full."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
