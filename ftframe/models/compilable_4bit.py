"""4-bit layers of bitsandbytes that a compiler can see into.

To it a call into another library is a wall: weights are unpacked by kernels of their own, each started from Python.
Here the same arithmetic is said in plain operations, of which the compiler makes one kernel. Uncompiled, the layers
stay what they are.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from torch import Tensor, nn

from ftframe.errors import ConfigError


class CompilableLinear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]  # which has no types
    """A frozen 4-bit layer, [..., in_features] to [..., out_features].

    Attributes:
        unpacked: The weights in the type that they are multiplied in, [out_features, in_features], where they are kept
            so beside the packed ones; no longer once there are other packed ones, as of a merge.
    """

    unpacked: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Forget what was unpacked of other weights."""
        if name == "weight":
            self.__dict__.pop("unpacked", None)
        super().__setattr__(name, value)

    def unpack(self) -> Tensor:
        """The weights in the type that they are multiplied in, [out_features, in_features]."""
        state: QuantState = self.weight.quant_state
        return dequantised(self.weight.data, state, self.compute_dtype or state.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in the layer's compute type; the result has the input's type."""
        if not torch.compiler.is_compiling():  # nor are there scales before the weights are on their device
            result: Tensor = super().forward(x)
            return result
        values = x.to(self.compute_dtype or x.dtype)
        product = self._product(values)
        if self.bias is not None:
            product = product + self.bias.to(product.dtype)
        return product.to(x.dtype)

    def _product(self, values: Tensor) -> Tensor:
        if self.unpacked is not None:
            return F.linear(values, self.unpacked)
        product: Tensor = _Product.apply(values, self.weight, self.weight.quant_state)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """Unpacks the weights anew in the backward pass, as bitsandbytes does."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, packed: Tensor, state: QuantState) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.state = state
        return F.linear(input, dequantised(packed, state, input.dtype))

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,), (packed,) = outputs, ctx.saved_tensors
        return gradient @ dequantised_again(packed, ctx.state, gradient.dtype), None, None


def dequantised(packed: Tensor, state: QuantState, dtype: torch.dtype, *, by_row: bool = False) -> Tensor:
    """Weights of 4 bits in another type, [out_features, in_features]: a code's value times the scale of its block.

    Args:
        packed: The codes, two a byte, the first one in the upper half.
        state: Their scales and values, in bitsandbytes' own form.
        dtype: Of the result.
        by_row: Whether each row is going to be written to a place of its own. Then places in memory are best computed
            from a row and a column; otherwise that takes a quarter longer than from a place in the whole.
    """
    pairs = packed.view(torch.uint8).flatten()
    shifts = torch.arange(4, -1, -4, dtype=torch.uint8, device=pairs.device)  # computed where it is used, no table
    codes = ((pairs[:, None] >> shifts) & 15).flatten()
    missing = -len(codes) % state.blocksize  # of the last block, where the weights do not fill it
    if missing:
        codes = F.pad(codes, (0, missing))
    if by_row and not state.shape[1] % state.blocksize:
        spread: Tensor = state.code[codes.view(state.shape).int()] * _scales_by_row(state)
        return spread.to(dtype)
    values: Tensor = state.code[codes.view(-1, state.blocksize).int()] * _scales(state)[:, None]
    return values.to(dtype).flatten()[: state.shape.numel()].view(state.shape)


def dequantised_again(packed: Tensor, state: QuantState, dtype: torch.dtype) -> Tensor:
    """As `dequantised`, in a backward pass.

    All bits are kept, and the compiler does not see that these are the weights of the forward pass: it would keep them
    from there, unpacked.
    """
    return dequantised(packed.view(torch.uint8) & 255, state, dtype)


def _scales(state: Any) -> Tensor:
    """Of each block, [blocks], float32; with double quantisation these are codes themselves."""
    scales: Tensor = state.absmax
    if not state.nested:
        return scales
    outer = state.state2
    of_blocks = outer.absmax.repeat_interleave(outer.blocksize)[: len(scales)]
    unpacked: Tensor = outer.code[scales.int()] * of_blocks + state.offset
    return unpacked


def _scales_by_row(state: Any) -> Tensor:
    """Of each weight, [out_features, in_features], where blocks end as rows do."""
    rows, columns = state.shape
    scales = _scales(state).view(rows, -1, 1)
    return scales.expand(rows, columns // state.blocksize, state.blocksize).reshape(rows, columns)


def check_unpacking(model: nn.Module) -> None:
    """Refuse a model whose 4-bit layers bitsandbytes would unpack wrongly on this CPU, without an error.

    Its AVX-512 kernel counts blocks by row, where scales belong to blocks of the whole: the two differ where a row is
    no multiple of a block. A few rows of each such width are tried, so a bitsandbytes that is mended is let through.
    Source: `dequantize_4bit` of bitsandbytes 0.50 on a CPU.

    Raises:
        ConfigError: If it does so.
    """
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit) and m.weight.device.type == "cpu"]
    uneven = {(layer.in_features, layer.weight.blocksize) for layer in layers}
    wrong = sorted((width, block) for width, block in uneven if width % block and not _unpacks(width, block))
    if wrong:
        raise ConfigError(
            f"On this CPU bitsandbytes unpacks 4-bit layers of {', '.join(str(width) for width, _ in wrong)} inputs "
            f"wrongly, since they are no multiple of the {wrong[0][1]} weights that share a scale. "
            "Choose quant=none or quant=8bit, or a GPU."
        )


def _unpacks(width: int, block: int) -> bool:
    weight = torch.arange(8.0 * width).view(8, width)  # of every block the scale is another
    packed, state = quantize_4bit(weight, blocksize=block, quant_type="nf4")
    return torch.equal(dequantize_4bit(packed, state), dequantised(packed, state, weight.dtype))


def keep_unpacked(model: nn.Module) -> None:
    """Have every 4-bit layer that the compiler sees into keep its weights unpacked, too, if it does not yet."""
    for module in model.modules():
        if isinstance(module, CompilableLinear4bit) and module.unpacked is None:
            module.unpacked = module.unpack()


def let_compiler_see(model: nn.Module) -> None:
    """Have every 4-bit layer of a model compile as one piece with what stands around it."""
    for module in model.modules():
        if type(module) is bnb.nn.Linear4bit:
            module.__class__ = CompilableLinear4bit
