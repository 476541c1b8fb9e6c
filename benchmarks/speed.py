"""Throughput and memory of `ftframe fit` beside other stacks, each run in a process of its own on one GPU.

    python benchmarks/speed.py --tokenizer DIR --gsm8k FILE --work DIR CELL ...

Runs the cells in the order they are named and writes a line of JSON for each to `--work`/results.jsonl. Models have the
true shape and random weights. Full rows are text that fills `data.max_length`. ftframe is run by its command, Lightning
and all; what it says in its run folder's metrics.json is what counts, the median step, in which nothing compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = (
    *("tokens_per_second", "supervised_tokens_per_second", "median_tokens_per_second", "median_step_seconds"),
    *("median_host_seconds", "mfu", "train_peak_gpu_gib", "train_peak_gpu_reserved_gib", "peak_gpu_gib"),
)
QLORA, LORA, FP8 = ("peft=qlora",), ("peft=lora",), ("peft=lora", "quant=fp8")
LLAMA_65B = (
    *("model.config.hidden_size=8192", "model.config.intermediate_size=22016", "model.config.num_hidden_layers=80"),
    *("model.config.num_attention_heads=64", "model.config.num_key_value_heads=64"),
)


@dataclass(frozen=True)
class Own:
    """A run of ftframe.

    Attributes:
        overrides: What it differs in from the others.
        data: `full` rows, or `packed` examples of GSM8K.
        steps: Optimizer steps.
        model: An option of the group.
        seconds: After which it is given up.
    """

    overrides: tuple[str, ...]
    data: str = "full"
    steps: int = 24
    model: str = "llama2"
    seconds: int = 240


CELLS: dict[str, Own | tuple[str, ...]] = {
    "qlora": Own(QLORA),
    "qlora ample": Own((*QLORA, "memory=ample")),
    "qlora keep": Own((*QLORA, "memory=none")),
    "qlora budget": Own((*QLORA, "memory=budget")),
    "qlora checkpoint": Own((*QLORA, "memory=checkpoint")),
    "qlora offload": Own((*QLORA, "memory=offload")),
    "lora keep": Own((*LORA, "memory=none")),
    "fp8 ample": Own((*FP8, "memory=ample")),
    "fp8 keep": Own((*FP8, "memory=none")),
    "mistral ample": Own((*QLORA, "memory=ample"), model="mistral"),
    "mistral keep": Own((*QLORA, "memory=none"), model="mistral"),
    "gsm8k, one row": Own((*QLORA, "data.batch_size=1", "data.max_length=1792"), "packed", 50),
    "gsm8k, 16k tokens": Own((*QLORA, "data.batch_size=8"), "packed", 20),
    "65B": Own((*QLORA, *LLAMA_65B, "memory=checkpoint", "data.max_length=512", "data.batch_size=1"), steps=16),
    "plan, 13B budget": Own((*QLORA, "memory=budget", "data.batch_size=2"), steps=4, model="llama2_13b"),
    "plan, 13B checkpoint 8k": Own((*QLORA, "memory=checkpoint", "data.batch_size=4"), steps=4, model="llama2_13b"),
    "plan, short rows": Own((*QLORA, "memory=none", "data.max_length=512", "data.batch_size=8"), steps=4),
    "plan, one row offload": Own((*QLORA, "memory=offload", "data.batch_size=1"), steps=4),
    "plan, uncompiled": Own((*QLORA, "memory=none", "model.compile=false", "data.batch_size=1"), steps=4),
    "plan, uncompiled checkpoint": Own((*LORA, "memory=checkpoint", "model.compile=false"), steps=4),
    "plan, mistral checkpoint": Own((*QLORA, "memory=checkpoint"), steps=4, model="mistral"),
    "plan, rank 64": Own((*QLORA, "memory=none", "peft.r=64", "data.batch_size=2"), steps=4),
    "unsloth keep, fused": ("unsloth-kept", "--optim", "adamw_torch_fused"),
    "unsloth keep": ("unsloth-kept",),
    "unsloth": ("unsloth",),
    "trl": ("trl",),
    "trl prepared": ("trl-prepared",),
    "unsloth gsm8k": ("unsloth", "--gsm8k", "{gsm8k}"),
    "unsloth keep gsm8k": ("unsloth-kept", "--gsm8k", "{gsm8k}"),
    "trl gsm8k": ("trl", "--gsm8k", "{gsm8k}"),
    "unsloth keep mistral": ("unsloth-kept", "--base", "mistral"),
    "unsloth keep mistral, fused": ("unsloth-kept", "--optim", "adamw_torch_fused", "--base", "mistral"),
}


def main() -> None:
    """Run the cells that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", choices=list(CELLS), metavar="CELL")
    parser.add_argument("--tokenizer", required=True, help="folder of the Llama 2 tokenizer")
    parser.add_argument("--gsm8k", required=True, help="JSON lines with question and answer")
    parser.add_argument("--work", required=True, type=Path, help="folder for data, weights, runs and results")
    parser.add_argument("--rivals", default="", help="folder where the other stacks are installed, if apart")
    parser.add_argument("--seconds", type=float, default=3600, help="after which no further cell is begun")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    for name in given.cells:
        cell, begun = CELLS[name], time.time()
        if begun - started > given.seconds:
            break
        run = run_own if isinstance(cell, Own) else run_rival
        row = {"cell": name, **run(name, cell, given), "wall_seconds": round(time.time() - begun, 1)}
        print(json.dumps(row), flush=True)
        with (given.work / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def run_own(name: str, cell: Any, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run of ftframe, what it had planned, and its warning if it went on uncompiled."""
    folder = given.work / "runs" / name.replace(" ", "_").replace(",", "")
    overrides = [*own_overrides(cell, given), f"output_dir={folder}"]
    output, trouble = finished([sys.executable, "-P", "-m", "ftframe", "fit", *overrides], cell.seconds)
    if trouble:
        return {"trouble": trouble}
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    said = {"planned": "planned peak", "warning": " uncompiled, "}
    lines = {key: line.strip() for key, words in said.items() for line in output.splitlines() if words in line}
    return {**{key: metrics[key] for key in FIGURES if key in metrics}, **lines}


def own_overrides(cell: Own, given: argparse.Namespace) -> Iterator[str]:
    """The command line of a cell."""
    yield from (f"model={cell.model}", "model.init=random", f"model.tokenizer={given.tokenizer}", "optim=adamw")
    yield from cell.overrides[:1]
    yield from ("peft.r=16", "peft.lora_alpha=16", "peft.lora_dropout=0", "optim.lr=1e-4", "scheduler=constant")
    yield from ("metrics=none", "baseline=false", "checkpoint.every_n_steps=0", f"trainer.max_steps={cell.steps}")
    yield from ("data.max_length=2048", "data.batch_size=4", "data.eval_batch_size=1", "data.generate_examples=0")
    if cell.data == "full":
        train, validation = full_rows(given)
        yield from ("data=text", f"data.dataset.path={train}", f"data.dataset.validation_path={validation}")
    else:
        yield from ("data=jsonl", f"data.dataset.path={given.gsm8k}", "data.packing=true", "data.template.name=plain")
        yield from ("data.dataset.columns.prompt=question", "data.dataset.columns.completion=answer")
        yield "data.validation_fraction=0.002"
    yield from cell.overrides[1:]


def full_rows(given: argparse.Namespace) -> tuple[Path, Path]:
    """Text of words that the tokenizer has, enough for every cell, and a little of it to validate on."""
    train, validation = given.work / "words.txt", given.work / "few_words.txt"
    if not validation.exists():
        from transformers import AutoTokenizer

        vocabulary = AutoTokenizer.from_pretrained(given.tokenizer).get_vocab()
        words = sorted(word.strip("\u2581") for word in vocabulary if word.strip("\u2581").isascii())
        words = [word for word in words if word.isalpha() and len(word) > 2]
        text = " ".join(random.Random(0).choices(words, k=230_000))
        train.write_text(text, encoding="utf-8")
        validation.write_text(text[:20_000], encoding="utf-8")
    return train, validation


def run_rival(name: str, cell: Any, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of another stack."""
    stack, *further = cell
    shape = "llama2"
    if "--base" in further:
        place = further.index("--base")
        shape, further = further[place + 1], [*further[:place], *further[place + 2 :]]
    further = [part.format(gsm8k=given.gsm8k) for part in further]
    command = [sys.executable, str(Path(__file__).with_name("rivals.py")), stack, str(weights_of(shape, given))]
    output, trouble = finished([*command, *further], 240, path=given.rivals)
    lines = [line for line in output.splitlines() if line.startswith('{"stack"')]
    return json.loads(lines[-1]) if lines else {"trouble": trouble or output[-2000:]}


def weights_of(shape: str, given: argparse.Namespace) -> Path:
    """A folder with random weights of a shape, in bfloat16, and the tokenizer, as the stacks want to load it."""
    folder: Path = given.work / "weights" / shape
    if not (folder / "tokenizer_config.json").exists():
        import torch
        from transformers import AutoTokenizer

        from ftframe import compose
        from ftframe.assembly import base_spec
        from ftframe.models.base import build_base_model

        cfg = compose.check(compose.compose("fit", [f"model={shape}", "model.init=random"]))
        model = build_base_model(
            base_spec(cfg), dtype=torch.bfloat16, quantization_config=None, device=torch.device("cuda")
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(given.tokenizer).save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
    return folder


def finished(command: list[str], seconds: int, *, path: str = "") -> tuple[str, str]:
    """Output of a command, and the end of it if it failed; packages in `path` come before all others."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        return "", f"not done after {seconds} s"
    return done.stdout, done.stdout[-4000:] if done.returncode else ""


if __name__ == "__main__":
    main()
