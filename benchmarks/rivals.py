"""One other fine-tuning stack on one GPU, through its public interface: what `benchmarks/speed.py` compares with.

Writes a line of JSON: tokens a second without padding in the median step, and peak memory in GiB. The stacks are not
dependencies of ftframe: install `trl`, `unsloth` and `bitsandbytes` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

GIBIBYTE = 2**30
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STACKS = ("trl", "trl-prepared", "unsloth", "unsloth-kept")
"""TRL with its defaults, and with a base prepared as PEFT's guide to quantisation does; Unsloth with its own
checkpointing, and with all activations kept."""

ROWS, ACCUMULATION = 2, 4
"""Examples of a micro-batch, and micro-batches of a step, with real lengths: what Unsloth's notebooks use."""


def main() -> None:
    """Run one stack on one kind of data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("base", help="folder with weights and a tokenizer")
    parser.add_argument("--gsm8k", help="JSON lines with question and answer; full rows of random tokens without it")
    parser.add_argument("--optim", default="adamw_8bit", choices=("adamw_8bit", "adamw_torch_fused"))
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    given = parser.parse_args()
    model, tokenizer = (load_trl if given.stack.startswith("trl") else load_unsloth)(given)
    import torch

    torch.cuda.reset_peak_memory_stats()
    if given.gsm8k or given.stack.startswith("trl"):
        seconds, tokens = train_by_trainer(model, tokenizer, given)
    else:
        seconds, tokens = train_by_loop(model, given)
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    figures = {
        "stack": given.stack,
        "optim": given.optim,
        "median_tokens_per_second": round(tokens / seconds),
        "median_step_seconds": round(seconds, 4),
        "train_peak_gpu_gib": round(allocated / GIBIBYTE, 3),
        "train_peak_gpu_reserved_gib": round(reserved / GIBIBYTE, 3),
        "device": torch.cuda.get_device_name(),
    }
    print(json.dumps(figures), flush=True)


def load_unsloth(given: argparse.Namespace) -> tuple[Any, Any]:
    """As its notebooks do."""
    import torch
    from unsloth import FastLanguageModel  # before transformers, which it patches

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=given.base, max_seq_length=given.length, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=16,
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        target_modules=LAYERS,
        use_gradient_checkpointing=False if given.stack == "unsloth-kept" else "unsloth",
        random_state=0,
    )
    return model.train(), tokenizer


def load_trl(given: argparse.Namespace) -> tuple[Any, Any]:
    """As the documentation of PEFT and TRL does; the trainer attaches the adapter."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        given.base, quantization_config=quantisation, dtype=torch.bfloat16, device_map={"": 0}
    )
    if given.stack == "trl-prepared":
        model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, AutoTokenizer.from_pretrained(given.base)


def train_by_loop(model: Any, given: argparse.Namespace) -> tuple[float, int]:
    """Seconds of the median step and its tokens, without a trainer's own costs."""
    import bitsandbytes as bnb
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if given.optim == "adamw_8bit":
        optimizer = bnb.optim.AdamW8bit(weights, lr=1e-4)
    else:
        optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    generator = torch.Generator("cuda").manual_seed(1)
    times = []
    for _ in range(given.warmup + given.steps):
        ids = torch.randint(3, 32000, (given.rows, given.length), device="cuda", generator=generator)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[given.warmup :]), given.rows * given.length


def train_by_trainer(model: Any, tokenizer: Any, given: argparse.Namespace) -> tuple[float, int]:
    """Seconds of the median step of its own SFT trainer, and the tokens of an average step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    steps = given.warmup + given.steps
    if given.gsm8k:
        lines = [json.loads(line) for line in Path(given.gsm8k).read_text(encoding="utf-8").splitlines()]
        texts = [f"{line['question']}\n{line['answer']}{tokenizer.eos_token}" for line in lines]
        ids = tokenizer(texts)["input_ids"][: steps * ROWS * ACCUMULATION]
        rows, accumulation = ROWS, ACCUMULATION
    else:
        ids = torch.randint(3, 32000, (given.rows * steps, given.length)).tolist()
        rows, accumulation = given.rows, 1
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            self.begun = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.perf_counter() - self.begun)

    adapter = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=LAYERS, task_type="CAUSAL_LM")
    config = SFTConfig(
        output_dir="rival_out",
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        bf16=True,
        max_length=given.length,
        optim=given.optim,
        report_to=[],
        save_strategy="no",
        learning_rate=1e-4,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        processing_class=tokenizer,
        peft_config=adapter if given.stack.startswith("trl") else None,
        callbacks=[Clock()],
    )
    trainer.train()
    tokens = sum(map(len, ids)) / len(ids) * rows * accumulation
    return statistics.median(times[given.warmup :]), round(tokens)


if __name__ == "__main__":
    main()
