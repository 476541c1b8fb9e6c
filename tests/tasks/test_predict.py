"""`ftframe predict` as a user runs it."""

import json
import shutil

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from ftframe.errors import ConfigError, DataError
from ftframe.models.base import resolve_path
from ftframe.schema import PredictConfig
from ftframe.tasks.predict import read_conversations


def predictions(cwd):
    (run,) = (cwd / "outputs" / "predict").iterdir()
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_answers_a_prompt(default_run, tmp_path, ftframe):
    known = json.loads((default_run[0] / "predictions.jsonl").read_text().splitlines()[0])
    prompt = known["messages"][0]["content"]
    done = ftframe("predict", f"run={default_run[0]}", f"prompt={prompt}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert known["final"] in done.stdout
    (row,) = predictions(tmp_path)
    assert row["answer"] == known["final"]
    assert row["messages"] == known["messages"]


@pytest.mark.slow
def test_answers_a_file_with_mapped_columns(default_run, tmp_path, ftframe):
    known = [json.loads(line) for line in (default_run[0] / "predictions.jsonl").read_text().splitlines()][:5]
    rows = [{"q": row["messages"][0]["content"], "a": row["reference"]} for row in known]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = ftframe(
        "predict",
        *(
            f"run={default_run[0]}",
            "input=questions.jsonl",
            "+columns.prompt=q",
            "+columns.completion=a",
            "batch_size=2",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in predictions(tmp_path)] == [row["final"] for row in known]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), 'Give either prompt="..." or input=FILE.jsonl'),
        (("prompt=a", "input=b"), 'Give either prompt="..." or input=FILE.jsonl'),
        (("input=missing.jsonl",), "missing.jsonl"),
    ],
    ids=["neither", "both", "missing-file"],
)
@pytest.mark.slow
def test_bad_input_is_refused(arguments, message, default_run, tmp_path, ftframe):
    done = ftframe("predict", f"run={default_run[0]}", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory, ftframe, quick):
    """A run of a few steps, for tests that do not look at its answers."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    done = ftframe("fit", *quick, "baseline=false", "metrics=none", f"output_dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


def other_base(folder):
    """The embedded base with one number of its weights changed."""
    copy = shutil.copytree(resolve_path("pkg://ftframe.embedded/tiny"), folder / "other")
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_another_base_is_refused_unless_it_is_allowed(command, quick_run, tmp_path, ftframe):
    arguments = [f"run={quick_run}", f"base={other_base(tmp_path)}"]
    arguments += (
        ["prompt=Where does Jovin live?"] if command == "predict" else ["data=people", "data.generate_examples=0"]
    )
    done = ftframe(command, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: The base model {tmp_path / 'other'} (weights ")
    assert "trained on: pkg://ftframe.embedded/tiny (weights " in done.stderr
    assert "allow_base_mismatch=true" in done.stderr
    assert not (tmp_path / "outputs").exists()
    done = ftframe(command, *arguments, "allow_base_mismatch=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning: The base model " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_damaged_adapter_is_refused(command, quick_run, tmp_path, ftframe):
    run = shutil.copytree(quick_run, tmp_path / "run")
    weights = run / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = ftframe(command, "run=run", *(["prompt=a"] if command == "predict" else []), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "adapter/adapter_model.safetensors is not what was saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


def asked(path, **columns):
    cfg = OmegaConf.merge(OmegaConf.structured(PredictConfig), {"input": str(path), "columns": columns})
    return [[(turn.role, turn.content) for turn in turns] for turns in read_conversations(cfg)]


def test_input_is_any_file_of_conversations_without_the_last_answer(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\nu,None\nv,\n")
    assert asked(tmp_path / "a.csv", prompt="q", completion="a") == [[("user", "u")], [("user", "v")]]
    (tmp_path / "a.jsonl").write_text(
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": ""}]}'
    )
    assert asked(tmp_path / "a.jsonl") == [[("system", "s"), ("user", "")]]


def test_a_bad_row_of_input_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "u", "completion": ""}\n{"prompt": null}')
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: column 'prompt' is null; a string is needed"):
        asked(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"^input=.*b\.jsonl: there is no such file"):
        asked(tmp_path / "b.jsonl")
