"""Several tasks in one run, through the whole command."""

import json
import logging
import sys

import pytest

from ftframe.cli import main

TASKS = (
    "data=mix",
    "data.max_length=64",
    "data.batch_size=16",
    "data.max_new_tokens=16",
    "data.generate_examples=8",
    "+data.tasks.people.dataset.name=people",
    "+data.tasks.people.dataset.size=96",
    "+data.tasks.people.dataset.validation_size=16",
    "+data.tasks.notes.dataset.name=table",
    "+data.tasks.notes.dataset.path=notes.jsonl",
    "+data.tasks.notes.template.name=alpaca",
    "+data.tasks.notes.max_length=128",
    "+data.tasks.facts.dataset.name=people",
    "+data.tasks.facts.dataset.seed=3",
    "+data.tasks.facts.dataset.size=8",
    "+data.tasks.facts.dataset.validation_size=8",
    "+data.tasks.facts.weight=0",
    "data.mixing.strategy=weights",
    "+data.tasks.people.weight=3",
)


@pytest.fixture(scope="module")
def mixed(ftframe, tmp_path_factory):
    """A run of three tasks: two are trained, one is only measured."""
    cwd = tmp_path_factory.mktemp("mixed")
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"{2 * n}"} for n in range(40)]
    (cwd / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = ftframe("fit", *TASKS, "trainer.max_steps=3", "trainer.enable_progress_bar=false", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (run,) = (cwd / "outputs" / "fit").iterdir()
    return run, done


@pytest.mark.slow
def test_each_task_is_measured_and_the_shares_are_printed(mixed):
    run, done = mixed
    final = json.loads((run / "metrics.json").read_text())["final"]
    for task in ("people", "notes", "facts"):
        assert {f"val/{task}/loss", f"val/{task}/token_accuracy", f"val/{task}/exact_match"} <= set(final)
    assert {"val/loss", "val/exact_match"} <= set(final)
    table = {
        line.split()[1]: line.split() for line in done.stdout.splitlines() if line.startswith("│ ") and "%" in line
    }
    # 96 and 36 examples are 132 draws, at 3 : 1.
    assert table["people"][3:10:2] == ["96", "99", "75.0%", "1.03"]
    assert table["notes"][3:10:2] == ["36", "33", "25.0%", "0.92"]
    assert table["facts"][3:6:2] == ["0", "0"]


@pytest.mark.slow
def test_predict_asks_for_the_task_and_writes_its_prompt(mixed, ftframe, tmp_path):
    run, _ = mixed
    refused = ftframe("predict", f"run={run}", "prompt=Hello", cwd=tmp_path)
    assert refused.returncode == 2
    assert "task=people|notes|facts" in refused.stderr
    assert ftframe("predict", f"run={run}", "prompt=Hello", "task=note", cwd=tmp_path).returncode == 2
    done = ftframe("predict", f"run={run}", "prompt=Hello", "task=notes", "max_new_tokens=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_evaluate_repeats_the_figures_of_each_task(mixed, ftframe, tmp_path):
    run, _ = mixed
    done = ftframe("evaluate", f"run={run}", cwd=run.parents[2])
    assert done.returncode == 0, done.stderr
    (folder,) = (run.parents[2] / "outputs" / "evaluate").iterdir()
    again = json.loads((folder / "metrics.json").read_text())["final"]
    assert again == pytest.approx(json.loads((run / "metrics.json").read_text())["final"], rel=1e-6)


REFUSED = {
    "nothing": (("data=mix",), "neither is given"),
    "both": (("+data.tasks.a.dataset.name=people",), "both are given"),
    "typo": (
        ("data=mix", "+data.tasks.a.datset.name=people"),
        "Unknown key 'data.tasks.a.datset'. Did you mean 'dataset'?",
    ),
    "argument": (
        ("data=mix", "+data.tasks.a.dataset.name=people", "+data.tasks.a.dataset.sise=3"),
        "data.tasks.a.dataset.sise",
    ),
    "type": (("data=mix", "+data.tasks.a.weight=much"), "data.tasks.a.weight: Value 'much'"),
    "negative": (
        ("data=mix", "+data.tasks.a.dataset.name=people", "+data.tasks.a.weight=-1"),
        "data.tasks.a.weight=-1.0",
    ),
    "unread-weight": (
        (
            "data=mix",
            "+data.tasks.a.dataset.name=people",
            "+data.tasks.a.weight=2",
            "+data.tasks.b.dataset.name=people",
        ),
        "data.mixing.strategy=all_once reads no weights",
    ),
    "only-measured": (("data=mix", "+data.tasks.a.dataset.name=people", "+data.tasks.a.weight=0"), "has weight 0"),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_loads(overrides, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ftframe", "fit", *overrides])
    handlers = list(logging.root.handlers)
    with pytest.raises(SystemExit) as left:
        main()
    logging.root.handlers[:] = handlers
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
