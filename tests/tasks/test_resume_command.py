"""`ftframe fit ckpt_path=...` as a user types it."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import ModuleProcess

from ftframe.durable_files import sha256

pytestmark = pytest.mark.slow

LONG = (
    *("data.dataset.size=64", "data.dataset.validation_size=8", "data.batch_size=4", "trainer.max_epochs=-1"),
    *("trainer.max_steps=120", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "peft.r=4"),
    *("data.generate_examples=2", "data.max_new_tokens=8", "checkpoint.every_n_steps=3", "trainer.accelerator=cpu"),
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ModuleProcess]]:
    """Starts the command, and ends it with the test."""
    started = []

    def begin(*arguments: str) -> ModuleProcess:
        process = ModuleProcess("ftframe", *arguments, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_checkpoint(run: Path, process: ModuleProcess) -> None:
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def steps(run: Path) -> list[str]:
    return [row["step"] for row in csv.DictReader((run / "metrics.csv").open()) if row["train/loss"]]


def test_interrupted_and_gone_on_with_and_complete(tmp_path: Path, start, ftframe) -> None:
    run = tmp_path / "outputs" / "fit" / "mine"
    first = start("fit", *LONG, "output_dir=outputs/fit/mine")
    wait_for_checkpoint(run, first)
    first.send_signal(signal.SIGSTOP)
    beside = ftframe("fit", "ckpt_path=last", cwd=tmp_path)
    first.send_signal(signal.SIGCONT)
    assert beside.returncode == 2 and "Another process is at work in" in beside.stderr
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 143, err
    assert "SIGTERM: this step is finished and saved" in out
    assert "error: interrupted: the state of step" in err and "Traceback" not in err
    assert not (run / "manifest.json").exists()
    reached = len(steps(run))

    changed = ftframe("fit", "ckpt_path=last", "optim.lr=1e-5", cwd=tmp_path)
    assert changed.returncode == 2
    assert "was begun with another configuration:\n  optim.lr: 0.003 -> 1e-05" in changed.stderr

    second = start("fit", "ckpt_path=last")  # nothing else: the run's own overrides
    time.sleep(1)
    while len(steps(run)) < reached + 5:
        assert second.poll() is None, second.communicate()
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 130, err

    done = ftframe("fit", f"ckpt_path={run}", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert steps(run) == [str(step) for step in range(120)]
    results = json.loads((run / "metrics.json").read_text())
    assert results["optimizer_steps"] == 120 and results["baseline"] is not None
    manifest = json.loads((run / "manifest.json").read_text())
    before = sha256(run / "adapter" / "adapter_model.safetensors")
    assert manifest["sha256"]["adapter/adapter_model.safetensors"] == before

    more = ftframe("fit", "ckpt_path=last", "trainer.max_steps=200", cwd=tmp_path)
    assert more.returncode == 2 and "trainer.max_steps: 120 -> 200" in more.stderr and "output_dir=" in more.stderr
    again = ftframe("fit", "ckpt_path=last", cwd=tmp_path)
    assert again.returncode == 0 and "is complete: there is nothing to go on with" in again.stdout
    assert sha256(run / "adapter" / "adapter_model.safetensors") == before


def test_killed_while_a_disk_is_full(tmp_path: Path, start, ftframe) -> None:
    run = tmp_path / "run"
    first = start("fit", *LONG, "output_dir=run", "trainer.max_steps=60", "peft.r=16")
    wait_for_checkpoint(run, first)
    resource.prlimit(first.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    _, err = first.communicate(timeout=300)
    assert first.returncode == 1
    assert "could not be written" in err and "The one before it is intact" in err and "Traceback" not in err
    assert [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")] == []
    done = ftframe("fit", "ckpt_path=run", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert steps(run) == [str(step) for step in range(60)]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, start, ftframe) -> None:
    run = tmp_path / "run"
    first = start("fit", *LONG, "output_dir=run", "trainer.max_steps=2", "ckpt_path=last")
    while not (run / "config.yaml").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    done = ftframe("fit", *LONG, "output_dir=run", "trainer.max_steps=2", "ckpt_path=last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert steps(run) == ["0", "1"]


def test_a_run_of_two_ranks_is_cut_and_goes_on(tmp_path: Path, start, ftframe) -> None:
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=24", "data.batch_size=2")
    straight = ftframe("fit", *LONG, *ranks, "output_dir=straight", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert straight.returncode == 0, straight.stderr
    first = start("fit", *LONG, *ranks, "output_dir=cut")
    wait_for_checkpoint(tmp_path / "cut", first)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 143, err
    rest = ftframe("fit", "ckpt_path=cut", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert rest.returncode == 0, rest.stderr
    for name in ("metrics.csv", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    (tmp_path / "cut" / "manifest.json").unlink()
    alone = ftframe("fit", "ckpt_path=cut", "trainer.devices=1", cwd=tmp_path)
    assert alone.returncode == 2 and "trainer.devices: 2 -> 1" in alone.stderr


def test_data_that_changed_is_refused(tmp_path: Path, ftframe) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("data=jsonl", "data.dataset.path=rows.jsonl", "data.dataset.validation_rows=8", "trainer.max_steps=2")
    rest = [override for override in LONG if not override.startswith(("data.dataset", "trainer.max_steps"))]
    done = ftframe("fit", *rest, *data, "output_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    again = ftframe("fit", "ckpt_path=run", cwd=tmp_path)
    assert again.returncode == 2 and "begun with another data" in again.stderr, again.stderr
    shutil.rmtree(tmp_path / "run")
