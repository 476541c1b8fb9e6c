"""When a run's state is saved, and what is in it, so that a resumed run equals one that was never interrupted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from ftframe.errors import FtframeError
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.interruption import Interruption

MONITOR = "val/loss"
LOGGERS = "ftframe_loggers"
FINISHED = "ftframe_finished_loops"
_EPOCH_LOOP = "epoch_loop."


class Checkpoints(Checkpoint):
    """Saves between two optimizer steps: every so often, before a validation, at the end, and when asked to stop.

    A checkpoint that Lightning writes at the end of a batch makes a resumed run skip the validation that is due there.
    Here one is written when the next batch begins, after any validation; or as a validation begins, and then the
    resumed run does it over. A validation may take long, and nothing is lost if it is killed.

    Attributes:
        store: The folder that the files go into.
        best_step: The step with the lowest `val/loss` so far.
        best_loss: That loss, in nats per token.
    """

    def __init__(
        self,
        store: CheckpointStore,
        interruption: Interruption,
        *,
        every_n_steps: int,
        total_steps: int,
        save_best: bool,
        facts: Mapping[str, Any],
    ) -> None:
        """Keep what is needed.

        Args:
            store: The folder that the files go into.
            interruption: Whether to stop.
            every_n_steps: Optimizer steps between two saves; 0 for none at all.
            total_steps: Optimizer steps of the run.
            save_best: Whether to keep the checkpoint with the lowest `val/loss` whatever its age.
            facts: What must be the same where the run goes on.
        """
        self.store = store
        self.best_step: int | None = None
        self.best_loss = math.inf
        self._interruption = interruption
        self._every_n_steps = every_n_steps
        self._total_steps = total_steps
        self._save_best = save_best
        self._facts = facts
        self._saved_step = 0
        self._last_loops: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best step so far."""
        return {"best_step": self.best_step, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_step, self.best_loss = state_dict["best_step"], state_dict["best_loss"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed run has saved the step that it begins with; what it was cut in is not counted twice."""
        if trainer.global_step in [entry.step for entry in self.store.entries()]:  # none yet where a new run begins
            self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            self.store.forget_after(trainer.global_step)
        loop: Any = trainer.fit_loop.epoch_loop
        for progress in (loop.batch_progress, loop.val_loop.batch_progress):
            progress.total.ready = progress.total.started = progress.total.processed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two optimizer steps, save if it is time; stop if a signal came."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        stop = self._interruption.requested(trainer)
        if self._every_n_steps and (stop or trainer.global_step % self._every_n_steps == 0):
            self._save(trainer)
        if stop:
            self._leave(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the position behind the last step.

        Lightning then counts the epoch as finished, also where `max_steps` ended the run within it.
        """
        if trainer.global_step >= self._total_steps and self._last_loops is None:
            self._last_loops = trainer.fit_loop.state_dict()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save before a validation within training.

        Not behind the last step that `max_steps` allows: Lightning would do nothing more, nor the validation.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.max_steps == trainer.global_step:
            return
        if self._every_n_steps:
            self._save(trainer)
        if self._interruption.requested(trainer):
            self._leave(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the best step; its file was written before the validation, or is at the end of training."""
        if trainer.state.fn != TrainerFn.FITTING or not self._save_best or MONITOR not in trainer.callback_metrics:
            return
        loss = float(trainer.callback_metrics[MONITOR])
        if loss < self.best_loss:
            self.best_step, self.best_loss = trainer.global_step, loss
            if self._saved_step == trainer.global_step and self._every_n_steps and trainer.is_global_zero:
                self.store.mark_best(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step."""
        if self._every_n_steps:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's own counters to what they must be read back as, and add what loggers have written."""
        checkpoint["loops"] = {"fit_loop": self._loops(trainer)}  # the other loops are begun anew
        states = {str(i): x.state_dict() for i, x in enumerate(trainer.loggers) if hasattr(x, "state_dict")}
        checkpoint[LOGGERS] = states
        if self._last_loops is not None and not trainer.validating:
            checkpoint[FINISHED] = trainer.fit_loop.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take back what loggers wrote after the checkpoint; where all steps are done, count as a run that did them."""
        if FINISHED in checkpoint and checkpoint["global_step"] >= self._total_steps:
            checkpoint["loops"]["fit_loop"] = checkpoint[FINISHED]
        for index, state in checkpoint.get(LOGGERS, {}).items():
            logger: Any = trainer.loggers[int(index)] if int(index) < len(trainer.loggers) else None
            if hasattr(logger, "load_state_dict"):
                logger.load_state_dict(state)

    def _loops(self, trainer: L.Trainer) -> dict[str, Any]:
        """The state of the fit loop that a resumed run begins with."""
        if self._last_loops is not None and not trainer.validating:
            return self._last_loops
        loops = trainer.fit_loop.state_dict()
        batches = loops[f"{_EPOCH_LOOP}batch_progress"]
        if trainer.validating:
            # As if it had been cut in its first batch: such a validation is the only one that is done over.
            total = loops[f"{_EPOCH_LOOP}val_loop.batch_progress"]["total"]
            total["ready"], total["started"] = total["ready"] + 1, total["started"] + 1
        elif batches["current"]["ready"] > batches["current"]["started"]:  # a batch is at hand, and not yet trained
            batches["is_last_batch"] = False
            if not trainer.fit_loop._should_accumulate():
                loops[f"{_EPOCH_LOOP}state_dict"]["_batches_that_stepped"] -= 1  # `reset` adds it again
        return loops

    def _save(self, trainer: L.Trainer) -> None:
        """Write the state of this step, unless it is written already."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        trainer.save_checkpoint(self.store.path(step))
        if trainer.is_global_zero:
            try:
                self.store.commit(step, best=self.best_step, facts=self._facts)
            except OSError as error:
                raise FtframeError(f"{self.store.folder}: the manifest could not be written: {error}") from error
        self._saved_step = step

    def _leave(self, trainer: L.Trainer) -> None:
        saved = f"the state of step {trainer.global_step} is saved" if self._every_n_steps else "nothing is saved"
        raise self._interruption.error(f"interrupted: {saved}")
