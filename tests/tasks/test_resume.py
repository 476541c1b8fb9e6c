"""A run that was cut and goes on equals, bit for bit, the run that was never cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ftframe import compose, run_plan
from ftframe.tasks import fit as fit_module
from ftframe.train.checkpoint_io import read_checkpoint

STEPS = 20
CUTS = (1, 4, 10, 19, STEPS)
COMMON = (
    *("data.dataset.size=32", "data.dataset.validation_size=8", "data.batch_size=4"),
    *(f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false"),
    *("checkpoint.every_n_steps=1", "checkpoint.keep=100", "scheduler.warmup_ratio=0.3"),
    *("data.generate_examples=2", "data.max_new_tokens=8"),
)
QLORA = ("peft.r=4", "peft.lora_dropout=0.1")
LORA = ("peft=lora", *QLORA)
MIXED = (
    *("data=mix", "data.mixing.strategy=weights", "+data.tasks.a.weight=2", "+data.tasks.a.dataset.size=20"),
    *("+data.tasks.a.dataset.name=people", "+data.tasks.b.dataset.name=people", "+data.tasks.b.dataset.size=15"),
    *("+data.tasks.b.dataset.seed=1", "data.max_length=128", "trainer.max_epochs=9"),
    *("+data.tasks.a.dataset.validation_size=8", "+data.tasks.b.dataset.validation_size=8"),
)
RUNS: dict[str, tuple[str, ...]] = {
    "qlora 4-bit, paged AdamW": QLORA,
    "accumulation 4, two workers, last window short": (
        *(*LORA, "data.dataset.size=30", "data.batch_size=1", "trainer.accumulate_grad_batches=4"),
        "data.num_workers=2",
    ),
    "packing, accumulation 4": (
        *(*LORA, "data.packing=true", "data.max_length=64", "data.batch_size=1"),
        *("trainer.accumulate_grad_batches=4", "trainer.max_epochs=20"),
    ),
    "packing, mixing, two workers": (*MIXED, *LORA, "data.packing=true", "data.batch_size=1", "data.num_workers=2"),
    "paged 8-bit AdamW, lora": (*LORA, "optim=paged_adamw_8bit"),
    "every weight, AdamW, ends with an epoch": (
        *("peft=none", "trainer.max_steps=-1", "trainer.max_epochs=2", "data.dataset.size=40", "optim.lr=1e-4"),
    ),
    "validation within epochs": (*LORA, "trainer.val_check_interval=3", "trainer.limit_val_batches=1"),
    "stream": (
        *(*LORA, "data=jsonl", "data.dataset.path=rows.jsonl", "data.dataset.streaming=true", "data.max_length=64"),
        *("data.dataset.validation_rows=8", "data.shuffle_buffer=8", "trainer.max_epochs=-1", "data.batch_size=4"),
    ),
}


class Probe(Callback):
    """Notes the rows of each batch."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rows.append((trainer.global_step, batch["rows"]))


def train(*overrides: str) -> list[Any]:
    """Run `ftframe fit` in this process; the rows of each batch, with the optimizer steps before it."""
    probe, build = Probe(), run_plan._build_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_plan,
            "_build_trainer",
            lambda cfg, precision, callbacks: build(cfg, precision, callbacks=[*callbacks, probe]),
        )
        patch.delenv("FTFRAME_RUN_DIR", raising=False)
        torch.manual_seed(len(overrides))  # what ran before must not matter
        fit_module.fit(compose.check(compose.compose("fit", overrides)))
    return probe.rows


def copy_cut(source: Path, run: Path, step: int) -> None:
    """A run folder as a kill would have left it, some time after the checkpoint of a step."""
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "overrides.yaml", "metrics.csv", "baseline.json"):
        shutil.copy(source / name, run / name)
    content = json.loads((source / "checkpoints" / "manifest.json").read_text())
    content["checkpoints"] = [entry for entry in content["checkpoints"] if entry["step"] == step]
    content["best"] = None
    (run / "checkpoints" / "manifest.json").write_text(json.dumps(content))
    (name,) = (entry["file"] for entry in content["checkpoints"])
    shutil.copy(source / "checkpoints" / name, run / "checkpoints" / name)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ, bit by bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if list(map(str, a)) != list(map(str, b)):
            return [f"{where}: {sorted(set(map(str, a)) ^ set(map(str, b)))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [f"{where}: {a} {b}"]


def state(run: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds, without clocks."""
    last = json.loads((run / "checkpoints" / "manifest.json").read_text())["checkpoints"][-1]
    content = read_checkpoint(run / "checkpoints" / last["file"])
    content["callbacks"] = {name: value for name, value in content["callbacks"].items() if name != "Throughput"}
    return content


def check_every_cut(typed: Sequence[str], folder: Path) -> None:
    """Hold a run that goes on behind each cut against one that was never cut."""
    straight = folder / "straight"
    expected_rows = train(*typed, f"output_dir={straight}")
    assert expected_rows[-1][0] == STEPS - 1
    expected = state(straight)
    assert expected["global_step"] == STEPS
    source = straight
    for step in CUTS:  # each a cut of the run that went on behind the one before: 1 and 4 are in one epoch
        run = folder / f"cut{step}"
        copy_cut(source, run, step)
        if source != straight:
            shutil.rmtree(source)
        found_rows = train(*typed, f"output_dir={run}", f"ckpt_path={run}")
        assert found_rows == [entry for entry in expected_rows if entry[0] >= step], f"cut at {step}"
        assert differences(expected, state(run)) == [], f"cut at {step}"
        for name in ("metrics.csv", "predictions.jsonl"):
            assert (run / name).read_text() == (straight / name).read_text(), f"{name}, cut at {step}"
        source = run


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_a_run_that_was_cut_equals_one_that_was_not(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    other_data = any(override.startswith("data=") for override in overrides)
    common = [override for override in COMMON if not other_data or not override.startswith("data.dataset.")]
    check_every_cut((*common, "trainer.accelerator=cpu", *overrides), tmp_path)


LLAMA_2_7B = (
    *("model=llama2", "model.init=random", "data=jsonl", "data.dataset.columns.prompt=question", "data.max_length=512"),
    *("data.dataset.columns.completion=answer", "data.dataset.limit=200", "data.on_too_long=drop", "data.packing=true"),
    *("data.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=9"),
    *("trainer.limit_val_batches=1", "data.generate_examples=0"),
)


@pytest.mark.gpu
@pytest.mark.parametrize("optim", ["paged_adamw_32bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("shape", ["embedded", "Llama 2 7B"])
def test_on_a_gpu_too(shape: str, optim: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    overrides = [*COMMON, *QLORA, "trainer.accelerator=gpu", "deterministic=true", f"optim={optim}"]
    if shape != "embedded":
        data = request.getfixturevalue("shared_data")
        real = (f"model.tokenizer={data}/llama2_tokenizer", f"data.dataset.path={data}/gsm8k/train.jsonl")
        overrides = [o for o in overrides if not o.startswith("data.dataset.")] + [*LLAMA_2_7B, *real]
    check_every_cut(overrides, tmp_path)
