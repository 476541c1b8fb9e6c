"""Composing and checking the configuration: with `search_path`, all that touches Hydra's internals."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ftframe import config_folders, search_path
from ftframe.composed import check_values
from ftframe.config_folders import BUILT_IN
from ftframe.errors import ConfigError, FtframeError, did_you_mean
from ftframe.extensions import check_named
from ftframe.runs import FolderTakenError, new_run_id, set_typed
from ftframe.schema import SCHEMAS, TaskConfig

TARGET_PREFIXES = (
    "torch.optim.",
    "lightning.Trainer",
    "lightning.pytorch.",
    "peft.",
    "transformers.BitsAndBytesConfig",
    "bitsandbytes.optim.",
    "ftframe.",
)
"""Where a `_target_` may point: instantiating one calls it, so a config could otherwise run anything."""

_RUN_ID = "ftframe.run_id"
_DRAWS = 20
"""Names that a run draws for its folder. Of runs that start in one second, two have the same in one of 456,976."""


def run(task: Callable[[Any], None], command: str) -> None:
    """Compose `sys.argv`, check the result and hand it to the task; a multirun is only planned, by its sweeper.

    Raises:
        ConfigError: If an override, a group option or a value is wrong; the message names the nearest right one.
    """
    _register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving with exit code 1
    failures: list[Exception] = []

    def run_cell(cfg: DictConfig) -> None:
        try:
            _refuse_other_command(cfg, command)
            _refuse_sweep_in_one_process()
            typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # references as they were typed
            set_typed(typed)
            _run_in_own_folder(task, cfg)
        except Exception as error:  # kept from `explained`, which is for what Hydra trips over
            failures.append(error)

    main = hydra.main(version_base="1.3", config_path=f"pkg://{BUILT_IN}", config_name=command)
    with explained(command):
        search_path.refuse_clashes_of(sys.argv[1:])
        _refuse_keys_of_no_data(command, sys.argv[1:])
        main(run_cell)()
    if failures:
        raise failures[0]


@contextmanager
def explained(command: str) -> Iterator[None]:
    """Turn what Hydra raises while it composes into errors that name what is right.

    Raises:
        ConfigError: In place of an error of Hydra, OmegaConf or YAML.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_explain(error, command)) from error
    except (FtframeError, BrokenPipeError):  # the latter where nobody reads Hydra's help
        raise
    except Exception as error:  # whatever Hydra trips over, as a value where it expects a node; no task has run
        raise ConfigError(
            f"These overrides do not compose: {' '.join(sys.argv[2:])}\n{type(error).__name__}: {error}\n"
            "Is a whole group set to a value? Choose one of its options, such as peft=none."
        ) from error


def _run_in_own_folder(task: Callable[[Any], None], cfg: DictConfig) -> None:
    """Check the config and run the task; where another run has the drawn name of the folder, draw the next."""
    as_typed: Any = OmegaConf.to_container(cfg)
    is_drawn = _RUN_ID in str(as_typed.get("output_dir"))
    for draws_left in reversed(range(_DRAWS if is_drawn else 1)):
        try:
            task(check(cfg))  # which draws the name
            return
        except FolderTakenError:
            if not draws_left:
                raise


def _refuse_keys_of_no_data(command: str, arguments: Sequence[str]) -> None:
    """Keys of a `data` node that the command has only once it is chosen; Hydra's own message would be a traceback.

    Raises:
        ConfigError: If there is one.
    """
    keys = [argument.lstrip("+~") for argument in arguments if argument.lstrip("+~").startswith("data.")]
    if command == "evaluate" and keys and not any(argument.startswith("data=") for argument in arguments):
        raise ConfigError(
            f"{keys[0]}: without data=..., evaluate measures on the data of the run as it was. Choose the data, such "
            "as data=jsonl data.dataset.path=..., and then its keys."
        )


def _register() -> None:
    search_path.register()
    _store_schemas()
    if not OmegaConf.has_resolver(_RUN_ID):
        OmegaConf.register_new_resolver(_RUN_ID, new_run_id, use_cache=True)


