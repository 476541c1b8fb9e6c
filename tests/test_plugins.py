"""Plugins as people have them: written by `ftframe plugins new` or from `plugins/`, installed by pip, used by a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REAL = ("ftframe-gsm8k", "ftframe-classification")
QUIET = ("trainer.enable_progress_bar=false",)
WHOLE = ("peft=none", "quant=none")
SHAPE = (
    "hidden_size=64",
    "intermediate_size=128",
    "num_hidden_layers=2",
    "num_attention_heads=4",
    "num_key_value_heads=4",
)


@pytest.fixture(scope="module")
def environment(new_environment: Callable):
    """An environment with ftframe as a wheel holds it, each plugin of this project, and one that the command wrote."""
    made = new_environment()
    place = made.python.parents[2]
    made.install(ROOT)
    (scaffold,) = place.glob("venv/lib/python*/site-packages/ftframe/scaffold")
    assert scaffold.is_dir()
    done = made.run("ftframe", "plugins", "new", "legal", "--folder", "written", cwd=place)
    assert done.returncode == 0, done.stderr
    for source in (place / "written" / "ftframe-legal", *(ROOT / "plugins" / name for name in REAL)):
        made.install(source)
    return made


def sources(environment) -> Path:
    """Where the installed source trees are."""
    return environment.python.parents[2]


def the_run(folder: Path, command: str = "fit") -> Path:
    (run,) = (folder / "outputs" / command).iterdir()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ftframe-legal", *REAL])
def test_its_own_tests_pass(name, environment):
    done = environment.run("pytest", "-q", "-p", "no:cacheprovider", cwd=sources(environment) / name)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 7
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_check_approves_of_what_was_written(environment, tmp_path):
    done = environment.run("ftframe", "plugins", "check", "ftframe-legal", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok   import time",
        "ok   configs",
        "ok   dataset legal",
        "ok   metric legal_f1",
        "ok   prompt_template legal",
    ]
    assert lines[2].endswith("80 rows of train") and lines[4].endswith("80 rows of its dataset")


@pytest.mark.slow
def test_check_is_told_what_a_config_leaves_open(environment, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,b\nc,d\n")
    for typed, outcome in (
        ((), "not tried: its config leaves data.dataset.path open"),
        (("rows.csv",), "2 rows of train"),
    ):
        overrides = [f"data.dataset.path={path}" for path in typed]
        done = environment.run("ftframe", "plugins", "check", "ftframe-classification", *overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = [line for line in done.stdout.splitlines() if "dataset classification" in line]
        assert outcome in line


@pytest.mark.slow
def test_written_plugin_trains(environment, tmp_path):
    """No file of it was edited, and none of ftframe."""
    done = environment.run("ftframe", "fit", "data=legal", "metrics=legal_f1", *QUIET, "peft=lora", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["val/loss"] < 0.7 * metrics["baseline"]["val/loss"]
    assert {"val/exact_match", "val/legal_f1"} <= set(metrics["final"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["plugins"] == {
        "dataset legal": "ftframe-legal 0.1.0 (ftframe_legal.dataset:build)",
        "prompt_template legal": "ftframe-legal 0.1.0 (ftframe_legal.prompt_template:LegalTemplate)",
        "metric exact_match": "ftframe 0.1.0 (ftframe.metrics.text:ExactMatch)",
        "metric legal_f1": "ftframe-legal 0.1.0 (ftframe_legal.metric:LegalF1)",
    }
    assert manifest["installed_plugins"] == dict.fromkeys(
        ("ftframe-classification", "ftframe-gsm8k", "ftframe-legal"), "0.1.0"
    )


@pytest.mark.slow
def test_grid_over_plugins(environment, tmp_path):
    """The folder's name is the default path of `data=gsm8k`, so no hub is asked."""
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    for name, count in (("train.jsonl", 24), ("test.jsonl", 4)):
        rows = [{"question": f"What is {n} plus 1?", "answer": f"#### {n + 1}"} for n in range(count)]
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    grid = ("-m", "data=legal,gsm8k", "metrics=gsm8k_accuracy", "trainer.max_steps=2", "peft=lora", *QUIET)
    done = environment.run("ftframe", "fit", *grid, "data.max_new_tokens=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/multirun/*/runs/*/manifest.json")]
    assert {name for manifest in manifests for name in manifest["plugins"] if name.startswith("dataset")} == {
        "dataset legal",
        "dataset gsm8k",
    }


