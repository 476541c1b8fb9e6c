"""Packed attention on a GPU: `python benchmarks/packed_attention_gpu.py` from the root of the checkout.

Tables for a small Llama with random weights and lengths like GSM8K's. *Parity*: the loss of each packed example
against the same example alone in float32, and what a change of one example does to the logits of its neighbours.
*Isolation*: `check_isolation` on the built model. *Speed*: tokens a second of forward and backward, without padding.
What does not run is listed with the reason. After `--seconds` the rest is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from ftframe.data.packing import pack_best_fit
from ftframe.models.isolation import check_isolation
from ftframe.models.varlen_attention import check_varlen, model_inputs, register_varlen_attention

VOCABULARY = 32_000
BASE = {"vocab_size": VOCABULARY, "hidden_size": 1024, "intermediate_size": 2816, "use_cache": False}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 16}
GROUPED = {"num_attention_heads": 16, "num_key_value_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **HEADS},
    "llama, grouped": {"model_type": "llama", **GROUPED},
    "mistral, window 64": {"model_type": "mistral", "sliding_window": 64, **GROUPED},
    "qwen3": {"model_type": "qwen3", "head_dim": 64, **GROUPED},
}
PRECISIONS = ("bf16", "autocast", "fp32")
"""Weights in bfloat16; in float32, computed with in bfloat16; in float32."""

FLEX = "flex_attention"
FLEX_KINDS = ("llama", "mistral, window 64")  # it compiles for each shape, which takes long
Batch = dict[str, Any]


def build(kind: str, attention: str, precision: str, *, layers: int, device: torch.device) -> Any:
    """A model with weights that depend on the seed and its shape alone."""
    shape = {**BASE, **MODELS[kind]}
    config = AutoConfig.for_model(shape.pop("model_type"), num_hidden_layers=layers, **shape)
    if attention == "varlen" and device.type == "cuda":
        check_varlen(config, device, torch.float32 if precision == "fp32" else torch.bfloat16)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return model.to(torch.bfloat16 if precision == "bf16" else torch.float32).train()


def draw_examples(tokens: int, seed: int, device: torch.device) -> list[Tensor]:
    """The examples of the fullest of many packs, with lengths like those of GSM8K under Llama 2's tokenizer."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(205), 0.37, 2000).astype(np.int64).clip(32, min(1000, tokens))
    packs = pack_best_fit(lengths, tokens, order=rng.permutation(len(lengths)))
    pack = max(packs, key=lambda rows: (lengths[rows].sum(), len(rows)))
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, VOCABULARY, (int(lengths[row]),), generator=generator) for row in sorted(pack)]
    return [ids.to(device) for ids in drawn]


def hide_first(ids: Tensor) -> Tensor:
    """Labels that learn every token but the first, which no token of the example precedes."""
    return torch.cat([ids.new_tensor([-100]), ids[1:]])


def pack(examples: list[Tensor]) -> Batch:
    """All examples in one row."""
    lengths = torch.tensor([0, *map(len, examples)])
    starts = lengths.cumsum(0).to(torch.int32).to(examples[0].device)
    positions = [torch.arange(len(ids), device=ids.device) for ids in examples]
    batch: Batch = {"input_ids": torch.cat(examples)[None], "position_ids": torch.cat(positions)[None]}
    batch["labels"] = torch.cat([hide_first(ids) for ids in examples])[None]
    longest = max(map(len, examples))
    return batch | {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def pad(examples: list[Tensor]) -> Batch:
    """Each example in a row of its own."""
    sequences = {
        "input_ids": (examples, 0),
        "attention_mask": ([torch.ones_like(ids) for ids in examples], 0),
        "labels": ([hide_first(ids) for ids in examples], -100),
    }
    fill = torch.nn.utils.rnn.pad_sequence
    return {key: fill(values, batch_first=True, padding_value=pad) for key, (values, pad) in sequences.items()}


def summed_loss(model: Any, batch: Batch, attention: str) -> Tensor:
    """Summed cross-entropy of one batch."""
    logits = model(**model_inputs(batch, attention)).logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits.float(), batch["labels"][:, 1:].flatten(), reduction="sum")


def mean_losses(logits: Tensor, examples: list[Tensor]) -> Tensor:
    """The mean loss of each example of a pack, from the pack's logits [tokens, vocabulary]."""
    parts = logits.float().split([len(ids) for ids in examples])
    return torch.stack([F.cross_entropy(part[:-1], ids[1:]) for part, ids in zip(parts, examples, strict=True)])


def gradients(model: Any, losses: Iterator[Tensor]) -> Tensor:
    """All gradients of a sum of losses, flat, in float32."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    flat = torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()])
    model.zero_grad()
    return flat


def parity(kind: str, attention: str, precision: str, examples: list[Tensor], device: torch.device) -> str:
    """One row: differences of losses, of neighbours' logits, of gradients, and what the isolation check says."""
    exact, expected = losses_alone(build(kind, "sdpa", "fp32", layers=2, device=device), examples)
    model = build(kind, attention, precision, layers=2, device=device)
    changed = [(examples[0] + 17) % (VOCABULARY - 3) + 3, *examples[1:]]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "autocast"):
        check_isolation(model)
        with torch.no_grad():
            packed, again, other = (
                model(**model_inputs(pack(rows), attention)).logits[0] for rows in (examples, examples, changed)
            )
        found = gradients(model, iter([summed_loss(model, pack(examples), attention)]))
        model.set_attn_implementation("sdpa")
        alone, unpacked = losses_alone(model, examples)
    losses = mean_losses(packed, examples)
    gaps = ((losses - alone), (losses - exact), (alone - exact), (packed - other)[len(examples[0]) :], packed - again)
    offs = ((grad - expected).norm() / expected.norm() for grad in (found, unpacked))
    return "".join(f"{float(value):>10.1e}" for value in (*(gap.abs().max() for gap in gaps), *offs)) + "  isolated"


