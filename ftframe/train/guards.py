"""What keeps a fault from spreading: a report of the rows behind a bad step, and loggers that may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import Callback

from ftframe.durable_files import write_json
from ftframe.errors import FtframeError, NonFiniteError

log = logging.getLogger(__name__)

LOGGER_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


class NonFiniteReport(Callback):
    """Writes `non_finite_rank<N>.json`: the step, its numbers, and the rows of each of its micro-batches."""

    def __init__(self, folder: Path, describe: Callable[[Any], str]) -> None:
        """Keep where it goes, and what says where a row comes from."""
        self._folder = folder
        self._describe = describe

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the report, if that is what happened."""
        if not isinstance(exception, NonFiniteError):
            return
        path = self._folder / f"non_finite_rank{trainer.global_rank}.json"
        numbers = {
            name: str(value) for name, value in exception.facts.items() if isinstance(value, float)
        }  # JSON: no nan
        rows = [[self._describe(row) for row in batch] for batch in exception.facts["rows"]]
        write_json(path, {**exception.facts, **numbers, "epoch": trainer.current_epoch, "rows": rows})
        exception.args = (f"{exception.args[0]}\nThe rows of that step are in {path}.",)


def let_loggers_fail(loggers: Iterable[Any], say: Callable[[str], None] = print) -> None:
    """Switch a logger off when it raises, with one message to `say`, in place of ending the run."""
    for logger in loggers:
        for name in LOGGER_METHODS:
            setattr(logger, name, _guarded(logger, getattr(logger, name), say))


def _guarded(logger: Any, method: Callable[..., Any], say: Callable[[str], None]) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        if getattr(logger, "_failed", False):
            return None
        try:
            return method(*arguments, **options)
        except FtframeError:
            raise
        except Exception as error:  # whatever a service or its network brings forth
            logger._failed = True
            log.exception("logger")
            say(f"warning: {type(logger).__name__} failed and is switched off, training goes on: {error}")
            return None

    return call
