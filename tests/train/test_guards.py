"""A logger that fails ends no training; the rows behind a bad step are written down."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from ftframe.errors import ConfigError, NonFiniteError
from ftframe.train.guards import LOGGER_METHODS, NonFiniteReport, let_loggers_fail


class Service(Logger):
    """A logger whose service goes away after some calls."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.broken = method
        self.error = error

    name = version = "service"

    def note(self, method: str) -> None:
        self.calls.append(method)
        if method == self.broken:
            raise self.error

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.note("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.note("log_hyperparams")

    def save(self) -> None:
        self.note("save")

    def finalize(self, status: str) -> None:
        self.note("finalize")


class Logged(L.LightningModule):
    """Logs each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.log("loss", self.weight.sum())
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.weight], lr=1.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["log_metrics", "save", "finalize"])
def test_a_logger_that_fails_is_switched_off(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = Service(method, OSError("no route to host")), Service("none", OSError())
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=[bad, good], enable_checkpointing=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    let_loggers_fail(trainer.loggers)
    trainer.fit(Logged(), DataLoader(torch.ones(4, 1), batch_size=None))
    assert trainer.global_step == 4
    assert bad.calls[-1] == method and bad.calls.count(method) == 1
    assert good.calls.count("log_metrics") == 4
    assert capsys.readouterr().out.count("no route to host") == 1
    assert set(bad.calls) <= set(LOGGER_METHODS)


def test_our_own_errors_are_not_a_loggers() -> None:
    bad = Service("save", ConfigError("ours"))
    let_loggers_fail([bad])
    with pytest.raises(ConfigError, match="ours"):
        bad.save()


def test_the_rows_of_a_bad_step_are_written_down(tmp_path: Path) -> None:
    report = NonFiniteReport(tmp_path, lambda row: f"train.jsonl row {row}")
    error = NonFiniteError("The loss of step 3 is nan.", {"step": 3, "loss": float("nan"), "rows": [[4, 7], [1]]})
    trainer: Any = SimpleNamespace(global_rank=1, current_epoch=2)
    report.on_exception(trainer, None, error)  # type: ignore[arg-type]
    written = json.loads((tmp_path / "non_finite_rank1.json").read_text())
    assert written["rows"] == [["train.jsonl row 4", "train.jsonl row 7"], ["train.jsonl row 1"]]
    assert (written["step"], written["epoch"], written["loss"]) == (3, 2, "nan")
    assert str(error).startswith("The loss of step 3 is nan.") and "non_finite_rank1.json" in str(error)


def test_other_errors_leave_no_report(tmp_path: Path) -> None:
    NonFiniteReport(tmp_path, str).on_exception(None, None, ValueError("x"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
