"""Number types of a run, for every combination."""

import itertools

import pytest
import torch

from ftframe.errors import ConfigError
from ftframe.models import precision as module
from ftframe.models.precision import DTYPES, PRECISIONS, Precision, resolve_precision

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# trainer.precision, model.dtype, whether the base trains, whether on a GPU: flag for Lightning, type of the base
CASES = {
    "CPU": (("auto", "auto", False, False), ("32-true", F32)),
    "CPU, whole model": (("auto", "auto", True, False), ("32-true", F32)),
    "GPU": (("auto", "auto", False, True), ("bf16-mixed", BF16)),
    "GPU, whole model": (("auto", "auto", True, True), ("bf16-mixed", F32)),
    "32": (("32-true", "auto", False, True), ("32-true", F32)),
    "bf16 mixed": (("bf16-mixed", "auto", False, True), ("bf16-mixed", BF16)),
    "bf16 mixed, whole model": (("bf16-mixed", "auto", True, True), ("bf16-mixed", F32)),
    "bf16 mixed on a CPU": (("bf16-mixed", "auto", False, False), ("bf16-mixed", BF16)),
    "16 mixed": (("16-mixed", "auto", False, True), ("16-mixed", F16)),
    "16 mixed, whole model": (("16-mixed", "auto", True, True), ("16-mixed", F32)),
    "dtype wins": (("bf16-mixed", "float32", False, True), ("bf16-mixed", F32)),
    "dtype wins, 16 bits": (("32-true", "bfloat16", False, False), ("32-true", BF16)),
    "dtype wins, whole model": (("bf16-mixed", "bfloat16", True, True), ("bf16-mixed", BF16)),
}


@pytest.fixture
def has_bf16(monkeypatch):
    """A GPU with bfloat16, whatever this machine has."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)
def test_resolve_precision(given, expected):
    precision, dtype, trains_base, on_gpu = given
    found = resolve_precision(precision, dtype, trains_base=trains_base, on_gpu=on_gpu)
    assert found == Precision(*expected, adapters_in_float32=True)


@pytest.mark.parametrize("trains_base", [True, False])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_bf16_true_is_bfloat16_throughout(trains_base, on_gpu):
    """Lightning is told 32-true: its own conversion would round the rotary embedding's frequencies too."""
    found = resolve_precision("bf16-true", "auto", trains_base=trains_base, on_gpu=on_gpu)
    assert found == Precision("32-true", BF16, adapters_in_float32=False)


def test_gpu_without_bfloat16_computes_in_16_bits(monkeypatch):
    def supported(including_emulation=True):
        return including_emulation  # as an older GPU answers

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", "auto", trains_base=False, on_gpu=True) == Precision("16-mixed", F16)


@pytest.mark.usefixtures("has_bf16")
def test_every_combination_has_an_answer_or_a_reason():
    resolved, refused = 0, 0
    for precision, dtype, trains_base, on_gpu in itertools.product(
        PRECISIONS, ("auto", *DTYPES), (True, False), (True, False)
    ):
        try:
            found = resolve_precision(precision, dtype, trains_base=trains_base, on_gpu=on_gpu)
        except ConfigError:
            refused += 1
            assert (precision, on_gpu) == ("16-mixed", False)
            continue
        resolved += 1
        assert found.trainer in module._COMPUTE
        assert dtype == "auto" or found.base_dtype == DTYPES[dtype]
    assert (resolved, refused) == (72, 8)


@pytest.mark.parametrize(
    ("precision", "dtype", "message"),
    [
        (
            "bf16-mixd",
            "auto",
            "Unknown trainer.precision=bf16-mixd. Did you mean 'bf16-mixed'?\nAllowed: auto, 32-true",
        ),
        ("double", "auto", "Unknown trainer.precision=double.\nAllowed: auto, "),
        ("auto", "bfloat", "Unknown model.dtype=bfloat. Did you mean 'bfloat16'?\nAllowed: auto, float32"),
        ("auto", "int8", "Unknown model.dtype=int8.\nAllowed: "),
        ("16-mixed", "auto", "trainer.precision=16-mixed needs a GPU. Use 32-true or bf16-mixed on a CPU."),
    ],
    ids=["near", "far", "dtype, near", "dtype, far", "16-mixed on a CPU"],
)
def test_refusals(precision, dtype, message):
    with pytest.raises(ConfigError) as caught:
        resolve_precision(precision, dtype, trains_base=False, on_gpu=False)
    assert str(caught.value).startswith(message)
