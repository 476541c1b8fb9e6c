"""A frozen base in FP8: weights of eight bits, products on the FP8 tensor cores, in both directions.

Weights (E4M3) have a scale for each row, activations and gradients one for each token, found as they come. The backward
pass multiplies by the same weights, with their scales put into the gradient first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ftframe.errors import ConfigError, FtframeError
from ftframe.models.compiling import compiled

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
_SMALLEST_SCALE = 1e-30
_ROUNDING = 0.05
"""How far two products may differ, as a share, whose sums are rounded in another order."""


@dataclass
class Fp8Config:
    """`quant=fp8`.

    Attributes:
        load_in_fp8: True; it tells such a record from one of bitsandbytes.
        llm_int8_skip_modules: Names of layers that stay as they are, in the word that `BitsAndBytesConfig` has for it.
    """

    load_in_fp8: bool = True
    llm_int8_skip_modules: list[str] | None = field(default=None)

    load_in_4bit = False
    load_in_8bit = False

    def __post_init__(self) -> None:
        """Refuse what is no choice.

        Raises:
            ValueError: If `load_in_fp8` is not true.
        """
        if self.load_in_fp8 is not True:
            raise ValueError("load_in_fp8 must be true; for a base that is not quantised: quant=none.")


def check_fp8_device(device: torch.device) -> None:
    """Refuse a GPU without FP8 tensor cores. A CPU computes the same numbers in float32, slowly.

    Raises:
        ConfigError: Below compute capability 8.9.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        raise ConfigError(
            f"quant=fp8 needs a GPU of compute capability 8.9 or later (L4, RTX 4090, H100); {name} has "
            f"{major}.{minor}. Use quant=4bit or quant=8bit."
        )


class Fp8Linear(nn.Linear):
    """A frozen linear layer in FP8, [..., in_features] to [..., out_features].

    `weight` holds the bits as bytes, [out_features, in_features]: what looks at weights, as PEFT does for the type of
    its own, takes eight-bit floats for a type to compute in.

    Attributes:
        scale: Of each row, [out_features, 1].
        ones: As many as there are columns, [1, in_features].
        turned: The weights transposed, [in_features, out_features], as the backward pass multiplies by them, where they
            are kept so as well.
    """

    scale: Tensor
    ones: Tensor
    turned: Tensor | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> Fp8Linear:
        """The same layer, quantised, on the same device."""
        quantised = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        values, scale = quantise_rows(linear.weight.data)
        quantised.weight = nn.Parameter(values.view(torch.uint8), requires_grad=False)
        quantised.register_buffer("scale", scale)
        quantised.register_buffer("ones", torch.ones(1, linear.in_features, device=scale.device), persistent=False)
        if linear.bias is not None:
            quantised.bias = nn.Parameter(linear.bias.data, requires_grad=False)
        return quantised.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply in FP8; the result has the input's type."""
        weight = self.weight.view(FORMAT)
        parts = weight, self.scale, self.ones, self.turned
        product: Tensor = _Product.apply(input.flatten(0, -2), *parts)  # type: ignore[no-untyped-call]
        product = product.unflatten(0, input.shape[:-1])
        return product if self.bias is None else product + self.bias.to(input.dtype)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weights as they are multiplied with, [out_features, in_features]."""
        return (self.weight.view(FORMAT).float() * self.scale).to(dtype)


def quantise_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values in FP8, shaped as before, and the factor of each row, [rows, 1], float32.

    Args:
        values: [rows, columns].
    """
    scale = values.abs().amax(dim=1, keepdim=True).float().clamp(min=_SMALLEST_SCALE) / _LARGEST
    return (values.float() / scale).clamp(-_LARGEST, _LARGEST).to(FORMAT), scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, scale: Tensor, ones: Tensor, turned: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale, ones, turned)
        product: Tensor = multiply(*quantise_rows(input), weight, scale.t(), input.dtype)
        return product

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        weight, scale, ones, turned = ctx.saved_tensors
        (gradient,) = outputs
        scaled = quantise_rows(gradient * scale.t().to(gradient.dtype))
        turned = weight.t().contiguous() if turned is None else turned
        return multiply(*scaled, turned, ones, gradient.dtype), None, None, None, None


