"""What a `_target_` may lead to, once it is imported."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ftframe import compose
from ftframe.assembly import (
    build,
    build_metrics,
    check_node,
    locate,
    precision_of,
    quant_node,
)
from ftframe.compose import TARGET_PREFIXES
from ftframe.data.prompt_templates import Alpaca
from ftframe.errors import ConfigError
from ftframe.models.record import Record
from ftframe.templates import artifact_template, build_template, template_sha256

OWN = (
    "torch.optim.AdamW",
    "torch.optim.Adafactor",
    "bitsandbytes.optim.PagedAdamW32bit",
    "bitsandbytes.optim.Lion8bit",
    "lightning.Trainer",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.plugins.TorchCheckpointIO",
    "peft.LoraConfig",
    "peft.AdaLoraConfig",
    "transformers.BitsAndBytesConfig",
    "ftframe.models.module.CausalLMModule",
)
BORROWED = (
    "ftframe.cli.os.system",
    "ftframe.runs.subprocess.run",
    "lightning.pytorch.trainer.trainer.os.system",
    "torch.optim.optimizer.torch.hub.load",
    "torch.optim.optimizer.torch.load",
    "peft.peft_model.transformers.pipeline",
    "ftframe.cli.os",
)


@pytest.mark.parametrize("name", OWN)
def test_what_a_library_defines_is_found(name: str) -> None:
    assert locate(name, "k").__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize("name", BORROWED)
def test_what_a_library_only_imports_is_refused(name: str) -> None:
    assert name.startswith(TARGET_PREFIXES)  # the composed config alone does not show it
    with pytest.raises(ConfigError) as caught:
        locate(name, "callbacks.x._target_")
    package = name.partition(".")[0]
    assert str(caught.value) == f"callbacks.x._target_={name} is not allowed: {package} does not define it."


@pytest.mark.parametrize("nested", [False, True], ids=["node", "in a list of a node"])
def test_refused_before_it_is_called(nested: bool, tmp_path: Path) -> None:
    evil = {"_target_": "ftframe.cli.os.mkdir", "path": str(tmp_path / "made")}
    node = {"_target_": "peft.LoraConfig", "target_modules": ["a", evil]} if nested else evil
    with pytest.raises(ConfigError, match=r"_target_=ftframe\.cli\.os\.mkdir is not allowed"):
        build(OmegaConf.create(node), "peft")
    assert list(tmp_path.iterdir()) == []


def test_target_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^optim\._target_=torch\.optim\.AdamWW cannot be imported: "):
        check_node({"_target_": "torch.optim.AdamWW"}, "optim")


def test_node_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^optim\._target_ is missing: it names the class that optim builds\.$"):
        check_node({"lr": 1.0}, "optim")


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
