"""Whether what is fast is also right: `python benchmarks/parity.py` on a GPU.

A Llama of few layers and true width, random weights, an adapter whose matrices are both not zero. For each way to
compute, the loss and the gradient of every adapter matrix are held against float32, uncompiled, on the same weights, of
which the quantised ones are unpacked by bitsandbytes itself. At most 1e-3 of the loss and 2e-2 of a gradient's norm may
differ, or as much of the latter as PEFT's own layers are off under autocast, which is measured first. Packed examples
are held against the same examples padded, and 20 steps against PEFT under autocast.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from ftframe.data.batching import pack_batch, pad_batch
from ftframe.models.adapter import attach_adapter
from ftframe.models.base import BaseSpec, build_base_model
from ftframe.models.causal_attention import CUDNN
from ftframe.models.compilable_4bit import let_compiler_see
from ftframe.models.fp8 import Fp8Config, Fp8Linear
from ftframe.models.lora_stacks import stack_lora_layers
from ftframe.models.loss import causal_lm_loss, chunked_causal_lm_loss
from ftframe.models.memory import arrange_memory
from ftframe.models.output_head import frozen_head
from ftframe.models.varlen_attention import VARLEN, model_inputs

LOSS, GRADIENT, STEPS = 1e-3, 2e-2, 5e-3
"""The most that a loss, a gradient's norm and a loss within 20 steps may be off, as a share."""

NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)


@dataclass(frozen=True)
class Way:
    """One way to compute.

    Attributes:
        quantisation: Of the base, or None.
        memory: As `memory=`.
        compiles: Whether layers are compiled.
        attention: The model's.
        packed: Whether examples share a row.
    """

    quantisation: Any
    memory: str = "none"
    compiles: bool = True
    attention: str = CUDNN
    packed: bool = False


WAYS = {
    "lora": Way(None),
    "qlora": Way(NF4),
    "qlora, uncompiled": Way(NF4, compiles=False),
    "qlora, ample": Way(NF4, "ample"),
    "qlora, budget": Way(NF4, "budget"),
    "qlora, checkpoint": Way(NF4, "checkpoint"),
    "qlora, offload": Way(NF4, "offload"),
    "qlora, packed": Way(NF4, attention=VARLEN, packed=True),
    "fp8 (no gate: its own study)": Way(Fp8Config()),
    "fp8, ample (no gate: its own study)": Way(Fp8Config(), "ample"),
}


def main() -> None:
    """Print a line of JSON for each way, and fail if a gate is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=given.width,
        intermediate_size=given.width * 43 // 16,
        num_hidden_layers=given.layers,
        num_attention_heads=max(given.width // 128, 1),
        use_cache=False,
    )
    theirs = pefts_distance(config, given.length, device)
    print(json.dumps({"way": "PEFT under autocast", "worst gradient is off by": theirs}), flush=True)
    right, gate = True, max(GRADIENT, theirs)
    for name in given.only:
        way = WAYS[name]
        torch._dynamo.reset()
        if way.packed and device.type == "cpu":
            way = Way(way.quantisation, way.memory, way.compiles, "sdpa", way.packed)
        found = compare(config, way, given.length, device, gate)
        right &= found.pop("right") or isinstance(way.quantisation, Fp8Config)
        print(json.dumps({"way": name, **found}), flush=True)
    found = twenty_steps(config, given.length, device)
    right &= found["largest"] <= STEPS
    print(json.dumps({"way": "20 steps beside PEFT", **found}), flush=True)
    sys.exit(0 if right else 1)


def compare(config: LlamaConfig, way: Way, length: int, device: torch.device, gate: float) -> dict[str, Any]:
    """How far loss and gradients are from the reference."""
    examples = list(some_examples(config.vocab_size, length))
    model = built(config, way, device)
    loss, gradients = loss_and_gradients(model, batch_of(examples, way), compiled=way.compiles, device=device)
    exact = reference(model, config, device)
    padded = batch_of(examples, Way(None))
    right_loss, right_gradients = loss_and_gradients(exact, padded, compiled=None, device=device)
    off = {name: distance(gradients[name], gradient) for name, gradient in right_gradients.items()}
    worst = max(off, key=lambda name: off[name])
    by_loss = abs(loss - right_loss) / right_loss
    return {
        "loss": round(loss, 5),
        "loss is off by": by_loss,
        "worst gradient is off by": off[worst],
        "of": worst,
        "right": by_loss <= LOSS and off[worst] <= gate,
    }


def built(config: LlamaConfig, way: Way, device: torch.device) -> Any:
    """A model as `ftframe fit` builds it, with an adapter that is not zero."""
    shape = {**config.to_diff_dict(), "model_type": "llama"}
    spec = BaseSpec("shape", init="random", config=shape, attn_implementation=way.attention)
    model = build_base_model(spec, dtype=torch.bfloat16, quantization_config=way.quantisation, device=device)
    model = attach_adapter(model, adapter(), base_path="shape", in_float32=True)
    fill(model)
    if way.compiles:
        let_compiler_see(model)
        stack_lora_layers(model)
    arrange_memory(model, way.memory, compiles=way.compiles)
    return model.train()


def adapter() -> LoraConfig:
    """LoRA as in the benchmarks of speed."""
    return LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def fill(model: nn.Module) -> None:
    """Weights that an adapter may have in the middle of training."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            values = torch.randn(weight.shape, generator=generator) * 0.02
            weight.data.copy_(values)


