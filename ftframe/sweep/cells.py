"""Composing the cells of a multirun, many of them fast: with `multirun`, all of the sweep that touches Hydra."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ftframe import compose
from ftframe.errors import FtframeError
from ftframe.runs import redact
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


@dataclass
class Composer:
    """Composes cells as Hydra's own `load_sweep_config` does.

    Hydra reads and merges the files of all groups for each cell, a fifth of a second. Here it does so once for each
    choice of groups; overrides of values are then applied to a copy, by Hydra's own function.

    Attributes:
        loader: Hydra's config loader.
        master: The config of the command as it is without the sweep's values.
    """

    loader: Any
    master: DictConfig
    _bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = field(default_factory=dict)

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The composed config of a cell, not checked.

        Raises:
            HydraException: If an override or an option is wrong.
            OmegaConfBaseException: If a value is of the wrong type.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        of_groups = [override for override in parsed if self._chooses(override)]
        base, hydra = self._base(tuple(str(override.input_line) for override in of_groups))
        with read_write(hydra):
            hydra.hydra.job.num, hydra.hydra.job.id = number, str(number)
        HydraConfig.instance().cfg = cast(Any, hydra)  # what `${hydra:...}` in a config reads
        cfg = copy.deepcopy(base)
        self.loader._apply_overrides_to_config([o for o in parsed if o not in of_groups], cfg)
        return cfg

    def settle(self, number: int, overrides: Sequence[str], *, varied: dict[str, Any], run: Path) -> Cell:
        """A cell with its checked config, or with the reason why it has none.

        Args:
            number: Its place in the sweep.
            overrides: The overrides of this cell.
            varied: Those that the sweep sets, as values.
            run: Its run folder.
        """
        cell = Cell(number, list(overrides), varied)
        cfg = self.compose(overrides, number)
        content = redact(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
        trained = {key: value for key, value in content.items() if key not in _OF_THE_SWEEP}
        cell.config_sha256 = hashlib.sha256(json.dumps(trained, sort_keys=True, default=str).encode()).hexdigest()
        cfg.output_dir, cfg.sweep = str(run), OmegaConf.structured(SweepConfig(dir=str(run.parents[1])))
        try:
            checked = compose.check(cfg)
            compose.check_names(checked)
        except FtframeError as error:
            cell.problem = str(error)
            return cell
        config = OmegaConf.to_container(checked, enum_to_str=True)
        assert isinstance(config, dict)
        cell.config = {str(key): value for key, value in config.items()}
        return cell

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses an option of a config group, as Hydra tells it."""
        is_group = bool(self.loader.repository.group_exists(override.key_or_group))
        return is_group and not isinstance(override.value(), dict)

    def _base(self, of_groups: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        """The config of one choice of groups, and Hydra's own node apart."""
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
