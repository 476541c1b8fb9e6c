"""Composing the cells of a multirun, many of them fast: with `multirun`, all of the sweep that touches Hydra."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ftframe import compose
from ftframe.errors import FtframeError
from ftframe.redaction import redact
from ftframe.schema import SweepConfig

_OF_THE_SWEEP = ("sweep", "output_dir", "ckpt_path")
"""Keys that say where a trial runs, not what it trains."""


@dataclass
class Cell:
    """One combination of values.

    Attributes:
        number: Its place in the sweep.
        overrides: The overrides of this cell alone, as they would be typed.
        varied: The value of each key or group that the sweep sets.
        config: The checked and resolved config as plain values; None if the combination is refused.
        config_sha256: Digest of the config, with references to other keys as they stand.
        problem: Why the combination is refused.
    """

    number: int
    overrides: list[str]
    varied: dict[str, Any]
    config: dict[str, Any] | None = None
    config_sha256: str = ""
    problem: str = ""


@cache
def parse(override: str) -> Override:
    """One override; parsed once, since a grid has the same few a thousand times."""
    return OverridesParser.create().parse_override(override)


@dataclass
class Composer:
    """Composes cells as Hydra's own `load_sweep_config` does.

    Hydra reads and merges the files of all groups for each cell, a fifth of a second. Here it does so once for each
    choice of groups, and the result is given its types; overrides of values are then applied to a copy, by Hydra's own
    function.

    Attributes:
        loader: Hydra's config loader.
        master: The config of the command as it is without the sweep's values.
    """

    loader: Any
    master: DictConfig
    _bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = field(default_factory=dict)
    _typed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def settle(self, number: int, overrides: Sequence[str], *, varied: dict[str, Any], run: Path) -> Cell:
        """A cell with its checked config, or with the reason why it has none.

        Args:
            number: Its place in the sweep.
            overrides: The overrides of this cell.
            varied: Those that the sweep sets, as values.
            run: Its run folder.

        Raises:
            HydraException: If an override or an option is wrong.
            OmegaConfBaseException: If a value is of the wrong type.
        """
        cell = Cell(number, list(overrides), varied)
        try:
            typed = self._compose(overrides, number)
            cell.config_sha256 = _digest(typed)
            typed.output_dir, typed.sweep = str(run), SweepConfig(dir=str(run.parents[1]))
            config = OmegaConf.to_container(compose.resolve(typed), enum_to_str=True)
        except FtframeError as error:
            cell.problem = str(error)
            return cell
        assert isinstance(config, dict)
        cell.config = {str(key): value for key, value in config.items()}
        return cell

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The typed config of a cell."""
        parsed = [parse(override) for override in overrides]
        of_groups = tuple(str(override.input_line) for override in parsed if self._chooses(override))
        of_values = [override for override in parsed if not self._chooses(override)]
        base, hydra = self._base(of_groups)
        with read_write(hydra):
            hydra.hydra.job.num, hydra.hydra.job.id = number, str(number)
        HydraConfig.instance().cfg = cast(Any, hydra)  # what `${hydra:...}` in a config reads
        if not any(override.is_add() or override.is_force_add() or override.is_delete() for override in of_values):
            try:
                typed = copy.deepcopy(self._typed_base(of_groups))
                self.loader._apply_overrides_to_config(of_values, typed)
            except (HydraException, OmegaConfBaseException, FtframeError):
                pass  # the long way has the better message
            else:
                OmegaConf.set_struct(typed, None)
                return typed
        cfg = copy.deepcopy(base)
        self.loader._apply_overrides_to_config(of_values, cfg)
        return compose.with_types(cfg)

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses an option of a config group, as Hydra tells it."""
        is_group = bool(self.loader.repository.group_exists(override.key_or_group))
        return is_group and not isinstance(override.value(), dict)

    def _typed_base(self, of_groups: tuple[str, ...]) -> DictConfig:
        """The config of one choice of groups with its types; it takes no new key, as the composed one."""
        if of_groups not in self._typed:
            typed = compose.with_types(self._base(of_groups)[0])
            OmegaConf.set_struct(typed, True)
            self._typed[of_groups] = typed
        return self._typed[of_groups]

    def _base(self, of_groups: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        """The composed config of one choice of groups, and Hydra's own node apart."""
        if of_groups not in self._bases:
            fixed = [str(override) for override in self.master.hydra.overrides.hydra]
            cfg = self.loader.load_configuration(
                config_name=self.master.hydra.job.config_name,
                overrides=[*fixed, *of_groups],
                run_mode=RunMode.RUN,
            )
            OmegaConf.copy_cache(from_config=self.master, to_config=cfg)
            hydra = OmegaConf.masked_copy(cfg, "hydra")
            with open_dict(cfg):
                del cfg["hydra"]
            self._bases[of_groups] = cfg, hydra
        return self._bases[of_groups]


def _digest(typed: DictConfig) -> str:
    """Digest of what a config trains; references to other keys stand in it as they are written."""
    content = redact(OmegaConf.to_container(typed, enum_to_str=True))
    trained = {key: value for key, value in content.items() if key not in _OF_THE_SWEEP}
    return hashlib.sha256(json.dumps(trained, sort_keys=True, default=str).encode()).hexdigest()
