"""Train any causal language model under Lightning."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftframe.api import IGNORE_INDEX
from ftframe.errors import FtframeError, NonFiniteError
from ftframe.models.compiling import COMPILER_ERRORS, give_up_compiling
from ftframe.models.loss import causal_lm_loss, chunked_causal_lm_loss, row_losses
from ftframe.models.output_head import FrozenHead, frozen_head
from ftframe.models.probing import eagerly
from ftframe.models.step_figures import Step, can_skip_on_device, skip_if_not_finite
from ftframe.models.varlen_attention import model_inputs

log = logging.getLogger(__name__)

Batch = dict[str, Any]


@dataclass
class Window:
    """What the micro-batches of one optimizer step add up to on this rank.

    Attributes:
        loss: Summed loss in nats; on the device, so that adding waits for nothing.
        tokens: Supervised tokens.
        rows: What the examples of each micro-batch are known by.
    """

    loss: Tensor | float = 0.0
    tokens: int = 0
    rows: list[list[Any]] = field(default_factory=list)

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Add a micro-batch."""
        self.loss = self.loss + loss
        self.tokens += batch["supervised_tokens"]
        self.rows.append(batch.get("rows", []))

    def sums(self, norm: Tensor) -> Tensor:
        """`Figures` as can be added up over ranks, [3], float64, on the norm's device."""
        squared = norm.double() ** 2
        loss = torch.zeros_like(squared) + self.loss
        return torch.stack([loss, torch.full_like(squared, self.tokens), squared])