@cache
def _store_schemas() -> None:
    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema, provider="ftframe")
    store.store(group="hydra/help", name="ftframe", node=_HELP, provider="ftframe")


_HELP = {
    "app_name": "ftframe",
    "header": "ftframe: fine-tune a language model from a configuration.",
    "footer": "`--cfg job` prints the configuration, `-m` runs a grid (peft=lora,qlora quant=4bit,8bit), "
    "`--hydra-help` lists the other flags.",
    "template": "${hydra.help.header}\n\n== Config groups (group=option) ==\n$APP_CONFIG_GROUPS\n"
    "== Configuration (key.key=value) ==\n$CONFIG\n${hydra.help.footer}\n",
}


def check(cfg: DictConfig) -> DictConfig:
    """The composed config, typed, resolved and known to hold nothing that no one reads.

    Raises:
        ConfigError: Naming the first wrong key and the nearest right one.
    """
    return resolve(with_types(cfg))


def with_types(cfg: DictConfig) -> DictConfig:
    """The composed config held against the schema.

    Raises:
        ConfigError: If a key is unknown, or a value of the wrong type.
    """
    schema = _schema(cfg.command)
    try:
        typed = OmegaConf.merge(schema, OmegaConf.to_container(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(explain_key(error, schema)) from error
    assert isinstance(typed, DictConfig)
    return typed


def resolve(typed: DictConfig) -> DictConfig:
    """A typed config with every reference resolved, and checked for what types cannot say.

    Raises:
        ConfigError: If a value is missing, or means nothing, or does not go with another.
    """
    schema = _schema(typed.command)
    try:
        _type_tasks(typed)
        missing = sorted(OmegaConf.missing_keys(typed))
        if missing:
            raise ConfigError(f"No value for {', '.join(missing)}. Set it on the command line: {missing[0]}=...")
        OmegaConf.resolve(typed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_key(error, schema)) from error
    for key, target in targets(typed):
        if not target.startswith(TARGET_PREFIXES):
            raise ConfigError(
                f"{key}={target} is not allowed: a config may only build objects from "
                f"{', '.join(prefix.rstrip('.') for prefix in TARGET_PREFIXES)}."
            )
    check_values(typed)
    return typed


@cache
def _schema(command: str) -> DictConfig:
    """The types of a command's keys; made once, since a grid checks a thousand configs against them."""
    schema = OmegaConf.structured(SCHEMAS[command])
    assert isinstance(schema, DictConfig)
    return schema


def _refuse_sweep_in_one_process() -> None:
    """Refuse Hydra's own sweepers, which run all trials in this process; those of ftframe plan and call no task.

    Raises:
        ConfigError: If one has called the task.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("hydra/sweeper: with -m, choose hydra/sweeper=grid or optuna; each trial is a process then.")


def _refuse_other_command(cfg: DictConfig, command: str) -> None:
    """Refuse a config that is not the command's own, as by `--config-name` or `command=`.

    Raises:
        ConfigError: If it is so.
    """
    as_typed: Any = OmegaConf.to_container(cfg)
    if as_typed.get("command") != command:
        raise ConfigError(
            f"command={as_typed.get('command')} in a config of '{command}': the command is the first word after "
            f"ftframe ({', '.join(SCHEMAS)}), and neither command=... nor --config-name changes it."
        )


def _type_tasks(cfg: Any) -> None:
    """Give each of `data.tasks` its type.

    Raises:
        ConfigError: If one has an unknown key or a value of another type.
    """
    tasks = OmegaConf.select(cfg, "data.tasks") or {}
    for name in tasks:
        key = f"data.tasks.{name}"
        schema = OmegaConf.structured(TaskConfig)
        if not OmegaConf.is_dict(tasks[name]):
            raise ConfigError(f"{key}={tasks[name]!r}: a task is a node of keys. Allowed: {', '.join(schema)}.")
        try:
            tasks[name] = OmegaConf.merge(schema, OmegaConf.to_container(tasks[name]))
        except OmegaConfBaseException as error:
            raise ConfigError(explain_key(error, schema, prefix=f"{key}.")) from error


def check_names(cfg: DictConfig) -> None:
    """Hold every dataset, template and metric of a checked config against its signature; this imports their modules.

    Raises:
        ConfigError: If an argument is unknown, missing or of the wrong type.
        PluginError: If a name is unknown, or what it stands for cannot be used.
    """
    check_named(OmegaConf.to_container(cfg))


def targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` below a node, with its key; values are read as they stand, never resolved."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node)
    if isinstance(node, dict):
        for name, child in node.items():
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                yield path, str(child)
            else:
                yield from targets(child, path)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from targets(child, f"{key}[{index}]")


def explain_key(error: OmegaConfBaseException, schema: DictConfig, *, prefix: str = "") -> str:
    """A message for a value or key that the schema refuses; `prefix` is where the schema stands."""
    key = error.full_key or str(error.key)
    if isinstance(error, ConfigKeyError):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(schema, parent) if parent else schema
        allowed = [str(allowed) for allowed in node] if OmegaConf.is_dict(node) else []
        return f"Unknown key '{prefix}{key}'.{did_you_mean(name, allowed)}\nAllowed: {', '.join(allowed)}."
    reason = (error.msg or str(error)).splitlines()[0]
    return f"{prefix}{key}: {reason}"


_ABOUT_A_KEY = re.compile(r"\n\s*(full_key|object_type|reference_type)[:=][^\n]*")
"""Lines that OmegaConf adds to its messages."""


def _explain(error: Exception, command: str) -> str:
    """A message for an override that Hydra could not apply."""
    overrides = [argument for argument in sys.argv[1:] if "=" in argument and argument[:2] != "--"]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        hint = did_you_mean(option, error.options)
        shown = f"Unknown option '{group}={option}'.{hint}\nOptions of {group}: {', '.join(error.options)}."
        return "\n".join([shown, *_left_out()])
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match:
        return _explain_override(match.group(1), command, overrides)
    cause = error.__cause__ or error.__context__
    found = re.match(r"In '([^']+)': ConfigKeyError", str(error))
    if found and isinstance(cause, OmegaConfBaseException):
        hint = "\nIf it is no option of that group, it begins with: # @package _global_" * (cause.key == "experiment")
        return f"In '{found[1]}': {explain_key(cause, _schema(command))}{hint}"
    return _ABOUT_A_KEY.sub("", f"{error}\n{error.__cause__ or ''}").strip()


def _left_out() -> list[str]:
    """A line for each installed distribution whose configs are not searched."""
    return [f"Not searched: {f.source}: {f.trouble}." for f in config_folders.installed() if f.trouble]


def _explain_override(key: str, command: str, overrides: Iterable[str]) -> str:
    key = key.partition("@")[0]
    others = [o for o in overrides if o.partition("=")[0].lstrip("+~") != key]
    allowed = _keys_beside(key, command, others)
    parent, _, name = key.rpartition(".")
    where = f" in '{parent}'" if parent else ""
    return f"Unknown key '{key}'.{did_you_mean(name, allowed)}\nAllowed{where}: {', '.join(allowed)}."


def _keys_beside(key: str, command: str, overrides: list[str]) -> list[str]:
    """Keys and groups that could stand where an unknown key stands."""
    parent = key.rpartition(".")[0]
    for attempt in (overrides, []):  # without the user's other overrides if these do not compose either
        try:
            cfg = compose(command, attempt)
        except (HydraException, OmegaConfBaseException):
            continue
        node: Any = cfg
        while parent and (node := OmegaConf.select(cfg, parent)) is None:
            parent = parent.rpartition(".")[0]
        node = cfg if not parent else node
        keys = [str(k) for k in node] if OmegaConf.is_dict(node) else []
        return sorted({*keys, *groups()}) if not parent else sorted(keys)
    return []


def compose(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a command, composed but not checked.

    Raises:
        HydraException: If an override or an option is wrong.
        OmegaConfBaseException: If a value is of the wrong type.
    """
    _register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(BUILT_IN, version_base="1.3"):
        return hydra.compose(command, overrides=list(overrides))


def groups() -> dict[str, list[str]]:
    """Options of each config group: ftframe's own, and those of installed distributions."""
    return config_folders.groups([config_folders.built_in(), *config_folders.usable()])