@torch.library.custom_op(
    "ftframe::multiply_fp8",
    mutates_args=(),
    schema="(Tensor values, Tensor factors, Tensor weight, Tensor weight_factors, ScalarType dtype) -> Tensor",
)
def multiply(values: Tensor, factors: Tensor, weight: Tensor, weight_factors: Tensor, dtype: torch.dtype) -> Any:
    """`(values * factors) @ (weight * weight_factors.t()).t()`.

    The compiler of torch 2.11 takes what `torch._scaled_mm` returns on a GPU for something without a gradient, and
    gives the layer's input none; into an operator of another library it does not look.

    Args:
        values: FP8, [rows, inner].
        factors: [rows, 1].
        weight: FP8, [columns, inner].
        weight_factors: [1, columns].
        dtype: Of the result.
    """
    return ((values.float() @ weight.float().t()) * factors * weight_factors).to(dtype)


@multiply.register_kernel("cuda")
def _(values: Tensor, factors: Tensor, weight: Tensor, weight_factors: Tensor, dtype: torch.dtype) -> Any:
    product = torch._scaled_mm(
        values, weight.t(), scale_a=factors, scale_b=weight_factors, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return product.to(dtype)


@multiply.register_fake
def _(values: Tensor, factors: Tensor, weight: Tensor, weight_factors: Tensor, dtype: torch.dtype) -> Any:
    return values.new_empty(values.shape[0], weight.shape[0], dtype=dtype)


def quantise_linear_layers(model: nn.Module, keep: set[str], device: torch.device) -> None:
    """Exchange every linear layer but those named, one at a time, for one in FP8 on a device."""
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and name not in keep]
    for name in names:  # no list of modules: it would keep what is replaced
        plain = cast(nn.Linear, model.get_submodule(name))
        model.set_submodule(name, Fp8Linear.of(plain.to(device)))
        del plain


def keep_turned(model: nn.Module) -> None:
    """Have every layer in FP8 keep its weights as the backward pass multiplies by them, too."""
    for module in model.modules():
        if isinstance(module, Fp8Linear):
            module.turned = module.weight.view(FORMAT).t().contiguous()


def dequantise_linear_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Exchange every layer in FP8 for one in another type, with the weights that it multiplied with.

    An adapter can be merged into these; not into eight bits, which most of it would be lost in.
    """
    for name in [name for name, module in model.named_modules() if isinstance(module, Fp8Linear)]:
        quantised = cast(Fp8Linear, model.get_submodule(name))
        linear = nn.Linear(
            quantised.in_features, quantised.out_features, bias=quantised.bias is not None, device="meta"
        )
        linear.weight = nn.Parameter(quantised.dequantised(dtype), requires_grad=False)
        linear.bias = quantised.bias
        model.set_submodule(name, linear.train(quantised.training))
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.__dict__.pop("merge", None)  # of `refuse_merges`


def refuse_merges(model: nn.Module) -> None:
    """Have PEFT's layers over a base in FP8 raise where an adapter is to be merged into it.

    PEFT's safe merge casts the adapter to the bytes that such a layer keeps, which are too coarse, and says nothing.
    """
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(layer.get_base_layer(), Fp8Linear):
            layer.merge = _refuse_merge  # type: ignore[method-assign]


def _refuse_merge(*args: Any, **kwargs: Any) -> None:
    raise FtframeError(
        "An adapter cannot be merged into a base in FP8, whose eight bits it would be lost in. Put the base into "
        "another type first: ftframe.models.fp8.dequantise_linear_layers(model, torch.bfloat16)."
    )


def compiles_rightly(device: torch.device) -> bool:
    """Whether a compiled layer multiplies as the same layer uncompiled, forward and backward, on this machine.

    With torch 2.11 a compiled layer that called `torch._scaled_mm` gave no gradient at all on an H200.
    """
    linear = nn.Linear(64, 128, bias=False, device=device, dtype=torch.bfloat16)
    layer = Fp8Linear.of(linear)
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(32, n, generator=generator, device="cpu") for n in (64, 128)]
    input, gradient = (each.to(device, torch.bfloat16) for each in values)
    results = []
    for function in (layer, compiled(layer.forward)):
        leaf = input.clone().requires_grad_()
        output = function(leaf)
        output.backward(gradient)
        assert leaf.grad is not None
        results.append(torch.cat([output.detach().flatten(), leaf.grad.flatten()]).float())
    plain, other = results
    return bool((other - plain).norm() < _ROUNDING * plain.norm())
