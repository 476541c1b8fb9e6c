"""What is chosen on a GPU, for a machine that has one."""

import re

import pytest
import torch

from ftframe import choices, compose
from ftframe.assembly import base_spec
from ftframe.choices import check_engine, choose_attention, engine_of, precision_of, sharpen_attention
from ftframe.errors import ConfigError
from ftframe.models.base import load_config
from ftframe.models.causal_attention import CAUSAL, CUDNN
from ftframe.models.varlen_attention import VARLEN


@pytest.fixture
def gpu(monkeypatch):
    """A Hopper with 80 GiB, as far as the choices look."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(choices, "memory_of_device", lambda: 80 * 2.0**30)
    monkeypatch.setattr(choices, "can_compile", lambda on_gpu: True)


def config_of(*overrides):
    return compose.check(compose.compose("fit", ["model=llama2", "model.init=random", *overrides]))


def attention_of(cfg, lengths):
    precision, config = precision_of(cfg), load_config(base_spec(cfg))
    attention = choose_attention(cfg, config, precision)
    return sharpen_attention(cfg, attention, config, precision, lengths=lengths)


@pytest.mark.parametrize(
    ("overrides", "lengths", "expected"),
    [
        ((), {2048}, CUDNN),
        ((), set(range(9)), CAUSAL),
        ((), None, CAUSAL),
        (("deterministic=true",), {2048}, CAUSAL),
        (("trainer.precision=32-true",), {2048}, CAUSAL),
        (("data.packing=true",), {2048}, VARLEN),
        (("data.packing=true", "trainer.precision=32-true"), {2048}, "sdpa"),
        (("model.attn_implementation=sdpa",), {2048}, "sdpa"),
        (("model=mistral", "data.max_length=8192"), {8192}, "sdpa"),
        (("model=mistral", "data.max_length=4096"), {4096}, CUDNN),
        (("trainer.accelerator=cpu", "trainer.precision=32-true"), {2048}, "sdpa"),
    ],
    ids=[
        *("one length", "many lengths", "stream", "deterministic", "float32", "packed", "packed in float32", "typed"),
        *("window shorter than a row", "window of a row", "CPU"),
    ],
)
def test_attention(overrides, lengths, expected, gpu):
    assert attention_of(config_of("peft=lora", "quant=none", *overrides), lengths) == expected


def test_adapters_that_add_tokens_keep_the_mask(gpu):
    cfg = config_of("peft=lora", "quant=none")
    cfg.peft = {"_target_": "peft.PromptTuningConfig", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    assert attention_of(cfg, {2048}) == "sdpa"


def engine(cfg, tokens=64):
    return engine_of(cfg, precision_of(cfg), load_config(base_spec(cfg)), tokens=tokens)


def test_on_a_cpu_nothing_is_compiled_or_recomputed():
    found = engine(config_of("trainer.accelerator=cpu", "trainer.precision=32-true"))
    assert (found.compiles, found.chunks_loss, found.memory, found.planned) == (False, False, "none", None)


def test_a_model_that_cannot_be_counted_trains_as_it_is(gpu, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("no content")

    monkeypatch.setattr(choices, "workload", fail)
    found = engine(config_of("peft=lora", "quant=none"))
    assert (found.compiles, found.memory, found.planned) == (False, "none", None)
    assert "neither size nor memory of llama can be planned" in caplog.text


CONTRADICTIONS = {
    "two words": (("memory=offload", "gradient_checkpointing=true"), {}, "Leave one out."),
    "no compiling": (("memory=budget", "model.compile=false"), {}, "model.compile is off"),
    "auto on a CPU": (("memory=budget",), {"on_gpu": False}, "model.compile is off"),
    "auto where runs repeat": (("memory=budget", "deterministic=true"), {}, "model.compile is off"),
    "no triton": (("model.compile=true",), {"possible": False}, "needs triton"),
    "no C++": (("model.compile=true",), {"on_gpu": False, "possible": False}, "needs a C++ compiler"),
}


@pytest.mark.parametrize(("overrides", "machine", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused_whatever_the_model(overrides, machine, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_engine(config_of(*overrides), **{"on_gpu": True, "possible": True} | machine)


@pytest.mark.parametrize("overrides", [(), ("memory=budget",), ("gradient_checkpointing=true",)])
def test_keys_that_go_together_pass(overrides):
    check_engine(config_of(*overrides), on_gpu=True, possible=True)
