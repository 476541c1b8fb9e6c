import logging
from types import SimpleNamespace

import pytest
import torch

from ftframe.train.planned_peak import PlannedPeak

GIBIBYTE = 2**30


@pytest.mark.parametrize(
    ("taken", "warned"), [(9.0, False), (10.2, False), (10.4, True)], ids=["below", "within", "beyond"]
)
def test_a_first_step_beyond_its_plan_is_warned_of(
    taken: float, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: int(taken * GIBIBYTE))
    callback, trainer = PlannedPeak(10 * GIBIBYTE), SimpleNamespace(global_step=0)
    pl_module = SimpleNamespace(device=torch.device("cuda"))
    with caplog.at_level(logging.INFO, "ftframe.train.planned_peak"):
        callback.on_train_batch_end(trainer, pl_module, None, {}, 0)
        assert not caplog.records  # of an accumulation window that is not full
        trainer.global_step = 1
        callback.on_train_batch_end(trainer, pl_module, None, {}, 1)
        callback.on_train_batch_end(trainer, pl_module, None, {}, 2)
    assert [record.levelname for record in caplog.records] == ["INFO", *["WARNING"] * warned]
    assert f"{taken:.2f} GiB, and 10.00 were planned" in caplog.text
    assert ("memory=budget, checkpoint or offload" in caplog.text) is warned


def test_nothing_is_measured_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    pl_module = SimpleNamespace(device=torch.device("cpu"))
    PlannedPeak(1.0).on_train_batch_end(SimpleNamespace(global_step=1), pl_module, None, {}, 0)
    assert not caplog.records
