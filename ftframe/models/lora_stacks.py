"""LoRA over layers that read the same input (q, k and v; gate and up) in fewer matrix products.

Beside the weights W [out, in] of a layer, those of an adapter, A [r, in] and B [out, r], are narrow, but to multiply by
them alone reads and writes whole activations, and so costs more than their arithmetic. The layers have their A below
each other, as one: low = x A'. Over 4-bit layers, W is unpacked anew for each product, and what is unpacked can have B
to its right: the layer's output is [x low] [W sB]', added up before it is rounded. For a layer alone, to put x and low
beside each other would move more than it saves: it stays as PEFT has it.

Where memory is ample, W stays unpacked, and before each forward pass B is written to its right, and A below it. Where
nothing is dropped from A's input, the input's gradient then has A within its product too, [dy dlow] [W; A], which pays
for a layer alone.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ftframe.models.adapter_compute import CastingLinear
from ftframe.models.compilable_4bit import CompilableLinear4bit
from ftframe.models.fp8 import Fp8Linear
from ftframe.models.lora_products import BorderedProducts, Product, WideProduct, with_room

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))
"""Names, in models of transformers, of layers that are given the same input one after the other.

A layer alone is in it where its input can be written to its place as it is computed. What comes out of attention would
be copied, and kept twice.
"""

_BASES = (CompilableLinear4bit, Fp8Linear, nn.Linear)
"""Layers that LoRA is stacked over."""


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
    """Have stacks keep W unpacked, with room for A and B.

    Args:
        model: With stacks or without.
        decoder: Its part whose forward pass is never compiled as a whole; every A and B is written anew as it starts.
    """
    stacks = {id(stack): stack for module in model.modules() if (stack := getattr(module, "stack", None)) is not None}
    for stack in stacks.values():
        if stack.keep_unpacked():
            decoder.register_forward_pre_hook(stack.write_adapter)


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
        bordered: Where W is kept unpacked, of all layers below each other [W B], with zeros where other layers have
            their B, and behind the first layer's rows all A, [sum of out + sum of r, in + sum of r].
        input: What `shared` was computed of, until the last layer has used it.
        shared: The inputs of every B next to each other, [..., sum of r], or else the outputs of all layers.
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        (self.adapter,) = layers[0].lora_A
        self.bordered: Tensor | None = None
        self.input: Tensor | None = None
        self.shared: Tensor | tuple[Tensor, ...] | None = None
        for place, layer in enumerate(layers):
            layer.stack, layer.place = self, place
            kind: type = type(layer)
            layer.__class__ = _stacked(kind)

    def takes(self, input: Tensor) -> bool:
        """Whether every layer has its one adapter switched on, and multiplies in the input's type."""
        fits = all(
            not layer.merged
            and not layer.disable_adapters
            and list(layer.lora_A) == layer.active_adapters == [self.adapter]
            and _multiplies_in(layer.base_layer, input.dtype)
            for layer in self.layers
        )
        return fits and (len(self.layers) > 1 or self._is_at_once)

    def output(self, place: int, input: Tensor) -> Tensor:
        """Of one layer, [..., out]."""
        if self.input is not input:
            self.input, self.shared = input, self._outputs(input) if self._is_at_once else self._low(input)
        shared: Any = self.shared
        base = self.layers[place].base_layer
        if place == len(self.layers) - 1:
            self.input = self.shared = None
        if not isinstance(base, CompilableLinear4bit):
            output: Tensor = base(input) + F.linear(shared, self._up(place, input.dtype))
            return output
        output = shared[place] if isinstance(shared, tuple) else self._product(place, input, shared)
        return output if base.bias is None else output + base.bias.to(output.dtype)

    def keep_unpacked(self) -> bool:
        """From now on no W is unpacked any more, if any was; `write_adapter` has to come before each product.

        A layer alone whose A leaves out some of its input is no stack's matter: `takes` leaves it to PEFT.
        """
        bases = [layer.base_layer for layer in self.layers]
        gains = len(bases) > 1 or self._drops_nothing
        if not (gains and all(isinstance(base, CompilableLinear4bit) for base in bases)):
            return False
        rank, width = sum(self._ranks), bases[0].in_features
        weights = [base.unpack() for base in bases]
        room = with_room(weights[0], sum(map(len, weights)) + rank, width + rank)
        self.bordered = room.zero_()[:, : width + rank]
        for base, rows, weight in zip(bases, self._rows, weights, strict=True):
            base.unpacked = self.bordered[rows, :width].copy_(weight)
        return True

    def write_adapter(self, *_: Any) -> None:
        """Write every B, scaled, and every A that is read from there, beside W, if the adapter is still there.

        An earlier forward pass may wait for its backward pass, which takes A and W from here and B from elsewhere:
        autograd is not told that the whole has changed.
        """
        if not self._is_bordered:
            return
        assert self.bordered is not None
        whole, width = self.bordered.data, self.layers[0].in_features
        start, reads_down = 0, self._drops_nothing
        with torch.no_grad():
            for layer, rows, rank in zip(self.layers, self._rows, self._ranks, strict=True):
                up, scaling = layer.lora_B[self.adapter].weight, layer.scaling[self.adapter]
                torch.mul(up, scaling, out=whole[rows, width + start : width + start + rank])
                if reads_down:
                    below = self.layers[0].out_features + start
                    whole[below : below + rank, :width].copy_(layer.lora_A[self.adapter].weight)
                start += rank

    @property
    def _ranks(self) -> list[int]:
        return [layer.r[self.adapter] for layer in self.layers]

    @property
    def _rows(self) -> list[slice]:
        """Of each layer's W in `bordered`."""
        first, *others = (layer.out_features for layer in self.layers)
        ends = list(accumulate(others, initial=first + sum(self._ranks)))
        return [slice(0, first), *(slice(start, end) for start, end in pairwise(ends))]

    @property
    def _is_bordered(self) -> bool:
        """Whether every W is kept unpacked, none was changed since, and the adapter is still there and as wide."""
        if self.bordered is None or any(self.adapter not in layer.lora_B for layer in self.layers):
            return False
        fits = self.bordered.shape[1] == self.layers[0].in_features + sum(self._ranks)
        return fits and all(layer.base_layer.unpacked is not None for layer in self.layers)

    @property
    def _drops_nothing(self) -> bool:
        """Whether every A gets the whole input."""
        return all(isinstance(layer.lora_dropout[self.adapter], nn.Identity) for layer in self.layers)

    @property
    def _is_at_once(self) -> bool:
        """Whether all outputs are computed at once."""
        return self._is_bordered and self._drops_nothing

    def _downs(self, dtype: torch.dtype) -> list[Tensor]:
        """Every A, [r, in]."""
        return [layer.lora_A[self.adapter].weight.to(dtype) for layer in self.layers]

    def _product(self, place: int, input: Tensor, low: Any) -> Tensor:
        base, up = self.layers[place].base_layer, self._up(place, input.dtype)
        output: Tensor
        if self._is_bordered:
            assert self.bordered is not None
            wide = self.bordered[self._rows[place]]
            output = WideProduct.apply(input, low, up, wide)  # type: ignore[no-untyped-call]
        else:
            output = Product.apply(input, low, up, base.weight, base.weight.quant_state)  # type: ignore[no-untyped-call]
        return output

    def _outputs(self, input: Tensor) -> tuple[Tensor, ...]:
        downs = torch.cat(self._downs(input.dtype))
        ups = torch.cat([self._up(place, input.dtype) for place in range(len(self.layers))])
        sizes = [layer.out_features for layer in self.layers]
        outputs: tuple[Tensor, ...] = BorderedProducts.apply(input, downs, ups, self.bordered, sizes)  # type: ignore[no-untyped-call]
        return outputs

    def _low(self, input: Tensor) -> Tensor:
        downs = self._downs(input.dtype)
        if self._drops_nothing:
            return F.linear(input, torch.cat(downs))
        pairs = zip(self.layers, downs, strict=True)
        return torch.cat([F.linear(layer.lora_dropout[self.adapter](input), down) for layer, down in pairs], -1)

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
