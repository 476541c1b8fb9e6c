"""Which run `ckpt_path` goes on with, and whether it is still the same run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ftframe.errors import ConfigError
from ftframe.local_files import expanded, is_local
from ftframe.redaction import REDACTED, redact
from ftframe.runs import CONFIG, MANIFEST, OVERRIDES, RUN_DIR_VARIABLE

RUNS = Path("outputs/fit")
"""Where `ckpt_path=last` looks for the newest run."""

FREE = (
    *("ckpt_path", "output_dir", "sweep", "logger", "checkpoint", "data.num_workers", "data.cache", "data.cache_dir"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.enable_model_summary"),
)
"""Keys that may differ when a run goes on: they do not change what is computed."""

_RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)
"""A reference that calls something, such as `${oc.env:HF_TOKEN}`."""

_WRITTEN_TO = ("logger", "callbacks", "data.cache_dir")
"""Keys of places that a run writes to beside its folder."""

_OF_CODE = re.compile("_target_|trust_remote_code")


@dataclass(frozen=True)
class Resumption:
    """What a training run begins with.

    Attributes:
        run: The run folder to go on in; None for a new one.
        source: The run folder, or the file, that the state is taken from; None for none.
    """

    run: Path | None = None
    source: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether the run to go on with is finished."""
        return self.run is not None and (self.run / MANIFEST).is_file()


def find_resumption(ckpt_path: str | None, output_dir: str) -> Resumption:
    """What `ckpt_path` and `output_dir` ask for together.

    A run folder goes on where it is, unless `output_dir` names another: then a new run begins with its state, as one
    does with the state of a file.

    Raises:
        ConfigError: If there is no such run or file.
    """
    if ckpt_path is None:
        return Resumption()
    path = expanded(ckpt_path, key="ckpt_path")
    if path.is_file():
        return Resumption(source=path.resolve())
    if not (path / CONFIG).is_file():
        what = "holds no config.yaml, so it is no run folder" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"ckpt_path={ckpt_path} {what}. Give the folder of a `ftframe fit`, a file of its checkpoints/, or last."
        )
    run = path.resolve()
    return Resumption(run=run if expanded(output_dir, key="output_dir").resolve() == run else None, source=run)


def with_overrides_of_run(arguments: Sequence[str]) -> list[str]:
    """The overrides of `ftframe fit`; where it goes on with a run, that run's own stand in front of what is typed.

    `ckpt_path=last` is the newest run, or that in `output_dir` where it is typed: the same command then begins a run
    and, after an interruption, goes on with it.

    Raises:
        ConfigError: If there is no run to go on with, or its overrides would run code that is not named again.
    """
    typed = {_key(argument): argument for argument in arguments if "=" in argument and argument[:2] != "--"}
    value, output_dir = _value(typed.get("ckpt_path")), _value(typed.get("output_dir"))
    is_grid = any(argument in ("-m", "--multirun") for argument in arguments)
    if value is None or is_grid or os.environ.get(RUN_DIR_VARIABLE):  # other ranks are started with all overrides
        return list(arguments)
    rest = [argument for argument in arguments if _key(argument) != "ckpt_path"]
    run = _last_run(output_dir) if value == "last" else expanded(value, key="ckpt_path")
    if run is None:
        return [*rest, "ckpt_path=null"]
    is_branch = output_dir is not None and expanded(output_dir, key="output_dir").resolve() != run.resolve()
    if is_branch or not (run / CONFIG).is_file():  # a new run, a file, or a mistake that `find_resumption` explains
        return list(arguments)
    kept = [o for o in _overrides(run, typed) if _key(o) not in ("ckpt_path", "output_dir")]
    rest = [argument for argument in rest if _key(argument) != "output_dir"]
    return [*kept, *rest, f"ckpt_path={_quoted(run)}", f"output_dir={_quoted(run)}"]


def _last_run(output_dir: str | None) -> Path | None:
    """The newest run; or that in `output_dir`, if one was begun there."""
    if output_dir is not None:
        run = expanded(output_dir, key="output_dir")
        return run if (run / CONFIG).is_file() else None
    configs = sorted(RUNS.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise ConfigError(f"ckpt_path=last: there is no run in {RUNS}. Give its folder: ckpt_path=<run folder>.")
    return configs[-1].parent


def _overrides(run: Path, typed: Mapping[str, str]) -> list[str]:
    """What was typed when the run began.

    Raises:
        ConfigError: If it cannot be read, or names code that is not typed again.
    """
    path = run / OVERRIDES
    try:
        overrides = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}\nType the run's overrides yourself.") from error
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(f"{path} is no list of overrides. Type the run's overrides yourself.")
    kept = [override for override in overrides if not override.endswith(f"={REDACTED}") and _key(override) not in typed]
    for override in kept:
        if not _is_plain(override):
            raise ConfigError(
                f"The run's {OVERRIDES} has {override}, and a folder may not say what code is run, nor what is read of "
                f"the environment. If you trust it, type it again: ftframe fit ckpt_path={run} {override}"
            )
    return kept


def _is_plain(override: str) -> bool:
    """Whether an override only sets a plain value of a task's key, or chooses an option of a group.

    It is read as Hydra reads it, since a text has many spellings: a colon may be escaped, and `on` is true.
    """
    if REDACTED in override:
        return False
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    key = parsed.key_or_group
    if parsed.is_sweep_override() or parsed.package is not None or re.split(r"[./]", key)[0] == "hydra":
        return False
    return all(_is_harmless(path, leaf) for path, leaf in _leaves(None if parsed.is_delete() else parsed.value(), key))


def _is_harmless(key: str, value: Any) -> bool:
    if key.endswith("trust_remote_code"):
        return value in (False, None)
    if key.startswith(_WRITTEN_TO) and (Path(str(value)).anchor or {"~", ".."} & set(re.split(r"[\\/]", str(value)))):
        return False
    texts = [key, str(value)]
    return not any(is_local(text) or _RESOLVER.search(text) or _OF_CODE.search(text) for text in texts)


def refuse_changes(run: Path, cfg: Any) -> None:
    """Hold the config of a run that goes on against the one it began with.

    Raises:
        ConfigError: Naming each key that differs.
    """
    path = run / CONFIG
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        output_dir = before["output_dir"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    now = redact(OmegaConf.to_container(cfg, enum_to_str=True))
    old, new = dict(_leaves(before)), dict(_leaves(now))
    changed = [
        f"  {key}: {old.get(key, '(not there)')} -> {new.get(key, '(not there)')}"
        for key in dict.fromkeys([*old, *new])
        if not _is_free(key) and _moved(old.get(key), output_dir, now["output_dir"]) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{run} was begun with another configuration:\n" + "\n".join(changed) + "\nA run that goes on keeps its "
            "own. For a new run that begins with its state, name a new folder: output_dir=<folder>."
        )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _moved(value: Any, before: str, now: str) -> Any:
    """A value that is a path in the run folder, where that has been moved or is written in another way."""
    is_inside = isinstance(value, str) and (value == before or value.startswith(f"{before}/"))
    return now + value[len(before) :] if is_inside else value


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(override: str | None) -> str | None:
    """What an override sets, without quotes; None for `null` or none."""
    value = override.partition("=")[2] if override is not None else "null"
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return None if value in ("null", "") else value


def _quoted(path: str | Path) -> str:
    """A path as a value of Hydra's grammar."""
    text = str(path).replace("'", "\\'")
    return f"'{text}'"
