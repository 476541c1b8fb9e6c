"""Composing and checking the configuration: with `search_path`, all that touches Hydra's internals."""

from __future__ import annotations

import math
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
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ftframe import config_folders, search_path
from ftframe.config_folders import BUILT_IN
from ftframe.errors import ConfigError, did_you_mean
from ftframe.extensions import check_named
from ftframe.runs import new_run_id
from ftframe.schema import SCHEMAS, FitConfig, TaskConfig

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


def run(task: Callable[[Any], None], command: str) -> None:
    """Compose `sys.argv`, check the result and hand it to the task, once or for each cell of a multirun.

    Raises:
        ConfigError: If an override, a group option or a value is wrong; the message names the nearest right one.
    """
    _register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving with exit code 1
    failures: list[Exception] = []

    def run_cell(cfg: DictConfig) -> None:
        try:
            task(check(cfg))
        except Exception as error:  # kept from Hydra, which would stop a grid at its first failure
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
    except (AssertionError, AttributeError, TypeError, ValueError) as error:  # a value where Hydra expects a node
        raise ConfigError(
            f"These overrides do not compose: {' '.join(sys.argv[2:])}\n{type(error).__name__}: {error}\n"
            "Is a whole group set to a value? Choose one of its options, such as peft=none."
        ) from error


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
    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema, provider="ftframe")
    store.store(group="hydra/help", name="ftframe", node=_HELP, provider="ftframe")
    if not OmegaConf.has_resolver("ftframe.run_id"):
        OmegaConf.register_new_resolver("ftframe.run_id", new_run_id, use_cache=True)


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
    _check_ranges(typed)
    if isinstance(SCHEMAS[typed.command](), FitConfig):
        _check_cell(typed)
    return typed


@cache
def _schema(command: str) -> DictConfig:
    """The types of a command's keys; made once, since a grid checks a thousand configs against them."""
    schema = OmegaConf.structured(SCHEMAS[command])
    assert isinstance(schema, DictConfig)
    return schema


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


_AT_LEAST = {
    **dict.fromkeys(("data.shuffle_buffer", "data.mixing.epoch_size"), 1),
    **dict.fromkeys(("data.batch_size", "data.eval_batch_size", "batch_size"), 1),
    **dict.fromkeys(("data.max_new_tokens", "max_new_tokens"), 1),
    **dict.fromkeys(
        ("data.num_workers", "data.generate_examples", "examples", "checkpoint.every_n_steps", "temperature"), 0
    ),
    "data.max_length": 2,
}
_SHARES = ("data.validation_fraction", "top_p")
_FROM_0_TO_1 = ("data.max_bad_fraction",)


def _check_ranges(cfg: DictConfig) -> None:
    """Refuse numbers that mean nothing."""
    for key, value in _values(cfg, _AT_LEAST):
        least = _AT_LEAST[_of_all_tasks(key)]
        if not value >= least:
            raise ConfigError(f"{key}={value}: a number of at least {least} is needed.")
    for key, value in _values(cfg, _SHARES):
        if not 0 < value <= 1:
            raise ConfigError(f"{key}={value}: a share above 0 and at most 1 is needed.")
    for key, value in _values(cfg, _FROM_0_TO_1):
        if not 0 <= value <= 1:
            raise ConfigError(f"{key}={value}: a share from 0 to 1 is needed.")
    temperature = OmegaConf.select(cfg, "data.mixing.temperature")
    if temperature is not None and not 0 < temperature < math.inf:
        raise ConfigError(f"data.mixing.temperature={temperature}: a number above 0 is needed.")


def _values(cfg: DictConfig, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The keys that have a value, those of `data` in each of its tasks too."""
    tasks = OmegaConf.select(cfg, "data.tasks") or {}
    for key in keys:
        of_tasks = [key.replace("data.", f"data.tasks.{task}.", 1) for task in tasks if key.startswith("data.")]
        for place in (key, *of_tasks):
            value = OmegaConf.select(cfg, place)
            if value is not None:
                yield place, value


def _of_all_tasks(key: str) -> str:
    """A key of one task as the key of that name in `data`."""
    return re.sub(r"^data\.tasks\.[^.]+\.", "data.", key)


def _check_cell(cfg: DictConfig) -> None:
    """Refuse combinations of peft and quant that cannot train."""
    for group in ("peft", "quant"):
        node = cfg[group]
        if node is not None and "_target_" not in node:
            raise ConfigError(
                f"{group}=none, but an experiment or an override sets {', '.join(f'{group}.{key}' for key in node)}. "
                "Choose what they belong to, or leave them out."
            )
    if cfg.require_quant and cfg.quant is None:
        raise ConfigError(
            "peft=qlora is LoRA on a quantised base, and quant=none leaves the base as it is. "
            "Use quant=4bit or quant=8bit, or peft=lora."
        )
    if cfg.peft is None and cfg.quant is not None:
        raise ConfigError(
            "peft=none trains every weight, and quantised weights cannot be trained. "
            "Use quant=none, or an adapter: peft=lora, peft=qlora or peft=dora."
        )


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
    cause = re.split(r"\n\s*full_key", f"\n{error.__cause__}")[0] if error.__cause__ else ""
    return f"{error}{cause}".strip()


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
