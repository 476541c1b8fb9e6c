"""Matrix products in which an adapter stands beside the weights of its base, for the compiler to see into.

`weight` [out, in] is the base's, `down` [r, in] and `up` [out, r] are the adapter's A and its B, scaled, `input`
[..., in] is a layer's, and `low` [..., r] is what its B gets: input down', but for a dropout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from bitsandbytes.functional import QuantState
from torch import Tensor

from ftframe.models.compilable_4bit import dequantised, dequantised_again

_ALIGNED = 64
"""Numbers that a row's length in memory is a multiple of: matrix products read whole lines."""


class Product(torch.autograd.Function):
    """[input low] [weight up]', [..., out]; the weight is unpacked anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, low: Tensor, up: Tensor, packed: Tensor, state: QuantState) -> Tensor:
        ctx.save_for_backward(low, up, packed)
        ctx.state = state
        weight = dequantised(packed, state, input.dtype, by_row=True)
        return F.linear(torch.cat([input, low], -1), beside(weight, up))

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,), (low, up, packed) = outputs, ctx.saved_tensors
        of_up = gradient.flatten(0, -2).t() @ low.flatten(0, -2)
        weight = dequantised_again(packed, ctx.state, gradient.dtype)
        return gradient @ weight, gradient @ up, of_up, None, None


class WideProduct(torch.autograd.Function):
    """[input low] wide', [..., out], where wide already is [weight up]."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, low: Tensor, up: Tensor, wide: Tensor) -> Tensor:
        ctx.save_for_backward(low, up, wide)
        return F.linear(torch.cat([input, low], -1), wide)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,), (low, up, wide) = outputs, ctx.saved_tensors
        of_up = gradient.flatten(0, -2).t() @ low.flatten(0, -2)
        return gradient @ wide[:, : wide.shape[1] - low.shape[-1]], gradient @ up, of_up, None


class BorderedProducts(torch.autograd.Function):
    """[input low] [weight up]' of layers with the same input, [..., out] each, where low is input down'.

    `bordered` is [weight up] of all layers below each other, [sum of out + r, in + r], and has [down 0] behind the rows
    of the first; `sizes` are their out, `up` is all of theirs, where its gradient goes: `bordered` gets none.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, down: Tensor, up: Tensor, bordered: Tensor, sizes: list[int]) -> Any:
        rank, width = down.shape
        room = with_room(input, input.numel() // width, width + rank)
        _put(room, input.reshape(-1, width), 0)
        _put(room, F.linear(room[:, :width], down), width)  # of the copy: input need not be in memory, too
        both = room[:, : width + rank]
        ctx.save_for_backward(both, up, bordered)
        ctx.shape, ctx.sizes = input.shape, sizes
        first, _, *others = bordered.split([sizes[0], rank, *sizes[1:]])
        return tuple(F.linear(both, wide).view(*input.shape[:-1], -1) for wide in (first, *others))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        both, up, bordered = ctx.saved_tensors
        rows, rank = ctx.sizes[0], up.shape[1]
        inputs, low = both[:, :-rank], both[:, -rank:]
        room = with_room(both, len(both), rows + rank)
        first, *others = (gradient.reshape(len(both), -1) for gradient in gradients)
        _put(room, first, 0)
        parts = [room[:, :rows], *others]
        of_low = sum(part @ its_up for part, its_up in zip(parts, up.split(ctx.sizes), strict=True))
        _put(room, of_low, rows)
        weights = bordered[:, : inputs.shape[1]].split([rows + rank, *ctx.sizes[1:]])
        of_input = sum(part @ weight for part, weight in zip([room[:, : rows + rank], *others], weights, strict=True))
        of_up = torch.cat([part.t() @ low for part in parts])
        return of_input.view(ctx.shape), of_low.t() @ inputs, of_up, None, None


def beside(left: Tensor, right: Tensor) -> Tensor:
    """`torch.cat([left, right], 1)` of matrices, each of which is written where it belongs.

    What the compiler makes of `cat` computes both for each number, and takes one of them; and so for an assignment to a
    slice. Into a view by strides it writes one alone.
    """
    columns = left.shape[1] + right.shape[1]
    room = with_room(left, len(left), columns)
    _put(room, left, 0)
    _put(room, right, left.shape[1])
    return room[:, :columns]


def with_room(like: Tensor, rows: int, columns: int) -> Tensor:
    """A new matrix of at least so many columns."""
    return like.new_empty(rows, -(-columns // _ALIGNED) * _ALIGNED)


def _put(room: Tensor, part: Tensor, start: int) -> None:
    """Write some columns of a matrix that is itself no view: the compiler takes a view by strides of nothing else."""
    room.as_strided(part.shape, (room.stride(0), 1), start).copy_(part)
