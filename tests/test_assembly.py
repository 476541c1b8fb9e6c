"""What a config becomes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ftframe import assembly, compose
from ftframe.assembly import answerer, build_metrics, build_optimizer
from ftframe.choices import precision_of, quant_node
from ftframe.data.prompt_templates import Alpaca
from ftframe.errors import ConfigError
from ftframe.metrics.generation import Sampling
from ftframe.models.base import load_config
from ftframe.models.record import Record
from ftframe.templates import artifact_template, build_template, template_sha256


def record_of(template_sha256: str = "", name: str = "alpaca") -> Record:
    return Record("adapter", {}, "float32", None, {"name": name}, template_sha256=template_sha256)


@pytest.mark.parametrize(
    ("recorded", "warned"), [("", False), (None, False), ("0" * 64, True)], ids=["not-recorded", "same", "other"]
)
def test_a_template_that_changed_since_the_training_is_warned_of(
    recorded: str | None, warned: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    same = template_sha256({"name": "alpaca"}, build_template({"name": "alpaca"}, None))
    template = artifact_template(record_of(same if recorded is None else recorded), {"name": None}, None)
    assert isinstance(template, Alpaca)
    assert ("The prompt template 'alpaca' is not the one of the training" in capsys.readouterr().out) is warned
    assert ("'alpaca' is not the one of the training" in caplog.text) is warned


TEMPLATE = "class Mine:\n    def render(self, messages):\n        return []\n"


def test_code_runs_because_the_user_names_it_not_an_artifact(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{TEMPLATE}")
    saved, none = {"name": f"{file}:Mine"}, {"name": None}
    with pytest.raises(ConfigError, match=f"say so: template.name={file}:Mine"):
        artifact_template(record_of(name=saved["name"]), none, None)
    assert not (tmp_path / "ran").exists()
    assert type(artifact_template(record_of(name=saved["name"]), saved, None)).__name__ == "Mine"
    assert type(artifact_template(record_of(name="plain"), none, None)).__name__ == "Plain"
    with pytest.raises(ConfigError, match="this run has a template of its own, 'plain'"):
        artifact_template(record_of(name="plain"), saved, None)


def test_metric_of_a_file_is_logged_under_the_name_of_its_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from ftframe.metrics.text import ExactMatch\nclass Mine(ExactMatch): ...\n")
    built = build_metrics(OmegaConf.create([{"name": f"{tmp_path}/mine.py:Mine", "ignore_case": True}]))
    assert list(built) == ["Mine"]
    assert built["Mine"].ignore_case is True


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "float32"),
        (("trainer.precision=bf16-mixed",), "bfloat16"),
        (("quant.bnb_4bit_compute_dtype=bfloat16",), "bfloat16"),
        (("quant=8bit",), None),
    ],
    ids=["CPU", "mixed", "as typed", "8 bits"],
)
def test_4_bit_weights_are_multiplied_in_the_type_of_the_precision(
    overrides: tuple[str, ...], expected: str | None
) -> None:
    cfg = compose.check(compose.compose("fit", ["trainer.accelerator=cpu", *overrides]))
    node = quant_node(cfg, precision_of(cfg))
    assert node is not None and node.get("bnb_4bit_compute_dtype") == expected


@pytest.mark.parametrize(
    ("overrides", "trainer", "dtype"),
    [
        (("peft=lora", "quant=none"), "32-true", torch.bfloat16),
        (("peft=qlora",), "32-true", torch.bfloat16),
        (("peft=dora", "quant=none"), "bf16-mixed", torch.bfloat16),
        (("peft=lora", "quant=none", "model.dtype=float32"), "bf16-mixed", torch.float32),
        (("peft=none", "quant=none"), "bf16-mixed", torch.float32),
    ],
    ids=["LoRA", "QLoRA", "DoRA", "float32 base", "all weights"],
)
def test_plain_lora_over_a_bfloat16_base_needs_no_autocast(
    overrides: tuple[str, ...], trainer: str, dtype: torch.dtype
) -> None:
    cfg = compose.check(compose.compose("fit", ["trainer.precision=bf16-mixed", *overrides]))
    precision = precision_of(cfg)
    assert (precision.trainer, precision.base_dtype) == (trainer, dtype)
    assert precision.compute_dtype == torch.bfloat16 and precision.adapters_in_float32


@pytest.mark.parametrize(
    ("node", "fused"),
    [
        ({"_target_": "torch.optim.AdamW"}, True),
        ({"_target_": "torch.optim.AdamW", "fused": False}, False),
        ({"_target_": "torch.optim.Adafactor"}, None),
    ],
    ids=["ours to choose", "typed", "has none"],
)
def test_torchs_optimizers_are_fused_on_a_gpu(node: dict[str, Any], fused: bool | None, monkeypatch) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2, 2))]
    on_cpu = build_optimizer({"_partial_": True, "lr": 0.1, **node}, weights)
    assert on_cpu.param_groups[0].get("fused") in (None, False)
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True)
    on_gpu = build_optimizer({"_partial_": True, "lr": 0.1, **node}, weights)
    assert on_gpu.param_groups[0].get("fused") is fused
    with_autocast = build_optimizer({"_partial_": True, "lr": 0.1, **node}, weights, autocasts=True)
    assert not with_autocast.param_groups[0].get("fused")


def test_answers_are_generated_uncompiled(monkeypatch) -> None:
    """Each token of an answer is another shape, and another graph."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = torch.compile(lambda values: values + 1, backend=backend)

    def generate_answers(model: Any, prompts: Any, **options: Any) -> Any:
        yield from (model(torch.zeros(n)) for n in range(2, 5))

    monkeypatch.setattr(assembly, "generate_answers", generate_answers)
    generate = answerer(SimpleNamespace(decode=str), Sampling([0], 0, 1), batch_size=1)
    assert [len(answer) for answer in generate(model, [[1]])] == [2, 3, 4]
    assert graphs == []
    model(torch.zeros(2))
    assert len(graphs) == 1


LENGTHS = {
    "none": ((), False),
    "all": (("data.max_length=513",), True),
    "task": (("data=mix", "+data.tasks.a={dataset: {name: people}, max_length: 513}", "data.max_length=64"), True),
    "tasks of their own": (("data=mix", "+data.tasks.a={dataset: {name: people}, max_length: 64}"), False),
}


@pytest.mark.parametrize(("overrides", "warned"), LENGTHS.values(), ids=LENGTHS)
def test_rows_longer_than_what_the_model_was_made_for_are_warned_of(
    overrides: tuple[str, ...], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose.check(compose.compose("fit", list(overrides)))
    assembly.check_length(cfg, load_config(assembly.base_spec(cfg)))
    assert ("warning: data.max_length=513 is more than the 512 positions" in capsys.readouterr().out) is warned
