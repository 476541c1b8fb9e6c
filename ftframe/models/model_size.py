"""A model in figures, from its config alone: parameters, bytes, and the operations of a token."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ftframe.models.adapter_compute import multiply_in_type_of_input
from ftframe.models.compiling import layers_of
from ftframe.models.quantisation import ample_bytes_per_weight, bytes_per_weight, kept_layers


@dataclass(frozen=True)
class ModelSize:
    """A base model with its adapter, if any.

    Attributes:
        parameters: Of the base.
        trained: That train: the adapter's, or the base's where there is none.
        trained_bytes: What these take, gradients not counted.
        frozen_bytes: What all others take, quantised where they are.
        quantised_bytes: The part of `frozen_bytes` that is quantised.
        ample_bytes: What these weights take on top where they are kept as they are multiplied, too.
        frozen_products: Weights that a token is multiplied with and that do not train; embeddings are looked up.
        trained_products: Those that do.
        largest_matrix: Weights of the largest quantised matrix, which is unpacked as a whole.
        layers: Of the decoder.
        hidden: Width of its states.
        attention: Query heads times their width.
        vocabulary: Rows of the output embedding.
        head_is_frozen: Whether the output embedding neither trains nor has an adapter.
    """

    parameters: int
    trained: int
    trained_bytes: int
    frozen_bytes: float
    quantised_bytes: float
    frozen_products: int
    trained_products: int
    largest_matrix: int
    layers: int
    hidden: int
    attention: int
    vocabulary: int
    head_is_frozen: bool
    ample_bytes: float = 0.0

    def operations(self, tokens: int, squares: float, *, passes: float = 0.0) -> float:
        """Floating-point operations of forward and backward pass.

        Through a frozen weight only the gradient of its input is computed, and a causal token meets half of its
        example. What is computed twice counts only if asked for.

        Args:
            tokens: How many.
            squares: The squared lengths of their examples, added up.
            passes: How much of the forward pass is computed again, from 0 to 1.
        """
        attention = 2.0 * self.layers * self.attention * squares  # of one pass: two products over half a square
        forward = 2.0 * tokens * (self.frozen_products + self.trained_products) + attention
        backward = 2.0 * tokens * (self.frozen_products + 2 * self.trained_products) + 2 * attention
        return forward * (1 + passes) + backward


def measure_size(
    config: Any,
    peft_config: Any,
    quantization_config: Any,
    *,
    dtype: torch.dtype,
    adapters_in_float32: bool = True,
    trust_remote_code: bool = False,
) -> ModelSize:
    """The figures of a model that is never built.

    Args:
        config: The base model's, of transformers.
        peft_config: The adapter's, or None where the whole model trains.
        quantization_config: As for `build_base_model`, or None.
        dtype: Type of the weights that are not quantised.
        adapters_in_float32: Whether adapters are float32 whatever the base's type.
        trust_remote_code: Whether the user trusts the code that the model brings along, if any.
    """
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        parameters = sum(weight.numel() for weight in base.parameters())
        quantised = _quantised(base, quantization_config)
        model = base
        if peft_config is not None:
            model = get_peft_model(base, copy.deepcopy(peft_config), autocast_adapter_dtype=adapters_in_float32)
            multiply_in_type_of_input(model)
            if not adapters_in_float32:  # PEFT does so by itself, but not to weights that are nowhere
                for weight in model.parameters():
                    weight.data = weight.data.to(dtype) if weight.requires_grad else weight.data
    frozen, trained = _split(model)
    per_weight = bytes_per_weight(quantization_config) if quantization_config is not None else 0.0
    packed_weights = sum(weight.numel() for weight in frozen if id(weight) in quantised)
    plain = sum(weight.numel() * weight.element_size() for weight in frozen if id(weight) not in quantised)
    head = base.get_output_embeddings()
    products = _products(model)
    text = config.get_text_config()
    heads = text.num_attention_heads
    return ModelSize(
        parameters=parameters,
        trained=sum(weight.numel() for weight in trained),
        trained_bytes=sum(weight.numel() * weight.element_size() for weight in trained),
        frozen_bytes=packed_weights * per_weight + plain,
        quantised_bytes=packed_weights * per_weight,
        frozen_products=sum(weight.numel() for weight in products if not weight.requires_grad),
        trained_products=sum(weight.numel() for weight in products if weight.requires_grad),
        largest_matrix=max((weight.numel() for weight in frozen if id(weight) in quantised), default=0),
        layers=len(layers_of(base)) or text.num_hidden_layers,
        hidden=text.hidden_size,
        attention=heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        vocabulary=head.weight.shape[0],
        head_is_frozen=type(head) is nn.Linear and not head.weight.requires_grad,
        ample_bytes=packed_weights * ample_bytes_per_weight(quantization_config) if quantised else 0.0,
    )


def _quantised(base: Any, quantization_config: Any) -> set[int]:
    """Which weights are quantised, by identity."""
    if quantization_config is None:
        return set()
    kept = kept_layers(base, quantization_config)
    return {id(m.weight) for name, m in base.named_modules() if isinstance(m, nn.Linear) and name not in kept}


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    weights = list(model.parameters())
    return [w for w in weights if not w.requires_grad], [w for w in weights if w.requires_grad]


def _products(model: nn.Module) -> list[Tensor]:
    """Matrices of linear layers, those of adapters included; a tied output embedding is one of them."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
