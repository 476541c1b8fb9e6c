"""LoRA over layers that read the same input (q, k and v; gate and up) in fewer matrix products.

Beside the weights W [out, in] of a layer, those of an adapter, A [r, in] and B [out, r], are narrow, but to multiply by
them alone reads and writes whole activations, and so costs more than their arithmetic. The layers have their A below
each other, as one: low = x A'. Over 4-bit layers, W is unpacked anew for each product, and what is unpacked can have B
to its right: the layer's output is [x low] [W sB]', added up before it is rounded. For a layer alone, to put x and low
beside each other would move more than it saves: it stays as PEFT has it.

Where memory is ample, W stays unpacked, and B is written to its right before each forward pass.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from bitsandbytes.functional import QuantState
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ftframe.models.adapter_compute import CastingLinear
from ftframe.models.compilable_4bit import CompilableLinear4bit, dequantised, dequantised_again
from ftframe.models.fp8 import Fp8Linear

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names, in models of transformers, of layers that are given the same input one after the other."""

_BASES = (CompilableLinear4bit, Fp8Linear, nn.Linear)
"""Layers that LoRA is stacked over."""

_ALIGNED = 64
"""Numbers that a row's length in memory is a multiple of: matrix products read whole lines."""


def stack_lora_layers(model: nn.Module) -> None:
    """Have the compiler see plain LoRA layers that read one input as a stack.

    Uncompiled, and for any other layer, nothing changes.
    """
    # What a stack remembers between its layers is forgotten when the last was called, and so need not be done again
    # where a checkpoint computes them again.
    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
    for parent in model.modules():
        layers = {name: layer for name, layer in parent.named_children() if _can_stack(layer)}
        for names in TOGETHER:
            if all(name in layers for name in names) and len({layers[name].in_features for name in names}) == 1:
                _Stack([layers[name] for name in names])


def keep_stacks_unpacked(model: nn.Module, decoder: nn.Module) -> None:
    """Have stacks keep W unpacked, with room for B to its right.

    Args:
        model: With stacks or without.
        decoder: Its part whose forward pass is never compiled as a whole; every B is written anew as it starts.
    """
    stacks = {id(stack): stack for module in model.modules() if (stack := getattr(module, "stack", None)) is not None}
    for stack in stacks.values():
        if stack.keep_unpacked():
            decoder.register_forward_pre_hook(stack.write_up)


def _can_stack(layer: Any) -> bool:
    if not isinstance(layer, LoraLayer) or type(layer.get_base_layer()) not in _BASES:
        return False
    matrices = [*layer.lora_A.values(), *layer.lora_B.values()]
    plain = len(matrices) == 2 and all(type(part) is CastingLinear and part.bias is None for part in matrices)
    return plain and not layer.lora_variant


def _multiplies_in(base: Any, dtype: torch.dtype) -> bool:
    """Whether a layer multiplies inputs of a type as they are."""
    return isinstance(base, Fp8Linear) or bool(dtype == getattr(base, "compute_dtype", base.weight.dtype))


