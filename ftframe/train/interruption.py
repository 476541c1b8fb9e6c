"""Signals: the first one ends training in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from ftframe.errors import FtframeError, Interrupted

SIGNALS = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGTERM,  # SLURM's `--signal=USR1@60` warns of the end of the time limit
    signal.SIGUSR2: signal.SIGTERM,  # which is submitit's signal for the same
}
"""Signals that end the command, each with the one that its exit code is of."""

_ECHO_SECONDS = 1.0
"""Signals of a scheduler that are closer than this are one: SLURM may signal every process of a job (with
proctrack/linuxproc it does), and what started the trial passes on its own."""


class Interruption(Callback):
    """Notes a signal while steps are being trained, and raises `Interrupted` at once outside of them.

    `Checkpoints` asks it between two optimizer steps, where the state can be saved. Lightning's own handlers are put
    aside: on SIGTERM they leave with 0, and communicate with other ranks from within the handler.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        """Nothing has happened; `say` tells the user when it has."""
        self.signum: int | None = None
        self._say = say
        self._heard_at = 0.0
        self._between_steps = False
        self._launcher: Any = None

    @contextmanager
    def installed(self) -> Iterator[Interruption]:
        """Handle the signals within the block; only a main thread can.

        Raises:
            Interrupted: If a signal came, and something tripped over that and raised an error of its own.
        """
        before = {signum: signal.getsignal(signum) for signum in SIGNALS} if _in_main_thread() else {}
        self._install()
        try:
            yield self
        except (FtframeError, Interrupted):
            raise
        except BaseException as error:
            if self.signum is None:
                raise
            raise self.error(_MESSAGE) from error
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def requested(self, trainer: L.Trainer) -> bool:
        """Whether any rank was asked to end; all ranks must ask this at the same step."""
        if trainer.world_size == 1:
            return self.signum is not None
        return bool(trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False))

    def error(self, message: str) -> Interrupted:
        """What to raise; a rank that was not signalled itself ends as one that got SIGTERM."""
        return Interrupted(message, self.signum or signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on the state is saved before the end."""
        self._install()
        self._launcher = trainer.strategy.launcher
        self._between_steps = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on nothing is left to be saved."""
        self._between_steps = False
        if self.signum is not None:
            raise self.error(_MESSAGE)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation can end at once: `Checkpoints` has saved the state before it."""
        self._install()
        self._between_steps = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Back to training, if this validation was within it."""
        self._between_steps = trainer.state.fn == TrainerFn.FITTING

    def _install(self) -> None:
        if _in_main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        code = SIGNALS[signal.Signals(signum)]
        if self.signum is not None:
            if signum != signal.SIGINT and time.monotonic() - self._heard_at < _ECHO_SECONDS:
                return
            if self._launcher is not None:
                self._launcher.kill(signal.SIGKILL)
            os._exit(128 + code)
        self.signum, self._heard_at = code, time.monotonic()
        if not self._between_steps:
            raise self.error(_MESSAGE)
        self._say(f"{signal.Signals(signum).name}: this step is finished and saved; once more ends at once.")


_MESSAGE = "interrupted"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
