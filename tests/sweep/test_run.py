"""Grids from the command line, with trials that train nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
import yaml

from .outcome import group_lives, leaderboard, records, starts, wait_for

GRID = ("peft.r=4,8", "optim.lr=1e-3,2e-3", "seed=0,1")


def test_a_grid_runs_every_combination_in_a_folder_of_its_own(sweep, tmp_path: Path) -> None:
    code, output = sweep(*GRID)
    folder = tmp_path / "sweep"
    assert code == 0, output
    trials = records(folder)
    assert [t["overrides"] for t in trials] == [
        {"peft.r": r, "optim.lr": lr, "seed": seed} for r in (4, 8) for lr in (1e-3, 2e-3) for seed in (0, 1)
    ]
    assert {t["state"] for t in trials} == {"done"} and {t["attempts"] for t in trials} == {1}
    configs = [yaml.safe_load((folder / t["folder"] / "config.yaml").read_text()) for t in trials]
    assert [(c["peft"]["r"], c["optim"]["lr"], c["seed"]) for c in configs] == [
        tuple(t["overrides"].values()) for t in trials
    ]
    losses = [str(r + 100 * lr) for r in (4, 8) for lr in (1e-3, 2e-3) for _ in (0, 1)]
    assert leaderboard(folder) == {number: ("done", loss) for number, loss in enumerate(losses)}
    asked = json.loads((folder / "sweep.json").read_text())
    assert (asked["format"], asked["command"], asked["sweeper"], asked["cells"]) == (1, "fit", "basic", 8)
    assert asked["objectives"] == [{"metric": "val/loss", "direction": "minimize"}]
    groups = [int(group) for _, _, group, *_ in starts(folder)]
    assert len(set(groups)) == 8 and os.getpgid(0) not in groups
    assert (folder / "logs" / "0003.txt").read_text() == "trial 0003\n"
    assert list((folder / ".private").glob("*.yaml")) == []


def test_failed_trials_say_why_and_the_others_go_on(sweep, tmp_path: Path) -> None:
    code, output = sweep("seed=0,101,102,103,104,105,106,1")
    trials = records(tmp_path / "sweep")
    assert [(t["state"], t["exit_code"], t["reason"]) for t in trials] == [
        ("done", 0, None),
        ("failed", 1, "exit code 1: ValueError: a bug in a plugin"),
        ("failed", 4, "exit code 4: out of memory. Lower data.batch_size"),
        ("failed", 0, "exit code 0: left before its run was complete"),
        ("failed", 3, "exit code 3: non-finite: The loss became nan at step 3."),
        ("failed", -signal.SIGSEGV, "killed by SIGSEGV"),
        ("failed", 7, "exit code 7"),
        ("done", 0, None),
    ]
    assert code == 1
    assert "trial 3 failed: exit code 0: left before its run was complete (seed=103)" in output
    assert "8 trials: 2 done, 6 failed" in output


def test_refused_combinations_are_named_before_the_first_trial(sweep, tmp_path: Path) -> None:
    code, output = sweep("peft=lora,qlora", "quant=none,4bit", "sweep.dir=other")
    folder = tmp_path / "other"
    assert code == 2
    assert output.index("1 of 4 combinations cannot run:") < output.index("sweep folder:")
    assert output.partition("sweep folder:")[0].count("peft=qlora is LoRA on a quantised base") == 1
    states = [(t["overrides"]["peft"], t["overrides"]["quant"], t["state"]) for t in records(folder)]
    assert states == [
        ("lora", "none", "done"),
        ("lora", "4bit", "done"),
        ("qlora", "none", "failed"),
        ("qlora", "4bit", "done"),
    ]
    assert records(folder)[2]["attempts"] == 0
    assert records(folder)[2]["reason"].startswith("peft=qlora is LoRA on a quantised base")


BAD = {
    "an unknown key": (("optim.lrr=1,2",), "Unknown key 'optim.lrr'. Did you mean 'lr'?"),
    "an unknown option": (("peft=lora,qlorra",), "Unknown option 'peft=qlorra'. Did you mean 'qlora'?"),
    "an unknown key, added": (("+typo=1,2",), "Unknown key 'typo'"),
    "an interval": (("optim.lr=interval(0.1,1)",), "a grid cannot go over an interval"),
    "a folder": (("output_dir=here", "seed=1,2"), "output_dir: with -m, each trial's run folder is in the sweep's"),
    "a key of the sweep": (("sweep.max_parallel=1,2",), "what belongs to the whole sweep cannot vary in it"),
    "a number": (("sweep.max_parallel=0", "seed=1,2"), "sweep.max_parallel=0: a number of at least 1 is needed"),
    "a type": (("sweep.max_parallel=two", "seed=1,2"), "max_parallel"),
    "the last run": (("ckpt_path=last", "seed=1,2"), "ckpt_path=last: the trials of a sweep are new runs"),
    "nothing to choose": (("model=glob(zzz*)",), "there is nothing to choose from"),
    "nothing possible": (("quant=4bit", "peft=none", "seed=1,2"), "No combination can run."),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_before_anything_starts(overrides, message, sweep, tmp_path: Path) -> None:
    code, output = sweep(*overrides)
    assert code == 2, output
    assert message in output
    assert not (tmp_path / "sweep").exists()


def test_a_misspelt_name_is_a_refused_combination(sweep, tmp_path: Path) -> None:
    code, output = sweep("data.template.name=plain,plian")
    assert code == 2
    assert [t["state"] for t in records(tmp_path / "sweep")] == ["done", "failed"]
    assert "Did you mean 'plain'?" in output


def test_the_same_command_again_repeats_nothing(sweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep("seed=0,101,105")
    before = leaderboard(folder)
    code, _ = sweep("seed=0,101,105", "sweep.max_parallel=2")
    assert code == 1
    assert [t["attempts"] for t in records(folder)] == [1, 1, 2]  # what a signal ended is tried again
    code, _ = sweep("seed=0,101,105", "sweep.retry_failed=true")
    assert [t["attempts"] for t in records(folder)] == [1, 2, 3]
    assert leaderboard(folder) == before


CHANGES = {
    "another value": (("seed=0,2",), ("before, not now: seed=0,1", "now, not before: seed=0,2")),
    "a key more": (("seed=0,1", "peft.r=4"), ("now, not before: peft.r=4",)),
}


@pytest.mark.parametrize(("overrides", "told"), CHANGES.values(), ids=CHANGES)
def test_a_changed_command_does_not_go_on(overrides, told, sweep, tmp_path: Path) -> None:
    sweep("seed=0,1")
    code, output = sweep(*overrides)
    assert code == 2
    assert all(part in output for part in told), output
    assert len(starts(tmp_path / "sweep")) == 2


def test_a_changed_config_file_does_not_go_on(sweep, tmp_path: Path) -> None:
    option = tmp_path / "configs" / "experiment" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("# @package _global_\npeft:\n  r: 4\n")
    own = (f"--config-dir={tmp_path / 'configs'}", "experiment=mine", "seed=0,1")
    assert sweep(*own)[0] == 0
    option.write_text("# @package _global_\npeft:\n  r: 8\n")
    code, output = sweep(*own)
    assert code == 2
    assert "Trial 0000 ran with another configuration" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_sweep_ends_its_trials_and_goes_on_later(number, start, sweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = start("seed=0,1000,1", "sweep.grace_seconds=5")
    wait_for(lambda: len(starts(folder)) == 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert [t["state"] for t in records(folder)] == ["done", "interrupted", "waiting"]
    assert not any(group_lives(int(group)) for _, _, group, *_ in starts(folder))
    (folder / "go").touch()
    code, output = sweep("seed=0,1000,1", "sweep.grace_seconds=5")
    assert code == 0, output
    assert [t["attempts"] for t in records(folder)] == [1, 2, 1]


def test_a_killed_sweep_goes_on_without_the_trials_it_left(start, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    overrides = ("seed=0,1,1000,1001,2", "sweep.max_parallel=2", "sweep.grace_seconds=0.5")
    process = start(*overrides)
    wait_for(lambda: len(starts(folder)) == 4)
    wait_for(lambda: [t["state"] for t in records(folder)][:2] == ["done", "done"])
    process.kill()
    process.communicate(timeout=60)
    orphans = [int(group) for name, _, group, *_ in starts(folder) if name in ("0002", "0003")]
    assert all(group_lives(group) for group in orphans)
    (folder / "starts.txt").rename(folder / "starts_before.txt")
    # The orphans wait for this file too, and would finish beside the trials that take their place; they must not.
    resumed = start(*overrides)
    wait_for(lambda: len(starts(folder)) == 2)
    assert not any(group_lives(group) for group in orphans)
    (folder / "go").touch()
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert sorted(name for name, *_ in starts(folder)) == ["0002", "0003", "0004"]
    assert [t["attempts"] for t in records(folder)] == [1, 1, 2, 2, 1]
    resumed_board = leaderboard(folder)
    other = start(*overrides, "sweep.dir=uninterrupted")
    wait_for(lambda: len(starts(tmp_path / "uninterrupted")) == 4)
    (tmp_path / "uninterrupted" / "go").touch()
    other.communicate(timeout=120)
    assert resumed_board == leaderboard(tmp_path / "uninterrupted")
    assert resumed_board == {number: ("done", str(16 + 100 * 3e-3)) for number in range(5)}


def test_a_second_process_keeps_out(start, sweep, tmp_path: Path) -> None:
    process = start("seed=1000,1", "sweep.grace_seconds=1")
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 1)
    code, output = sweep("seed=1000,1")
    process.terminate()
    process.communicate(timeout=60)
    assert code == 2
    assert "Another process runs the sweep in" in output


def test_gpus_are_dealt_from_a_pool(sweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    code, output = sweep("trainer=default", "seed=0,1,2", "sweep.gpus_per_trial=2", CUDA_VISIBLE_DEVICES="4,5,7,GPU-8")
    assert code == 0, output
    assert {visible for *_, visible in starts(folder)} <= {"'4,5'", "'7,GPU-8'"}
    code, output = sweep(
        "trainer=default", "seed=0,1", "sweep.gpus_per_trial=3", "sweep.dir=o", CUDA_VISIBLE_DEVICES="1"
    )
    assert code == 2
    assert "sweep.gpus_per_trial=3: there are 1 (1)" in output


def test_cores_are_split_among_parallel_trials(sweep, monkeypatch, tmp_path: Path) -> None:
    sweep("seed=0,1", "sweep.max_parallel=2", OMP_NUM_THREADS="3")
    assert {threads for *_, threads, _ in starts(tmp_path / "sweep")} == {"3"}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sweep("seed=0,1", "sweep.max_parallel=2", "sweep.dir=other")
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {threads for *_, threads, _ in starts(tmp_path / "other")} == {str(share)}


def test_secrets_are_in_no_file_that_others_can_read(start, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    node = "+callbacks.a={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:x,api_key:hush}"
    process = start(node, "seed=1000", "sweep.grace_seconds=0.2")
    wait_for(lambda: len(starts(folder)) == 1)
    frozen = folder / ".private" / "0000.yaml"
    assert "hush" in frozen.read_text()
    assert stat.S_IMODE(frozen.stat().st_mode) == 0o600
    assert stat.S_IMODE(frozen.parent.stat().st_mode) == 0o700
    process.terminate()
    process.communicate(timeout=60)
    readable = [file for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in readable if "hush" in file.read_text(errors="replace")]


def test_a_trial_costs_little(sweep, tmp_path: Path) -> None:
    started = time.monotonic()
    code, output = sweep("seed=range(0,20)")
    assert code == 0, output
    assert len(records(tmp_path / "sweep")) == 20
    print(f"20 trials: {time.monotonic() - started:.1f} s")


def test_the_last_override_of_a_key_counts(sweep, tmp_path: Path) -> None:
    assert sweep("seed=1,2", "peft.r=4,8", "seed=7")[0] == 0
    assert [t["overrides"] for t in records(tmp_path / "sweep")] == [{"peft.r": 4}, {"peft.r": 8}]
    config = yaml.safe_load((tmp_path / "sweep" / "runs" / "0000" / "config.yaml").read_text())
    assert config["seed"] == 7


def test_a_shuffled_grid_goes_on_in_its_order(sweep, tmp_path: Path) -> None:
    assert sweep("seed=shuffle(range(1,6))")[0] == 0
    before = records(tmp_path / "sweep")
    assert sweep("seed=shuffle(range(1,6))")[0] == 0
    assert records(tmp_path / "sweep") == before


def test_a_result_that_is_no_number_is_a_failure(sweep, tmp_path: Path) -> None:
    code, _ = sweep("seed=107,0")
    odd, sound = records(tmp_path / "sweep")
    assert (odd["state"], odd["reason"], sound["state"], code) == ("failed", "non-finite: val/loss=nan", "done", 3)


def test_a_damaged_record_is_named(sweep, tmp_path: Path) -> None:
    sweep("seed=0,1")
    (tmp_path / "sweep" / "trials" / "0001.json").write_text("{")
    code, output = sweep("seed=0,1")
    assert code == 2 and "0001.json is damaged" in output and "Traceback" not in output


def test_a_trial_that_cannot_be_started_is_told(sweep) -> None:
    code, output = sweep("seed=0,1", FTFRAME_TRIAL_COMMAND="/nowhere/x")
    assert code == 2 and "/nowhere/x cannot be started" in output and "Traceback" not in output


def test_hydras_own_sweeper_is_refused(sweep, tmp_path: Path) -> None:
    code, output = sweep("hydra/sweeper=basic", "hydra/launcher=basic", "seed=1,2")
    assert code == 2 and "choose hydra/sweeper=grid" in output
    assert starts(tmp_path / "sweep") == []
