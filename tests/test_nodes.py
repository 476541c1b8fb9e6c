"""What a `_target_` may lead to, once it is imported."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ftframe.compose import TARGET_PREFIXES
from ftframe.errors import ConfigError
from ftframe.nodes import build, check_node, locate

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
