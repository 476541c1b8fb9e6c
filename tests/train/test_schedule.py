"""How long a run is, held against Lightning, and the learning rate, held against transformers."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from ftframe.errors import ConfigError
from ftframe.train.schedule import build_scheduler, check_scheduler, total_optimizer_steps

RUNS = {
    # batches, accumulate, epochs, max_steps, limit: steps
    "one epoch": ((10, 1, 1, -1, None), 10),
    "three epochs": ((10, 1, 3, -1, None), 30),
    "accumulated evenly": ((10, 5, 1, -1, None), 2),
    "last window is short": ((10, 4, 1, -1, None), 3),
    "each epoch has a short window": ((10, 4, 2, -1, None), 6),
    "window longer than the epoch": ((3, 8, 2, -1, None), 2),
    "steps end first": ((10, 1, 3, 7, None), 7),
    "epochs end first": ((10, 1, 1, 700, None), 10),
    "steps alone": ((10, 2, -1, 13, None), 13),
    "limit, count": ((10, 2, 2, -1, 3), 4),
    "limit above the data": ((10, 1, 1, -1, 99), 10),
    "limit, share": ((10, 2, 2, -1, 0.5), 6),
    "limit, share that is rounded down": ((9, 1, 1, -1, 0.5), 4),
    "limit, whole share": ((10, 1, 1, -1, 1.0), 10),
    "limit of one batch": ((10, 1, 2, -1, 1), 2),
    "no epoch": ((10, 1, 0, -1, None), 0),
    "no step": ((10, 1, 3, 0, None), 0),
}


class Trivial(lightning.LightningModule):
    """One weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, _):
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)


def steps_by_ours(batches, accumulate, epochs, max_steps, limit):
    return total_optimizer_steps(
        batches,
        max_epochs=epochs,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
    )


@pytest.mark.parametrize(("run", "expected"), RUNS.values(), ids=RUNS)
def test_total_optimizer_steps(run, expected):
    assert steps_by_ours(*run) == expected


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and odd flags
@pytest.mark.parametrize("run", [run for run, _ in RUNS.values()], ids=RUNS)
def test_lightning_takes_as_many(run):
    batches, accumulate, epochs, max_steps, limit = run
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Trivial(), DataLoader(torch.ones(batches, 1), batch_size=None))
    assert trainer.global_step == steps_by_ours(*run)


@pytest.mark.parametrize("epochs", [None, -1])
def test_run_without_an_end_is_refused(epochs):
    with pytest.raises(ConfigError, match=r"^The run has no end: set trainer\.max_epochs or trainer\.max_steps\.$"):
        total_optimizer_steps(10, max_epochs=epochs, max_steps=-1)


def rates(make, steps, lr=2e-4):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


REFERENCES = {
    "cosine": lambda optimizer, warmup, steps: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "linear": lambda optimizer, warmup, steps: get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "constant_with_warmup": lambda optimizer, warmup, _: get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(
    ("ratio", "steps", "warmup"),
    [(0.03, 100, 3), (0.03, 101, 4), (0.0, 20, 0), (0.5, 21, 11), (1.0, 10, 10), (0.03, 1, 1)],
    ids=["even", "rounded up", "none", "half", "all", "one step"],
)
def test_learning_rates_are_transformers_own(name, ratio, steps, warmup):
    found = rates(
        lambda optimizer: build_scheduler(optimizer, name=name, warmup_ratio=ratio, total_steps=steps, specific={}),
        steps,
    )
    assert found == rates(lambda optimizer: REFERENCES[name](optimizer, warmup, steps), steps)
    assert len(found) == steps
    assert max(found) <= 2e-4
    if 0 < warmup < steps:
        assert found[0] == 0.0
        assert found[warmup] == pytest.approx(2e-4)


def test_cosine_ends_near_zero():
    found = rates(
        lambda optimizer: build_scheduler(optimizer, name="cosine", warmup_ratio=0.1, total_steps=1000, specific={}),
        1000,
    )
    assert found[-1] < 2e-4 * 1e-5
    assert found[550] == pytest.approx(1e-4, rel=1e-6)


def test_specific_arguments_reach_the_schedule():
    found = rates(
        lambda optimizer: build_scheduler(
            optimizer, name="cosine_with_min_lr", warmup_ratio=0.0, total_steps=200, specific={"min_lr_rate": 0.1}
        ),
        201,
    )
    assert found[-1] == pytest.approx(2e-5, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cosin", " Did you mean 'cosine'?"), ("constant_warmup", " Did you mean 'constant_with_warmup'?"), ("zzz", "")],
)
def test_unknown_name_is_refused(name, hint):
    with pytest.raises(ConfigError) as caught:
        check_scheduler(name, 0.0)
    first, second = str(caught.value).splitlines()
    assert first == f"Unknown scheduler.name={name}.{hint}"
    assert second.startswith("Allowed: ") and "cosine" in second


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(ConfigError, match=r"^scheduler\.warmup_ratio=.* is no share of the run"):
        check_scheduler("cosine", ratio)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ratio", [0.0, 0.03, 1.0])
def test_good_ones_pass(name, ratio):
    check_scheduler(name, ratio)
