"""`ftframe evaluate` as a user runs it."""

import json
import shutil

import pytest


def results(cwd):
    (run,) = (cwd / "outputs" / "evaluate").iterdir()
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_repeats_the_figures_of_the_run(default_run, tmp_path, ftframe):
    done = ftframe("evaluate", f"run={default_run[0]}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = json.loads((default_run[0] / "metrics.json").read_text())["final"]
    assert results(tmp_path)["final"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_measures_an_adapter_alone_on_other_data(default_run, tmp_path, ftframe):
    shutil.copytree(default_run[0] / "adapter", tmp_path / "copied")
    without_data = ftframe("evaluate", "run=copied", cwd=tmp_path)
    assert without_data.returncode == 2
    assert "Choose it by data=" in without_data.stderr
    done = ftframe("evaluate", "run=copied", "data=people", "data.dataset.seed=5", "metrics=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)["final"]
    assert set(found) == {"val/loss", "val/perplexity", "val/token_accuracy"}
    assert found["val/token_accuracy"] > 0.9


@pytest.mark.slow
def test_measures_every_row_of_a_file(default_run, tmp_path, ftframe):
    rows = [{"prompt": f"Where does {name} live?", "completion": "Highwell"} for name in map(str, range(30))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("data=jsonl", "data.dataset.path=rows.jsonl", "data.generate_examples=5", "data.max_new_tokens=4")
    done = ftframe("evaluate", f"run={default_run[0]}", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)["data"] == {"validation_rows": 30}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("run=nowhere", "run=nowhere is not a folder"),
        ("run=.", "the run did not finish, or it is no run folder"),
        ("runn=x", "Did you mean 'run'?"),
    ],
    ids=["missing", "no-run", "typo"],
)
@pytest.mark.slow
def test_bad_run_is_refused(argument, message, tmp_path, ftframe):
    done = ftframe("evaluate", argument, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_key_of_data_alone_is_refused(ftframe, tmp_path):
    done = ftframe("evaluate", "run=somewhere", "data.generate_examples=4", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.generate_examples=4: without data=...")
    assert "Traceback" not in done.stderr