def losses_alone(model: Any, examples: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean loss of each example in a batch of its own, and the gradients of the sum of all tokens' losses."""
    with torch.no_grad():
        losses = [mean_losses(model(input_ids=ids[None]).logits[0], [ids]) for ids in examples]
    return torch.cat(losses), gradients(model, (summed_loss(model, pad([ids]), "sdpa") for ids in examples))


def seconds_per_step(step: Callable[[], object], *, warm_up: int, steps: int, device: torch.device) -> float:
    """The median time of a step."""
    times = []
    for index in range(warm_up + steps):
        _synchronize(device)
        start = time.perf_counter()
        step()
        _synchronize(device)
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(kind: str, how: str, examples: list[Tensor], options: argparse.Namespace, device: torch.device) -> str:
    """One row: tokens a second of forward and backward in bf16, and the peak memory."""
    attention, *compiled = how.split(" + ")
    padded = attention == "sdpa padded"
    attention = "sdpa" if padded else attention
    model = build(kind, attention, "bf16", layers=options.layers, device=device)
    if compiled:
        torch.compiler.reset()
        for layer in model.model.layers:
            layer.compile(fullgraph=True)
    batch = pad(examples) if padded else pack(examples)

    def step() -> None:
        summed_loss(model, batch, attention).backward()
        model.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_per_step(step, warm_up=options.warm_up, steps=options.steps, device=device)
    tokens = sum(map(len, examples))
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return f"{tokens / seconds:>12,.0f}{seconds * 1e3:>10.1f}{peak:>9.2f}{tokens / batch['input_ids'].numel():>9.1%}"


def row(title: str, deadline: float, measure: Callable[[], str]) -> None:
    """Print a row, or why there is none."""
    start = time.perf_counter()
    try:
        text = measure() if start < deadline else "  left out: the time is up"
    except Exception as error:  # what one attention cannot do must not hide what the others can
        text = f"  {type(error).__name__}: {' '.join(str(error).split())[:180]}"
    print(f"{title:<38}{text}  ({time.perf_counter() - start:.1f} s)", flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parity_table(attentions: tuple[str, ...], examples: list[Tensor], device: torch.device, deadline: float) -> None:
    """Print what packing changes."""
    print(
        f"\nParity, 2 layers, {len(examples)} examples of {sum(map(len, examples))} tokens; the largest difference of\n"
        "  losses: each example's mean, packed against alone (sdpa), packed and alone against alone in float32;\n"
        "  next: the neighbours' logits when the first example changes; noise: logits of the same pack twice;\n"
        "  gradients, packed and alone, relative to float32.\n"
        f"{'':<38}{'losses':>10}{'packed':>10}{'alone':>10}{'next':>10}{'noise':>10}{'gradients':>10}{'alone':>10}"
    )
    for kind in MODELS:
        for precision in PRECISIONS:
            for attention in attentions:
                if attention != FLEX or kind in FLEX_KINDS:
                    title = f"{kind}, {precision}, {attention}"
                    row(title, deadline, partial(parity, kind, attention, precision, examples, device))


def speed_table(ways: tuple[str, ...], examples: list[Tensor], options: argparse.Namespace, deadline: float) -> None:
    """Print what packing wins."""
    device = examples[0].device
    print(
        f"\nSpeed, bf16, {options.layers} layers, {len(examples)} examples of {sum(map(len, examples))} tokens\n"
        f"{'':<38}{'tokens/s':>12}{'ms/step':>10}{'GiB':>9}{'full':>9}"
    )
    for kind in ("llama", "llama, grouped"):
        for how in ways:
            row(f"{kind}, {how}", deadline, partial(speed, kind, how, examples, options, device))


def main() -> None:
    """Print the tables: first all that needs no compiler."""
    parser = argparse.ArgumentParser(description="Packed attention: parity, isolation and speed.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the pack that is timed")
    parser.add_argument("--parity-tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=150)
    options = parser.parse_args()
    deadline = time.perf_counter() + options.seconds
    device = torch.device("cuda:0" if options.device == "cuda" else options.device)
    register_varlen_attention()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    few, many = (draw_examples(tokens, 0, device) for tokens in (options.parity_tokens, options.tokens))
    speed_table(("sdpa padded", "eager", "sdpa", "varlen"), many, options, deadline)
    parity_table(("eager", "sdpa", "varlen"), few, device, deadline)
    speed_table((FLEX, "sdpa + compile", "varlen + compile"), many, options, deadline)
    parity_table((FLEX,), few, device, deadline)


if __name__ == "__main__":
    main()
