import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from ftframe.train import throughput as module
from ftframe.train.throughput import Throughput

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock of whole seconds, one at each look."""
    seconds = itertools.count(1.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    return seconds


def batch(tokens: int, *, supervised: int = 1, squares: int = 0) -> dict[str, int]:
    return {"tokens": tokens, "supervised_tokens": supervised, "squared_lengths": squares}


def train(counted: Throughput, steps: list[list[dict[str, int]]], *, waits: float = 0.0) -> None:
    trainer = SimpleNamespace(global_step=0, state=SimpleNamespace(fn=TrainerFn.FITTING))
    pl_module = SimpleNamespace(device=CPU, waited_seconds=0.0)
    counted.on_train_start(trainer, pl_module)
    for window in steps:
        for place, micro_batch in enumerate(window, start=1):
            counted.on_train_batch_start(trainer, pl_module, micro_batch, 0)
            if place == len(window):
                trainer.global_step += 1
                pl_module.waited_seconds += waits
            counted.on_train_batch_end(trainer, pl_module, None, micro_batch, 0)
    counted.on_train_end(trainer, pl_module)


def test_the_first_step_warms_up_and_windows_are_added(clock: Any) -> None:
    counted = Throughput()
    train(counted, [[batch(1000)], [batch(5, supervised=2), batch(7, supervised=3)], [batch(20, supervised=4)]])
    assert counted.counts == {"tokens": 32, "supervised_tokens": 9, "squared_lengths": 0}
    assert (counted.seconds, counted.step_seconds) == (2.0, [1.0, 1.0])
    figures = counted.summary(world_size=2)
    assert figures["tokens_per_second"] == 32.0
    assert figures["supervised_tokens_per_second"] == 9.0
    assert figures["median_tokens_per_second"] == 32.0  # of 12 and 20, on two ranks


def test_the_host_is_not_busy_while_it_waits(clock: Any) -> None:
    counted = Throughput()
    train(counted, [[batch(1)]] * 3, waits=0.25)
    assert counted.summary(1)["median_host_seconds"] == 0.75


def test_used_arithmetic_is_that_of_the_tokens(clock: Any) -> None:
    counted = Throughput()
    assert counted.summary(1)["mfu"] is None
    counted.operations, counted.peak_flops = lambda tokens, squares: 10.0 * tokens + squares, 1000.0
    train(counted, [[batch(1)], [batch(4, squares=10)], [batch(6, squares=20)]])
    assert counted.summary(1)["mfu"] == pytest.approx((100 + 30) / 2 / 1000)


def test_a_validation_stops_the_clock(clock: Any) -> None:
    counted = Throughput()
    trainer = SimpleNamespace(global_step=0, state=SimpleNamespace(fn=TrainerFn.FITTING))
    pl_module = SimpleNamespace(device=CPU)
    counted.on_train_start(trainer, pl_module)
    for step in range(1, 5):
        counted.on_train_batch_start(trainer, pl_module, batch(1), 0)
        trainer.global_step = step
        counted.on_train_batch_end(trainer, pl_module, None, batch(1), 0)
        if step == 2:
            counted.on_validation_start(trainer, pl_module)
            counted.on_validation_end(trainer, pl_module)
    assert (counted.tokens, len(counted.step_seconds)) == (2, 2)


def test_counting_goes_on_from_a_checkpoint(clock: Any) -> None:
    first = Throughput()
    train(first, [[batch(1)], [batch(3)], [batch(5)]])
    second = Throughput()
    second.load_state_dict(first.state_dict())
    train(second, [[batch(1)], [batch(7)]])
    assert second.counts["tokens"] == 15
    assert second.step_seconds == [1.0] * 3
    assert second.wall_seconds > first.seconds


class Event:
    """Of a device that is always some steps behind."""

    done = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def query(self) -> bool:
        return self.number <= Event.done

    def synchronize(self) -> None:
        Event.done = max(Event.done, self.number)

    def elapsed_time(self, other: "Event") -> float:
        assert self.query() and other.query(), "the host would have to wait"
        return 1000.0 * (other.number - self.number)


def test_a_device_that_is_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(Event, "done", 0)
    monkeypatch.setattr(module, "_mark", lambda device: module.Mark(0.0, Event(next(numbers))))
    counted = Throughput()
    trainer = SimpleNamespace(global_step=0, state=SimpleNamespace(fn=TrainerFn.FITTING))
    pl_module = SimpleNamespace(device=CPU)
    counted.on_train_start(trainer, pl_module)
    seen = []
    for step in range(1, 7):
        counted.on_train_batch_start(trainer, pl_module, batch(1), 0)
        trainer.global_step = step
        Event.done = max(Event.done, step - 2)
        counted.on_train_batch_end(trainer, pl_module, None, batch(1), 0)
        seen.append(len(counted.step_seconds))
    assert seen == [0, 0, 0, 1, 2, 3]
    counted.on_train_end(trainer, pl_module)
    assert counted.step_seconds == [1.0] * 5
