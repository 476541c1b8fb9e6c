"""LoRA whose weights are float32 and are multiplied in the type of what flows through the model.

PEFT multiplies in the adapter's own type: over a 16-bit base every activation is copied to float32, kept for the
backward pass, and multiplied without tensor cores. Here the weights, and so the optimizer's master copy, the gradients
and what is saved, stay float32, and only what is multiplied is rounded, as autocast does without its cost.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class CastingLinear(nn.Linear):
    """A linear layer whose weights are cast to the type of its input, [..., in_features] to [..., out_features]."""

    @classmethod
    def of(cls, linear: nn.Linear) -> CastingLinear:
        """The same layer, with the same parameters."""
        casting = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        casting.weight, casting.bias = linear.weight, linear.bias
        return casting.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, in the input's type."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


_FURTHER = (
    *("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "velora_config"),
    *("kasa_config", "monteclora_config", "megatron_config", "corda_config"),
    *("modules_to_save", "trainable_token_indices", "target_parameters"),
)
"""Options of LoRA that bring further weights, or compute with them in ways of their own."""


def is_plain_lora(peft_config: Any) -> bool:
    """Whether two matrices per layer are all that an adapter trains."""
    if type(peft_config) is not LoraConfig or peft_config.bias != "none":
        return False
    return not any(getattr(peft_config, name, None) for name in _FURTHER)


def multiply_in_type_of_input(model: nn.Module) -> None:
    """Let each plain LoRA layer of a PEFT model multiply in the type of its input; the others are left as they are."""
    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or layer.lora_variant:
            continue
        matrices = [part for parts in (layer.lora_A, layer.lora_B) for part in parts.values()]
        if not matrices or not all(type(part) is nn.Linear for part in matrices):
            continue  # of an embedding or a convolution
        for parts in (layer.lora_A, layer.lora_B):
            for name in list(parts):
                parts[name] = CastingLinear.of(cast(nn.Linear, parts[name]))
        layer.cast_input_dtype_enabled = False
