"""A trial's side of pruning: it tells of each validation, and hears whether to go on."""

from __future__ import annotations

import time
from pathlib import Path

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from ftframe.errors import ConfigError
from ftframe.sweep.reports import REPORTS, VERDICTS, append_line, read_lines

_POLL_SECONDS = 0.02


class ReportValidation(Callback):
    """After each validation while training, writes a line of `reports.jsonl`, and waits for the sweep's answer.

    The trial itself has no connection to the study: a database that is away for a minute stops no training. All ranks
    end after the same step, since the first decides for them.
    """

    def __init__(self, metric: str, folder: str, patience_seconds: float = 60.0) -> None:
        """Report one metric.

        Args:
            metric: The name that it is logged under.
            folder: Where the files are: the run folder.
            patience_seconds: How long to wait for an answer; without one, the training goes on.
        """
        self.metric = metric
        self.folder = Path(folder)
        self.patience_seconds = patience_seconds

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and end the training if the sweep says so.

        Raises:
            ConfigError: If the metric is not measured while training.
        """
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking:
            return
        measured = trainer.callback_metrics
        if self.metric not in measured:
            names = ", ".join(sorted(name for name in measured if name.startswith("val/")))
            raise ConfigError(
                f"sweep.pruner: {self.metric}, the first of sweep.objectives, is not measured while training. "
                f"Measured are: {names}."
            )
        stop = trainer.is_global_zero and self._report(trainer.global_step, float(measured[self.metric]))
        trainer.should_stop = bool(trainer.strategy.broadcast(stop)) or trainer.should_stop

    def _report(self, step: int, value: float) -> bool:
        """Whether the sweep says to stop."""
        append_line(self.folder / REPORTS, {"step": step, "value": value})
        until = time.monotonic() + self.patience_seconds
        while time.monotonic() < until:
            for verdict in read_lines(self.folder / VERDICTS):
                if verdict["step"] == step:
                    return bool(verdict["stop"])
            time.sleep(_POLL_SECONDS)
        return False