@pytest.mark.slow
def test_real_gsm8k_with_the_real_tokenizer(environment, shared_data, llama2_folder, tmp_path):
    data = (
        "data=gsm8k",
        f"data.dataset.path={shared_data / 'gsm8k'}",
        "metrics=gsm8k_accuracy",
        "data.max_new_tokens=16",
    )
    model = ("model=llama2", "model.init=random", f"model.tokenizer={llama2_folder}")
    shape = [f"model.config.{key}" for key in SHAPE]
    limits = ("data.dataset.limit=100", "data.dataset.validation_limit=8", "data.generate_examples=8")
    training = (*WHOLE, "trainer.max_steps=20", "optim.lr=3e-3", "data.batch_size=2", *QUIET)
    done = environment.run("ftframe", "fit", *data, *model, *shape, *limits, *training, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"] - 1
    assert metrics["final"]["val/gsm8k_accuracy"] == 0.0  # a model of this size cannot reckon, but it was asked
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and all("####" in row["reference"] for row in rows)
    again = environment.run("ftframe", "evaluate", f"run={run}", "metrics=gsm8k_accuracy", QUIET[0], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    evaluated = json.loads((the_run(tmp_path, "evaluate") / "metrics.json").read_text())["final"]
    assert evaluated["val/loss"] == pytest.approx(metrics["final"]["val/loss"], rel=1e-3)
    assert evaluated["val/gsm8k_accuracy"] == 0.0


@pytest.mark.slow
def test_classification_learns_its_labels(environment, tmp_path):
    rows = [f"The {label} of house {number},{label}" for number in range(100) for label in ("fox", "hat")]
    (tmp_path / "houses.csv").write_text("\n".join(["text,label", *rows]))
    typed = (
        "data=classification",
        "data.dataset.path=houses.csv",
        "metrics=classification",
        "data.batch_size=8",
        "optim.lr=1e-3",
    )
    done = environment.run("ftframe", "fit", *typed, *QUIET, *WHOLE, "data.max_new_tokens=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((the_run(tmp_path) / "metrics.json").read_text())
    assert metrics["baseline"]["val/classification_accuracy"] == 0.0
    assert metrics["final"]["val/classification_accuracy"] == 1.0
    assert metrics["final"]["val/classification_macro_f1"] == 1.0


REFUSED = {
    "keyword": ("class", "A plugin's name is a word of small letters"),
    "capital": ("Legal", "A plugin's name is a word of small letters"),
    "end": ("legal-", "A plugin's name is a word of small letters"),
    "path": ("../x", "A plugin's name is a word of small letters"),
    "built-in dataset": ("chronicle", "'chronicle' is the name of a dataset of ftframe already."),
    "built-in option": ("local", "'local' is an option of data already."),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED)
def test_name_that_cannot_be_used(name, message, tmp_path, monkeypatch):
    from ftframe.errors import ConfigError
    from ftframe.tasks.plugins import plugins

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        plugins(["new", name])
    assert list(tmp_path.iterdir()) == []


def test_new_writes_every_file_with_the_name_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    from ftframe.errors import ConfigError
    from ftframe.tasks.plugins import plugins

    monkeypatch.chdir(tmp_path)
    assert plugins(["new", "case-law"]) == 0
    root = tmp_path / "ftframe-case-law"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(files) == 12
    assert "./ftframe-case-law && ftframe fit data=case_law" in capsys.readouterr().out
    for path in files:
        assert "newplugin" not in f"{path} {path.read_text()}".lower(), path
    assert "class CaseLawTemplate:" in (root / "src/ftframe_case_law/prompt_template.py").read_text()
    with pytest.raises(ConfigError, match="exists already, and nothing is overwritten"):
        plugins(["new", "case-law"])


def test_name_that_holds_the_placeholder(tmp_path):
    from ftframe.tasks.plugins import plugins

    assert plugins(["new", "newplugin2", "--folder", str(tmp_path)]) == 0
    project = (tmp_path / "ftframe-newplugin2" / "pyproject.toml").read_text()
    assert 'name = "ftframe-newplugin2"' in project and "newplugin22" not in project


def test_check_of_what_is_not_installed():
    from ftframe.errors import PluginError
    from ftframe.tasks.plugins import plugins

    with pytest.raises(PluginError, match="No installed distribution 'ftframe-nothing' adds anything to ftframe"):
        plugins(["check", "ftframe-nothing"])


@pytest.mark.parametrize("name", REAL)
def test_plugins_import_the_contracts_alone(name):
    found = [path for path in (ROOT / "plugins" / name / "src").rglob("*.py") if "ftframe" in path.read_text()]
    assert found
    for path in found:
        own = name.replace("-", "_")
        modules = re.findall(r"^\s*(?:from|import) (ftframe[\w.]*)", path.read_text(), flags=re.MULTILINE)
        assert {module for module in modules if module.partition(".")[0] != own} <= {"ftframe.api"}, path
