"""What Hydra calls for `-m`: the typed overrides become a plan; the trials start when Hydra is done."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftframe import compose
from ftframe.errors import ConfigError
from ftframe.schema import SweepConfig
from ftframe.sweep.cells import Cell, Composer, parse


@dataclass
class Plan:
    """What `-m` was asked for.

    Attributes:
        command: The command of every trial.
        typed: The overrides as typed, Hydra's own included.
        overrides: Those of the task, and the sweeper's `params`.
        folder: The sweep's folder.
        settings: The `sweep` node.
        search: `grid`, or `optuna`.
        launcher: The `hydra.launcher` node as plain values.
        composer: Composes one cell.
    """

    command: str
    typed: list[str]
    overrides: list[Override]
    folder: Path
    settings: SweepConfig
    search: str
    launcher: dict[str, Any]
    composer: Composer

    def varied(self) -> list[Override]:
        """The overrides with several values."""
        return [override for override in self.overrides if override.is_sweep_override()]

    def settle(self, number: int, values: Mapping[str, str]) -> Cell:
        """The cell with these values for what varies, each in Hydra's own spelling.

        Args:
            number: Its place in the sweep.
            values: By the key as typed.
        """
        overrides = {o.get_key_element(): o.get_value_element_as_str() for o in self.overrides if not _varies(o)}
        fixed = [_spell(key, value) for key, value in overrides.items()]
        chosen = [_spell(key, value) for key, value in values.items()]
        varied = {o.get_key_element().lstrip("+"): o.value() for o in map(parse, chosen)}
        run = self.folder / "runs" / f"{number:04}"
        return self.composer.settle(number, [*fixed, *chosen], varied=varied, run=run)


def _varies(override: Override) -> bool:
    return bool(override.is_sweep_override())


def _spell(key: str, value: str) -> str:
    return key if key.startswith("~") and not value else f"{key}={value}"


def combinations(varied: Sequence[Override]) -> list[dict[str, str]]:
    """Every combination of the values of some overrides, each value in Hydra's own spelling; the last varies fastest.

    Raises:
        ConfigError: If one is an interval, which has no end of values.
    """
    for override in varied:
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line}: a grid cannot go over an interval. "
                "Use choice(...) or range(...), or search it: hydra/sweeper=optuna."
            )
    keys = [override.get_key_element() for override in varied]
    before = random.getstate()
    random.seed(0)  # shuffle(...) draws from it: the same command numbers the trials as before
    columns = [list(override.sweep_string_iterator()) for override in varied]
    random.setstate(before)
    for override, values in zip(varied, columns, strict=True):
        if not values:
            raise ConfigError(f"{override.input_line}: there is nothing to choose from.")
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*columns)]


_PLUGIN_MODULE = "hydra_plugins.ftframe"
"""Hydra builds sweepers of its own package and of `hydra_plugins` alone. A package of that name on disk would be
scanned and imported by every Hydra application in the environment, so this module is in memory only."""


class MultirunSweeper(Sweeper):
    """Turns the overrides of a multirun into a plan."""

    __module__ = _PLUGIN_MODULE

    planned: ClassVar[Plan | None] = None

    def __init__(self, search: str, params: Mapping[str, str]) -> None:
        """Keep the node's arguments.

        Args:
            search: `grid`, or `optuna`.
            params: Further overrides.
        """
        self.search = search
        self.params = params
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.config = config
        self.hydra_context = hydra_context

    def sweep(self, arguments: list[str]) -> None:
        """Plan what was asked for.

        Args:
            arguments: The overrides of the task as typed.

        Raises:
            ConfigError: If one is of no use in a sweep.
        """
        assert self.config is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        own = [f"{key}={value}" for key, value in self.params.items()]
        overrides = _last_of_each(OverridesParser.create(config_loader=loader).parse_overrides([*own, *arguments]))
        for override in overrides:
            _refuse(override)
        launcher = OmegaConf.to_container(self.config.hydra.launcher, resolve=True)
        assert isinstance(launcher, dict)
        MultirunSweeper.planned = Plan(
            command=str(self.config.command),
            typed=[*map(str, self.config.hydra.overrides.hydra), *arguments],
            overrides=overrides,
            folder=Path(str(self.config.hydra.sweep.dir)).expanduser().absolute(),
            settings=_settings(self.config),
            search=self.search,
            launcher={str(key): value for key, value in launcher.items()},
            composer=Composer(loader, self.config),
        )


def _last_of_each(overrides: Sequence[Override]) -> list[Override]:
    """The overrides without those that a later one of the same key replaces: what is typed comes after `params`."""
    last = {(override.key_or_group, override.package): number for number, override in enumerate(overrides)}
    kept = set(last.values())
    return [o for number, o in enumerate(overrides) if number in kept or o.is_delete()]


def _refuse(override: Override) -> None:
    key = str(override.key_or_group)
    if key == "ckpt_path" and override.value() == "last":
        raise ConfigError(
            "ckpt_path=last: the trials of a sweep are new runs. The same command with sweep.dir=<folder> goes on."
        )
    if key == "output_dir":
        raise ConfigError("output_dir: with -m, each trial's run folder is in the sweep's. Set sweep.dir=<folder>.")
    if key.partition(".")[0] == "sweep" and _varies(override):
        raise ConfigError(f"{override.input_line}: what belongs to the whole sweep cannot vary in it.")


_AT_LEAST = {"max_parallel": 1, "gpus_per_trial": 0, "grace_seconds": 0, "n_trials": 1, "heartbeat_seconds": 1}


def _settings(master: DictConfig) -> SweepConfig:
    """The `sweep` node, typed.

    Raises:
        ConfigError: If a key is unknown, or a value of the wrong type or means nothing.
    """
    schema = OmegaConf.structured(SweepConfig)
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.to_container(master.sweep)))
    except OmegaConfBaseException as error:
        raise ConfigError(compose.explain_key(error, schema, prefix="sweep.")) from error
    assert isinstance(settings, SweepConfig)
    for name, least in _AT_LEAST.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ConfigError(f"sweep.{name}={value}: a number of at least {least} is needed.")
    if not settings.objectives:
        raise ConfigError("sweep.objectives=[]: at least one is needed, such as [{metric: val/loss}].")
    return settings


def register() -> None:
    """Let Hydra find the sweeper."""
    MultirunSweeper.planned = None
    Plugins.instance().register(MultirunSweeper)
    package, _, name = _PLUGIN_MODULE.partition(".")
    module = sys.modules.setdefault(_PLUGIN_MODULE, ModuleType(_PLUGIN_MODULE))
    setattr(module, MultirunSweeper.__name__, MultirunSweeper)
    setattr(sys.modules.setdefault(package, ModuleType(package)), name, module)