class CausalLMModule(L.LightningModule):
    """One causal language model, one loss, one optimizer.

    Knows nothing of hub ids, quantisation or adapters: `build_model` returns the model ready to train.

    Attributes:
        waited_seconds: Time that the host has waited for figures of the device.
    """

    def __init__(
        self,
        build_model: Callable[[torch.device], nn.Module],
        build_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        *,
        build_scheduler: Callable[[Optimizer], Any] | None = None,
        tokens_per_batch: float = 1.0,
        validation_tasks: Sequence[str] = (),
        chunks_loss: bool = False,
        compiles: bool = False,
        may_give_up_compiling: bool = False,
    ) -> None:
        """Keep the builders; nothing is built yet.

        Batches come with plain numbers beside their tensors: `supervised_tokens` and non-padding `tokens`, counted on
        the CPU, where counting waits for no device.

        Args:
            build_model: The model, on the device it is given.
            build_optimizer: The optimizer of the parameters it is given; None where nothing trains.
            build_scheduler: The learning rate's course per optimizer step.
            tokens_per_batch: About how many supervised tokens a micro-batch holds, the same on every rank. It cancels
                out of every gradient; it only keeps what goes backward near a mean loss, which float16 needs.
            validation_tasks: Names of the tasks whose loss is logged apart; a validation batch says by the numbers in
                `task`, [batch], which row is of which.
            chunks_loss: Whether logits are made a chunk at a time while training, where the model lets that be done.
            compiles: Whether layers are compiled, and so the loss over such a chunk.
            may_give_up_compiling: Whether to go on uncompiled where the compiler fails; else that is an error.
        """
        super().__init__()
        self.strict_loading = False  # checkpoints hold only what trains; on_load_checkpoint compares the names instead
        self.model: Any = None
        self._build_model = build_model
        self._build_optimizer = build_optimizer
        self._build_scheduler = build_scheduler
        self._tokens_per_batch = tokens_per_batch
        self._validation_tasks = validation_tasks
        self._chunks_loss = chunks_loss
        self._compiles = compiles
        self._may_give_up_compiling = may_give_up_compiling
        self._head: FrozenHead | None = None
        self._window = Window()
        self._last_step: Step | None = None
        self._sums: Tensor | None = None
        self.waited_seconds = 0.0

    def configure_model(self) -> None:
        """Build the model on this rank's device; Lightning calls this once per stage."""
        if self.model is None:
            self.model = self._build_model(self.trainer.strategy.root_device)
            self._head = frozen_head(self.model) if self._chunks_loss else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The micro-batch's summed loss, scaled by the constant that `on_before_optimizer_step` takes out again."""
        try:
            loss = self._loss(batch)
        except COMPILER_ERRORS as error:
            loss = self._uncompiled_loss(batch, error)
        self._window.add(loss.detach(), batch)
        return loss / self._tokens_per_batch

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn summed gradients into those of the mean over all supervised tokens of the window and of all ranks.

        Lightning has divided by `accumulate_grad_batches`, and DDP by the number of ranks; both are undone here. A
        mean of micro-batch means would weigh the tokens of short batches more.
        Source: https://github.com/Lightning-AI/pytorch-lightning/issues/20350

        On a GPU with a fused optimizer, and between the steps that are logged, the figures of a step are read when the
        next one comes: a device that is waited for has nothing to do meanwhile. A step with bad figures, and any behind
        it, is left out on the device.

        Raises:
            NonFiniteError: If the loss or the gradients' norm is not a number, on all ranks at once; the weights are
                still those of the step before.
            FtframeError: If no token of the window was supervised.
        """
        self._check_last_step()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        window, self._window = self._window, Window()
        norm = torch.nn.utils.get_total_norm(gradients)
        sums = self._sum_over_ranks(window.sums(norm))
        step = Step.begin(self.global_step, sums, window.rows)
        if self._may_read_later(optimizer):
            skip_if_not_finite(optimizer, sums)
            torch._foreach_mul_(gradients, (self._undone / sums[1]).float())
            self._last_step = step
            return
        loss, norm_value, tokens = self._checked(step)
        torch._foreach_mul_(gradients, self._undone / tokens)
        # On the host, for the progress bar asks for them after each batch, and would wait for the device.
        self.log("train/loss", torch.tensor(loss), prog_bar=True)
        self.log("train/grad_norm", torch.tensor(norm_value))
        self.log("train/lr", torch.tensor(optimizer.param_groups[0]["lr"]))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, and let go of the gradients, which Lightning would keep while the next batch goes forward."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    @property
    def _undone(self) -> float:
        """The factor of a window's mean gradient in what Lightning has made of its sum, times its tokens."""
        return float(self._tokens_per_batch * self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def _may_read_later(self, optimizer: Optimizer) -> bool:
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its logger connector
        is_logged = (self.global_step + 1) % max(every, 1) == 0
        waits = self.device.type == "cuda" and can_skip_on_device(optimizer, optimizer.param_groups)
        return waits and not is_logged and getattr(self.trainer.precision_plugin, "scaler", None) is None

    def _check_last_step(self) -> None:
        """Hold the step whose figures were not read yet to what a step must be."""
        step, self._last_step = self._last_step, None
        if step is not None:
            self._checked(step)

    def on_train_end(self) -> None:
        """Check the last step."""
        self._check_last_step()

    def on_validation_epoch_start(self) -> None:
        """Start the sums of one pass over the validation data, a row for each task."""
        self._check_last_step()
        self._sums = torch.zeros(max(len(self._validation_tasks), 1), 3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add each row's loss, supervised tokens and right guesses to the sums of its task."""
        with eagerly():
            logits = self._logits(batch)
        labels = batch["labels"][:, 1:]
        right = (logits[:, :-1].argmax(-1) == labels).sum(1)  # no token id equals IGNORE_INDEX
        losses = row_losses(logits, batch["labels"])
        rows = torch.stack([losses.double(), labels.ne(IGNORE_INDEX).sum(1).double(), right.double()], dim=1)
        assert self._sums is not None
        self._sums.index_add_(0, batch["task"], rows)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss` (nats per supervised token), `val/perplexity` and `val/token_accuracy` over all ranks.

        With several tasks also `val/<task>/loss` and so on.
        """
        assert self._sums is not None
        sums = self._sum_over_ranks(self._sums).cpu()
        self._log_validation("val", sums.sum(0))
        for name, row in zip(self._validation_tasks, sums, strict=False):
            if row[1] > 0:
                self._log_validation(f"val/{name}", row)

    def _log_validation(self, prefix: str, sums: Tensor) -> None:
        loss, tokens, right = sums.tolist()
        mean = torch.tensor(loss / max(tokens, 1.0))
        values = {"loss": mean, "perplexity": mean.exp(), "token_accuracy": right / max(tokens, 1.0)}
        self.log_dict({f"{prefix}/{name}": value for name, value in values.items()})

    def configure_optimizers(self) -> Any:
        """The optimizer over what trains, and its schedule per optimizer step."""
        assert self._build_optimizer is not None, "this module was built to evaluate, not to train"
        optimizer = self._build_optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self._build_scheduler is None:
            return optimizer
        schedule = {"scheduler": self._build_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains: the frozen base is not written at every save."""
        self._check_last_step()
        trained = self._trained_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another adapter, which non-strict loading would let pass without a word."""
        odd = sorted(self._trained_names() ^ set(checkpoint["state_dict"]))
        if odd:
            raise FtframeError(
                f"The checkpoint does not fit this configuration: {len(odd)} tensors stand on one side only, "
                f"the first is {odd[0]}. Resume with the model, peft and quant of the run that wrote it."
            )

    def _checked(self, step: Step) -> tuple[float, float, float]:
        """A step's mean loss, the norm of its gradients, and its supervised tokens, all of which it can be made with.

        float16's loss scaler provokes infinite gradients to find its scale, and leaves out those steps itself.
        """
        summed, tokens, squares = step.figures()
        self.waited_seconds += step.waited_seconds
        if tokens == 0:
            raise FtframeError(f"No supervised token in the batches of step {step.number}.")
        loss, norm = summed / tokens, math.sqrt(squares / self.trainer.world_size) * (self._undone / tokens)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if math.isfinite(loss) and (scaled or math.isfinite(norm)):
            return loss, norm, tokens
        raise NonFiniteError(
            f"The loss of step {step.number} is {loss}, and the norm of its gradients {norm}. The weights are "
            "those of the step before. Lower optim.lr, clip with trainer.gradient_clip_val, or choose another "
            "trainer.precision.",
            facts={"step": step.number, "loss": loss, "gradient_norm": norm, "rows": step.rows},
        )

    def _loss(self, batch: Batch) -> Tensor:
        if self._head is None:
            return causal_lm_loss(self._logits(batch), batch["labels"])
        hidden = self._head.hidden_states(self._inputs(batch))
        return chunked_causal_lm_loss(
            hidden, self._head.weight, batch["labels"], batch["supervised_positions"], compiled=self._compiles
        )

    def _uncompiled_loss(self, batch: Batch, error: Exception) -> Tensor:
        if not self._may_give_up_compiling:
            raise FtframeError(
                f"The model's layers cannot be compiled; model.compile=false trains them as they are.\n{error}"
            ) from error
        log.warning("training goes on uncompiled, and more slowly, since the compiler failed: %s", error)
        give_up_compiling()
        return self._loss(batch)

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.model(**self._inputs(batch)).logits
        return logits

    def _inputs(self, batch: Batch) -> Batch:
        return model_inputs(batch, self.model.config._attn_implementation)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Tensor = self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")
        return summed

    def _trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}
