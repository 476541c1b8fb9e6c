"""The most memory that a training step takes on its device, by part, before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ftframe.models.loss import CHUNK
from ftframe.models.model_size import ModelSize

_LIBRARIES = 96 * 2**20
"""Bytes of scratch that the libraries keep for matrix products, and what lies between blocks."""

STATE_BYTES = {
    "torch.optim.AdamW": 8.0,
    "torch.optim.Adam": 8.0,
    "torch.optim.SGD": 4.0,
    "bitsandbytes.optim.AdamW8bit": 2.06,
    "bitsandbytes.optim.AdamW32bit": 8.0,
    "bitsandbytes.optim.PagedAdamW8bit": 0.0,
    "bitsandbytes.optim.PagedAdamW32bit": 0.0,
}
"""Bytes of optimizer state per trained weight on the device; paged ones are the driver's, and leave when room is short.
What is not listed counts as AdamW."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device at the peak of a step.

    Attributes:
        weights: The base, quantised or not, or both.
        adapter: What trains, in its master precision; 0 where that is the base.
        gradients: Of what trains.
        optimizer: Its state.
        activations: Kept for the backward pass.
        loss: Logits and their gradients.
        workspace: What a layer needs while it is at work, unpacked weights among it.
        accumulates: Whether gradients of the micro-batch before are there from the start.
    """

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    loss: float
    workspace: float
    accumulates: bool = False

    @property
    def total(self) -> float:
        """The peak: gradients grow as activations are let go, and the logits are gone before a layer is at work."""
        standing = self.weights + self.adapter + self.optimizer
        backward = self.activations + max(self.loss, self.workspace)
        if self.accumulates:
            return standing + self.gradients + backward
        return standing + max(backward, self.gradients + self.workspace)


@dataclass(frozen=True)
class Saved:
    """Bytes that one layer saves for the backward pass.

    Attributes:
        per_token: Of activations.
        fixed: Whatever the tokens are: weights that autocast has cast.
    """

    per_token: float
    fixed: float = 0.0

    def of(self, tokens: int) -> float:
        """For a micro-batch."""
        return self.fixed + self.per_token * tokens


@dataclass(frozen=True)
class Layout:
    """A micro-batch and how it is computed.

    Attributes:
        tokens: Padding included.
        compute_bytes: Of a number that flows through the model: 2 or 4.
        compiles: Whether layers are compiled.
        chunks_loss: Whether logits are made a chunk at a time.
        memory: One of `memory.SETTINGS`.
        saved: By one layer if nothing is recomputed.
        saved_by_budget: The same with `memory=budget`.
        state_bytes: Of the optimizer, per trained weight.
        feed_forward: Width of the widest projection in a layer.
        accumulates: Whether an optimizer step takes several micro-batches.
    """

    tokens: int
    compute_bytes: int
    compiles: bool
    chunks_loss: bool
    memory: str
    saved: Saved
    saved_by_budget: Saved
    state_bytes: float
    feed_forward: int
    accumulates: bool = False


def estimate(size: ModelSize, layout: Layout) -> Footprint:
    """The footprint of a step.

    Args:
        size: The model.
        layout: The micro-batch.
    """
    trains_base, is_ample = size.frozen_bytes == 0, layout.memory == "ample"
    return Footprint(
        weights=size.trained_bytes if trains_base else size.frozen_bytes + is_ample * size.ample_bytes,
        adapter=0.0 if trains_base else float(size.trained_bytes),
        gradients=float(size.trained_bytes),
        optimizer=size.trained * layout.state_bytes,
        activations=_activations(size, layout),
        loss=_loss(size, layout),
        workspace=_workspace(size, layout),
        accumulates=layout.accumulates,
    )


def largest_micro_batch(footprint_of: Callable[[int], float], capacity: float, *, step: int = 1) -> int:
    """The most rows with which a step fits, 0 if not even one does.

    Args:
        footprint_of: Peak in bytes for a number of rows.
        capacity: Bytes of the device.
        step: Rows are a multiple of it.
    """
    low, high = 0, 1
    while footprint_of(high * step) <= capacity and high < 2**20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if footprint_of(middle * step) <= capacity else (low, middle)
    return low * step


def with_memory(layout: Layout, memory: str) -> Layout:
    """The same micro-batch with another setting."""
    return replace(layout, memory=memory)


def _activations(size: ModelSize, layout: Layout) -> float:
    """Of all layers, and the states before and behind them."""
    states = size.hidden * layout.compute_bytes * layout.tokens
    around = (2 if layout.compiles else 3) * states  # the embeddings, and, uncompiled in float32, the last norm's input
    if layout.memory == "checkpoint":
        return around + size.layers * states
    if layout.memory == "offload":
        return around + 5 * states  # those whose copies are under way, in either direction
    return around + size.layers * _kept(layout)


def _kept(layout: Layout) -> float:
    """Of what a layer saves, the bytes that are not computed again."""
    whole = layout.saved.of(layout.tokens)
    if layout.memory == "budget":  # for other tokens than it was counted for, it is an estimate
        return min(layout.saved_by_budget.of(layout.tokens), whole)
    return whole if layout.memory in ("ample", "none") else 0.0


def _loss(size: ModelSize, layout: Layout) -> float:
    vocabulary, width = size.vocabulary, layout.compute_bytes
    if not (layout.chunks_loss and size.head_is_frozen):
        return layout.tokens * vocabulary * (2 * width + 3 * 4.0)
    chunk = min(CHUNK, layout.tokens * vocabulary)
    temporary = 0.0 if layout.compiles else 3 * 4.0 * chunk
    return 2 * layout.tokens * size.hidden * width + 2 * width * chunk + temporary


def _workspace(size: ModelSize, layout: Layout) -> float:
    """Of the backward pass of one layer, what it recomputes included."""
    recomputed = layout.saved.of(layout.tokens) - _kept(layout)
    copies = 3 if layout.compiles else 5
    flowing = copies * layout.feed_forward * layout.compute_bytes * layout.tokens
    unpacked = 0 if layout.memory == "ample" else 2 * size.largest_matrix * layout.compute_bytes
    return recomputed + flowing + unpacked + _LIBRARIES
