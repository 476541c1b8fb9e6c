"""Each option of the group `data` on a local file, through the whole command, as `conf/data` has it."""

import hashlib
import json

import pytest
from omegaconf import OmegaConf

from ftframe.compose import groups

PAIRS = [(f"What is {n} plus {n}?", f"It is {2 * n}.") for n in range(40)]
ROWS = {
    "alpaca": [{"instruction": question, "input": "", "output": answer} for question, answer in PAIRS],
    "guanaco": [{"text": f"<s>[INST] {question} [/INST] {answer} </s>"} for question, answer in PAIRS],
    "jsonl": [{"prompt": question, "completion": answer} for question, answer in PAIRS],
    "text": [{"text": f"{question} {answer}"} for question, answer in PAIRS],
}


@pytest.mark.slow
@pytest.mark.parametrize("option", ["people", *ROWS])
def test_option_trains(option, ftframe, quick, tmp_path):
    overrides = [override for override in quick if not override.startswith("data.")]
    if option in ROWS:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[option])))
        overrides.append("data.dataset.path=rows.jsonl")
    done = ftframe("fit", f"data={option}", *overrides, "trainer.max_steps=2", "peft=lora", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"]
    assert OmegaConf.load(run / "config.yaml").data.dataset.name == option
    if option in ROWS:
        assert metrics["data"] == {"train_rows": 36, "validation_rows": 4}


FILE = """
from ftframe.api import Message

def build(*, count: int = 4):
    return {"train": [[Message("user", f"What is {n}?"), Message("assistant", f"{n}")] for n in range(count)]}
"""


@pytest.mark.slow
def test_file_of_ones_own_trains(ftframe, quick, tmp_path):
    (tmp_path / "my_data.py").write_text(FILE)
    overrides = [override for override in quick if not override.startswith("data.")]
    name = "./my_data.py:build"
    typed = ("data=local", f"data.dataset.name={name}", "+data.dataset.count=40", *overrides)
    done = ftframe("fit", *typed, "trainer.max_steps=2", "peft=lora", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    assert json.loads((run / "metrics.json").read_text())["data"] == {"train_rows": 36, "validation_rows": 4}
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    plugins = json.loads((run / "manifest.json").read_text())["plugins"]
    assert plugins[f"dataset {name}"] == f"my_data.py (sha256 {digest})"
    again = ftframe("evaluate", f"run={run}", "trainer.enable_progress_bar=false", cwd=tmp_path)
    assert again.returncode == 2, again.stdout
    assert "code is not run because a folder names it." in again.stderr
    assert f"say so: data=local data.dataset.name={name}" in again.stderr


@pytest.mark.slow
def test_plain_text_file_trains(ftframe, quick, tmp_path):
    (tmp_path / "documents.txt").write_text("\n\n".join(f"{question}\n{answer}" for question, answer in PAIRS))
    overrides = [override for override in quick if not override.startswith("data.")]
    done = ftframe(
        "fit", "data=text", "data.dataset.path=documents.txt", *overrides, "trainer.max_steps=2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    assert json.loads((run / "metrics.json").read_text())["data"] == {"train_rows": 36, "validation_rows": 4}


def test_every_option_is_in_the_table():
    assert set(groups()["data"]) == {"people", "local", *ROWS}
