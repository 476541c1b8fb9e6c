from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.gpus import GPUS
from ftframe.models.memory import SETTINGS
from ftframe.models.model_size import ModelSize
from ftframe.models.pace import Step, seconds

SIZE = ModelSize(
    parameters=6_738_415_616,
    trained=39_976_960,
    trained_bytes=4 * 39_976_960,
    frozen_bytes=3.9e9,
    quantised_bytes=3.4e9,
    frozen_products=6_607_077_376,
    trained_products=39_976_960,
    largest_matrix=4096 * 11008,
    layers=32,
    hidden=4096,
    attention=4096,
    vocabulary=32000,
    head_is_frozen=True,
)
STEP = Step(tokens=16384, length=2048, memory="none", compiles=True)
H100 = GPUS["H100"]


def time(gpu=H100, **changes):
    return seconds(SIZE, replace(STEP, **changes), gpu)


def test_a_long_step_takes_its_operations_at_about_half_of_the_stated_rate():
    least = SIZE.operations(STEP.tokens, STEP.tokens * STEP.length) / (H100.tflops * 1e12)
    assert 1.5 * least < time() < 2.5 * least


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ({"compiles": False}, {"compiles": True}),
        ({"length": 2048}, {"length": 256}),
        ({"packed_bits": True}, {"packed_bits": False}),
        ({"fp8": False}, {"fp8": True}),
        ({"packed_bits": True, "memory": "none"}, {"packed_bits": True, "memory": "ample"}),
        ({"memory": "budget"}, {"memory": "none"}),
        ({"memory": "checkpoint"}, {"memory": "budget"}),
        ({"gpu": GPUS["A100 80GB"]}, {"gpu": H100}),
        ({"gpu": GPUS["L4"]}, {"gpu": GPUS["RTX 4090"]}),
    ],
    ids=["compiled", "short rows", "plain weights", "fp8", "ample", "kept", "budget", "h100", "rtx"],
)
def test_faster(slower, faster):
    assert time(**faster) < time(**slower)


@given(
    memory=st.sampled_from(SETTINGS),
    compiles=st.booleans(),
    counts=st.lists(st.integers(1, 2**18), min_size=2, max_size=2),
)
def test_more_tokens_take_longer_and_each_of_them_no_longer(memory, compiles, counts):
    few, many = sorted(counts)
    short, long = (time(tokens=count, memory=memory, compiles=compiles) for count in (few, many))
    assert short <= long
    assert long / many <= short / few * (1 + 1e-9)


def test_a_checkpoint_costs_one_forward_pass_more():
    """Of frozen weights a backward pass takes what a forward pass does; attention twice that."""
    assert 1.3 < time(memory="checkpoint") / time() < 1.5


def test_few_tokens_wait_for_the_host():
    assert time(tokens=1) == time(tokens=64) < time(tokens=16384)
    assert time(tokens=1, compiles=False) > 2 * time(tokens=1)


def test_a_gpu_without_fp8_gains_nothing_from_it():
    a100 = GPUS["A100 80GB"]
    assert time(a100, fp8=True) == time(a100)


def test_unpacking_takes_the_same_whatever_the_number_of_tokens():
    few, many = (time(tokens=count, packed_bits=True) - time(tokens=count) for count in (16384, 65536))
    assert few == pytest.approx(many)
    assert 0 < few < 0.1 * time()
