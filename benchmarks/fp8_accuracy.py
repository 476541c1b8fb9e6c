"""What a base in FP8 costs in accuracy: `python benchmarks/fp8_accuracy.py --tokenizer DIR --gsm8k FILE --work DIR`.

A small Llama is trained on one half of GSM8K as plain text, all weights. Then LoRA teaches it to answer the questions
of the other half, over its base as it is, in FP8 and in 4 bits, and the losses on held-out questions are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HIDDEN = 512
BASES = {"none": ("peft=lora",), "fp8": ("peft=lora", "quant=fp8"), "4bit": ("peft=qlora", "optim=adamw")}


def main() -> None:
    """Train the base, adapt it three times, and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--gsm8k", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=2e-4, help="of the adaptation; that of the QLoRA paper")
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    lines = given.gsm8k.read_text(encoding="utf-8").splitlines()
    half = len(lines) // 2
    documents, questions = given.work / "documents.txt", given.work / "questions.jsonl"
    rows = [json.loads(line) for line in lines[:half]]
    documents.write_text("\n\n".join(f"{row['question']}\n{row['answer']}" for row in rows), encoding="utf-8")
    questions.write_text("\n".join(lines[half:]) + "\n", encoding="utf-8")
    base = train_base(given, documents)
    with ThreadPoolExecutor() as pool:  # each is a process of its own, and none is timed
        losses = dict(zip(BASES, pool.map(lambda name: adapt(given, name, base, questions), BASES), strict=True))
    exact = losses["none"]["val/loss"]
    for name, figures in losses.items():
        print(json.dumps({"base": name, **figures, "beyond bf16": figures["val/loss"] / exact - 1}), flush=True)


def train_base(given: argparse.Namespace, documents: Path) -> Path:
    """A folder with the weights of a model that has read the documents."""
    fit(
        given.work / "base",
        *shape_of(given),
        *("model.init=random", f"model.tokenizer={given.tokenizer}"),
        *("peft=none", "quant=none", "baseline=false", "optim=adamw", "optim.lr=1e-3"),
        *("data=text", f"data.dataset.path={documents}"),
        *("data.packing=true", "data.max_length=1024", "data.batch_size=8", "data.validation_fraction=0.02"),
        *("trainer.max_epochs=-1", f"trainer.max_steps={given.base_steps}"),
    )
    return Path(given.work / "base" / "model")


def adapt(given: argparse.Namespace, name: str, base: Path, questions: Path) -> dict[str, float]:
    """Final metrics with one kind of base."""
    metrics = fit(
        given.work / name,
        *shape_of(given),
        *(*BASES[name], f"model.path={base}", "peft.r=16", "peft.lora_alpha=32", "peft.lora_dropout=0"),
        *(f"optim.lr={given.lr}", "baseline=true"),
        *("data=jsonl", f"data.dataset.path={questions}", "data.template.name=alpaca"),
        *("data.dataset.columns.prompt=question", "data.dataset.columns.completion=answer"),
        *("data.max_length=1024", "data.batch_size=16", "data.validation_fraction=0.15"),
        *("trainer.max_epochs=-1", f"trainer.max_steps={given.steps}"),
    )
    return {"val/loss": metrics["final"]["val/loss"], "untrained": metrics["baseline"]["val/loss"]}


def shape_of(given: argparse.Namespace) -> list[str]:
    """Overrides that make Llama 2 a small one."""
    shape = {
        "hidden_size": given.hidden,
        "intermediate_size": given.hidden * 43 // 16 // 16 * 16,
        "num_hidden_layers": 8,
        "num_attention_heads": given.hidden // 64,
        "num_key_value_heads": given.hidden // 64,
    }
    return [f"model.config.{key}={value}" for key, value in shape.items()]


def fit(folder: Path, *overrides: str) -> dict[str, Any]:
    """metrics.json of a run."""
    common = ("metrics=none", "checkpoint.every_n_steps=0", "data.generate_examples=0")
    command = [sys.executable, "-P", "-m", "ftframe", "fit", "model=llama2", *overrides, *common, "model.compile=false"]
    done = subprocess.run(
        [*command, "data.eval_batch_size=16", f"output_dir={folder}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-1500:] + done.stderr[-3000:])
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


if __name__ == "__main__":
    main()