class _Stack:
    """Layers with the same input.

    Attributes:
        layers: In the order in which they are called.
        adapter: The name of the one that each has.
        input: What `low` was computed of, until the last layer has used it.
        low: The inputs of every B next to each other, [..., sum of r].
        wide: Of each layer [W B], with zeros where other layers have their B, [out, in + sum of r]; empty where W is
            unpacked for each product.
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        (self.adapter,) = layers[0].lora_A
        self.input: Tensor | None = None
        self.low: Tensor | None = None
        self.wide: list[Tensor] = []
        for place, layer in enumerate(layers):
            layer.stack, layer.place = self, place
            kind: type = type(layer)
            layer.__class__ = _stacked(kind)

    def takes(self, input: Tensor) -> bool:
        """Whether every layer has its one adapter switched on, and multiplies in the input's type."""
        return all(
            not layer.merged
            and not layer.disable_adapters
            and list(layer.lora_A) == layer.active_adapters == [self.adapter]
            and _multiplies_in(layer.base_layer, input.dtype)
            for layer in self.layers
        )

    def output(self, place: int, input: Tensor) -> Tensor:
        """Of one layer, [..., out]."""
        if self.input is not input:
            self.input, self.low = input, self._low(input)
        base, low, up = self.layers[place].base_layer, self.low, self._up(place, input.dtype)
        assert low is not None
        if place == len(self.layers) - 1:
            self.input = self.low = None
        output: Tensor
        if not isinstance(base, CompilableLinear4bit):
            output = base(input) + F.linear(low, up)
            return output
        if self.wide and base.unpacked is not None:
            output = _WideProduct.apply(input, low, up, self.wide[place])  # type: ignore[no-untyped-call]
        else:
            output = _Product.apply(input, low, up, base.weight, base.weight.quant_state)  # type: ignore[no-untyped-call]
        return output if base.bias is None else output + base.bias.to(output.dtype)

    def keep_unpacked(self) -> bool:
        """From now on no W is unpacked any more, if any was; `write_up` has to come before each product."""
        if not all(isinstance(layer.base_layer, CompilableLinear4bit) for layer in self.layers):
            return False
        for layer in self.layers:
            base, ranks = layer.base_layer, self._ranks
            weight = base.unpack()
            self.wide.append(beside(weight, weight.new_zeros(base.out_features, sum(ranks))))
            base.unpacked = self.wide[-1][:, : base.in_features]
        return True

    def write_up(self, *_: Any) -> None:
        """Write each layer's B, scaled, to the right of its W, if the adapter is still there.

        An earlier forward pass may wait for its backward pass, which takes W from here and B from elsewhere: autograd
        is not told that the whole has changed.
        """
        if any(self.adapter not in layer.lora_B for layer in self.layers):
            return
        for place, (layer, wide) in enumerate(zip(self.layers, self.wide, strict=True)):
            start = layer.in_features + sum(self._ranks[:place])
            with torch.no_grad():
                up, scaling = layer.lora_B[self.adapter].weight, layer.scaling[self.adapter]
                torch.mul(up, scaling, out=wide.data[:, start : start + up.shape[1]])

    @property
    def _ranks(self) -> list[int]:
        return [layer.r[self.adapter] for layer in self.layers]

    def _low(self, input: Tensor) -> Tensor:
        downs = [layer.lora_A[self.adapter].weight.to(input.dtype) for layer in self.layers]
        dropouts = [layer.lora_dropout[self.adapter] for layer in self.layers]
        if all(isinstance(dropout, nn.Identity) for dropout in dropouts):
            return F.linear(input, torch.cat(downs))
        pairs = zip(dropouts, downs, strict=True)
        return torch.cat([F.linear(dropout(input), down) for dropout, down in pairs], -1)

    def _up(self, place: int, dtype: torch.dtype) -> Tensor:
        """The B of a layer, scaled, and zeros where the others have theirs, [out, sum of r]."""
        layer = self.layers[place]
        ranks = self._ranks
        up = (layer.lora_B[self.adapter].weight * layer.scaling[self.adapter]).to(dtype)
        return F.pad(up, (sum(ranks[:place]), sum(ranks[place + 1 :])))


@cache
def _stacked(kind: type) -> type:
    """PEFT's layer, which computes as a part of its stack while it is compiled."""

    class Stacked(kind):  # type: ignore[misc]
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() and not args and not kwargs and self.stack.takes(x):
                return self.stack.output(self.place, x)
            return super().forward(x, *args, **kwargs)

    Stacked.__name__ = Stacked.__qualname__ = kind.__name__
    return Stacked


class _Product(torch.autograd.Function):
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


class _WideProduct(torch.autograd.Function):
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


def beside(left: Tensor, right: Tensor) -> Tensor:
    """`torch.cat([left, right], 1)` of matrices, each of which is written where it belongs.

    What the compiler makes of `cat` computes both for each number, and takes one of them; and so for an assignment to a
    slice. Into a view by strides it writes one alone.
    """
    columns = left.shape[1] + right.shape[1]
    stride = -(-columns // _ALIGNED) * _ALIGNED
    out = left.new_empty(left.shape[0], stride)
    out.as_strided(left.shape, (stride, 1), 0).copy_(left)
    out.as_strided(right.shape, (stride, 1), left.shape[1]).copy_(right)
    return out[:, :columns]