def reference(model: Any, config: LlamaConfig, device: torch.device) -> Any:
    """The same weights in float32, uncompiled, in PEFT's own layers."""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").to(device)
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    with torch.no_grad():
        for name, layer in plain.named_modules():
            source = layers.get(name)
            source = getattr(source, "base_layer", source)
            if hasattr(layer, "weight"):
                layer.weight.copy_(unpacked(source))
    exact = get_peft_model(plain, adapter())
    mine = dict(model.named_parameters())
    for name, weight in exact.named_parameters():
        if "lora_" in name:
            weight.data.copy_(mine[name].data)
    return exact.train()


def unpacked(layer: Any) -> Tensor:
    """A layer's weights in float32."""
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    if isinstance(layer, Fp8Linear):
        return layer.dequantised(torch.float32)
    weight: Tensor = layer.weight.float()
    return weight


def some_examples(vocabulary: int, length: int) -> Iterator[dict[str, Any]]:
    """Examples of several lengths whose first third is context."""
    generator = torch.Generator().manual_seed(1)
    for share in (1.0, 0.5, 0.3, 0.2):
        ids = torch.randint(3, vocabulary, (int(length * share),), generator=generator)
        labels = ids.clone()
        labels[: len(ids) // 3] = -100
        yield {"input_ids": ids.tolist(), "labels": labels.tolist()}


def batch_of(examples: list[dict[str, Any]], way: Way) -> dict[str, Any]:
    """The batch that ftframe's collators make of them."""
    if not way.packed:
        return pad_batch(examples, pad_token_id=0)
    tokens = sum(len(example["input_ids"]) for example in examples)
    return pack_batch([examples], pad_token_id=0, one_row=tokens if way.attention == VARLEN else None)


def loss_and_gradients(
    model: Any, batch: dict[str, Any], *, compiled: bool | None, device: torch.device
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and the gradient of each adapter matrix; with `compiled=None` from all logits at once."""
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    loss = loss_of(model, batch, compiled=compiled) / batch["supervised_tokens"]
    model.zero_grad()
    loss.backward()
    gradients = {name: w.grad.float().clone() for name, w in model.named_parameters() if w.grad is not None}
    return loss.item(), gradients


def loss_of(model: Any, batch: dict[str, Any], *, compiled: bool | None) -> Tensor:
    """Summed loss; with `compiled=None` from all logits at once."""
    inputs = model_inputs(batch, model.config._attn_implementation)
    if compiled is None:
        return causal_lm_loss(model(**inputs).logits, batch["labels"])
    head = frozen_head(model)
    assert head is not None
    hidden = head.hidden_states(inputs)
    return chunked_causal_lm_loss(
        hidden, head.weight, batch["labels"], batch["supervised_positions"], compiled=compiled
    )


def distance(found: Tensor, right: Tensor) -> float:
    """Norm of the difference as a share of the norm."""
    return float((found - right).norm() / right.norm())


def twenty_steps(config: LlamaConfig, length: int, device: torch.device) -> dict[str, Any]:
    """The largest difference in loss to PEFT's own layers under autocast, both on the same bfloat16 base."""
    torch._dynamo.reset()
    ours = built(config, Way(None), device)
    theirs = pefts_own(ours, config, device)
    batch = batch_of(list(some_examples(config.vocab_size, length)), Way(None))
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    losses = [train(model, batch, compiled=compiled) for model, compiled in ((ours, True), (theirs, None))]
    off = [abs(a - b) / b for a, b in zip(*losses, strict=True)]
    return {"first": losses[0][0], "last": losses[0][-1], "largest": max(off)}


def pefts_own(model: Any, config: LlamaConfig, device: torch.device) -> Any:
    """The same weights, the base in bfloat16, in PEFT's own layers."""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").to(device)
    plain.load_state_dict({k: v for k, v in base_weights(model).items() if k in plain.state_dict()}, strict=True)
    theirs: Any = get_peft_model(plain, copy.deepcopy(adapter()))
    fill(theirs)
    return theirs.train()


def pefts_distance(config: LlamaConfig, length: int, device: torch.device) -> float:
    """How far the worst gradient of PEFT's own layers is from the reference, under autocast over a bfloat16 base."""
    ours = built(config, Way(None, compiles=False), device)
    batch = batch_of(list(some_examples(config.vocab_size, length)), Way(None))
    _, right = loss_and_gradients(reference(ours, config, device), batch, compiled=None, device=device)
    theirs = pefts_own(ours, config, device)
    with torch.autocast(device.type, torch.bfloat16):
        _, found = loss_and_gradients(theirs, batch, compiled=None, device=device)
    return max(distance(found[name], gradient) for name, gradient in right.items())


def base_weights(model: Any) -> dict[str, Tensor]:
    """The base's weights by their names without an adapter."""
    weights = model.get_base_model().state_dict()
    return {name.replace(".base_layer", ""): weight for name, weight in weights.items() if "lora_" not in name}


def train(model: Any, batch: dict[str, Any], *, compiled: bool | None) -> list[float]:
    """Losses of 20 steps on one batch."""
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4)
    losses = []
    for _ in range(20):
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=compiled is None):
            loss = loss_of(model, batch, compiled=compiled) / batch["supervised_tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main()
