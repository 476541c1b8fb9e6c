from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from torch._inductor.cpp_builder import cpp_compiler_search
from torch._inductor.exc import InvalidCxxCompiler
from transformers import LlamaConfig

from ftframe.engine import (
    ROOM,
    WORTH_COMPILING,
    Engine,
    can_compile,
    choose_compile,
    choose_engine,
    choose_memory,
    describe,
    plan_settings,
    workload,
)
from ftframe.errors import ConfigError
from ftframe.gpus import GIBIBYTE
from ftframe.models.footprint import Footprint, Saved
from ftframe.models.precision import Precision

LARGE = WORTH_COMPILING
SHAPE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def work_of(dtype=torch.bfloat16, trainer="32-true", **shape):
    return workload(
        LlamaConfig(**SHAPE | shape),
        LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        None,
        Precision(trainer, dtype),
        tokens=2**18,
        optimizer="torch.optim.AdamW",
    )


@pytest.fixture(scope="module")
def work():
    return work_of()


CHOICES = {
    "large on a gpu": ("auto", {}, True),
    "small": ("auto", {"parameters": LARGE - 1}, False),
    "cpu": ("auto", {"on_gpu": False}, False),
    "no compiler": ("auto", {"possible": False}, False),
    "deterministic": ("auto", {"deterministic": True}, False),
    "asked for": ("true", {"parameters": 1, "on_gpu": False, "deterministic": True}, True),
    "as yaml has it": ("True", {"parameters": 1}, True),
    "refused": ("false", {}, False),
    "refused where there is no compiler": ("false", {"possible": False}, False),
}


@pytest.mark.parametrize(("value", "facts", "expected"), CHOICES.values(), ids=CHOICES)
def test_whether_layers_are_compiled(value, facts, expected):
    given = {"on_gpu": True, "possible": True, "deterministic": False, "parameters": LARGE} | facts
    assert choose_compile(value, **given) is expected


@pytest.mark.parametrize(
    ("value", "on_gpu", "message"),
    [
        ("yes", True, "model.compile=yes: auto, true or false"),
        ("true", True, "model.compile=true needs triton .* or set model.compile=false"),
        ("true", False, r"model.compile=true needs a C\+\+ compiler .* or set model.compile=false"),
    ],
    ids=["unknown", "no triton", "no C++ compiler"],
)
def test_compiling_that_cannot_be_names_its_key(value, on_gpu, message):
    with pytest.raises(ConfigError, match=message):
        choose_compile(value, on_gpu=on_gpu, possible=False, deterministic=False, parameters=LARGE)


@pytest.mark.parametrize("name", ["g++-of-mine", "no-such-compiler"])
def test_a_cpu_needs_the_compiler_that_torch_would_start(name, tmp_path, monkeypatch):
    (tmp_path / "g++-of-mine").write_text("#!/bin/sh\n")
    (tmp_path / "g++-of-mine").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", name)
    monkeypatch.delenv("TORCH_INDUCTOR_INSTALL_GXX", raising=False)
    assert can_compile(on_gpu=False) is (name == "g++-of-mine")
    try:
        found = cpp_compiler_search((name,)) is not None
    except InvalidCxxCompiler:
        found = False
    assert found is (name == "g++-of-mine")


@pytest.mark.parametrize(
    ("word", "plain", "expected"),
    [
        ("auto", False, "auto"),
        ("auto", True, "checkpoint"),
        ("checkpoint", True, "checkpoint"),
        ("offload", False, "offload"),
        ("budget", False, "budget"),
        ("ample", False, "ample"),
    ],
)
def test_what_is_asked_for(word, plain, expected):
    assert choose_memory(word, gradient_checkpointing=plain, compiles=True, has_ample_form=True) == expected


@pytest.mark.parametrize("word", ["ample", "none", "budget", "offload"])
def test_contradicting_words_are_both_named(word):
    with pytest.raises(ConfigError, match=f"gradient_checkpointing=true .* memory={word}"):
        choose_memory(word, gradient_checkpointing=True, compiles=True, has_ample_form=True)


@pytest.mark.parametrize(("word", "instead"), [("budget", "checkpoint"), ("ample", "none")])
def test_what_needs_the_compiler_names_the_keys_without_it(word, instead):
    with pytest.raises(ConfigError, match=rf"memory={word} .* model\.compile=true, or memory={instead}"):
        choose_memory(word, gradient_checkpointing=False, compiles=False, has_ample_form=True)


def test_weights_without_another_form_are_not_kept_in_it():
    with pytest.raises(ConfigError, match=r"memory=ample .* Set memory=none, .* or quant=4bit"):
        choose_memory("ample", gradient_checkpointing=False, compiles=True, has_ample_form=False)


def check_choices(work, names, **options):
    plans = plan_settings(work, chunks_loss=True, **options)
    assert list(plans) == names
    peaks = [plan.total for plan in plans.values()]
    assert peaks == sorted(set(peaks), reverse=True)
    for name, peak in zip(names, peaks, strict=True):
        engine = choose_engine(work, memory="auto", capacity=1.001 * peak / ROOM, **options)
        assert (engine.memory, engine.planned) == (name, plans[name])
    too_small = choose_engine(work, memory="auto", capacity=0.5 * peaks[-1], **options)
    assert too_small.memory == names[-1]


def test_the_fastest_setting_that_fits_is_chosen(work):
    check_choices(work, ["none", "checkpoint", "offload"], compiles=False, share=0.5)


def test_the_fastest_setting_that_fits_is_chosen_where_layers_are_compiled(work, monkeypatch):
    monkeypatch.setattr("ftframe.engine.saved_bytes", lambda *_, share, **__: Saved(2000.0 * share))
    check_choices(work, ["none", "budget", "checkpoint", "offload"], compiles=True, share=0.5)
    quantised = replace(work, size=replace(work.size, ample_bytes=1e9))
    check_choices(quantised, ["ample", "none", "budget", "checkpoint", "offload"], compiles=True, share=0.5)


def test_nothing_is_recomputed_where_the_capacity_is_not_known(work):
    assert choose_engine(work, compiles=False, memory="auto", share=0.5, capacity=None).memory == "none"


def test_nothing_is_planned_where_activations_cannot_be_counted(work, monkeypatch):
    monkeypatch.setattr("ftframe.engine.saved_bytes", lambda *_, **__: None)
    options = {"compiles": True, "share": 0.5, "capacity": 80e9}
    assert plan_settings(work, compiles=True, chunks_loss=True, share=0.5) is None
    engines = [choose_engine(work, memory=memory, **options) for memory in ("auto", "none")]
    assert [(engine.memory, engine.planned) for engine in engines] == [("checkpoint", None), ("none", None)]


def test_what_was_asked_for_is_kept_whether_it_fits_or_not(work):
    engine = choose_engine(work, compiles=False, memory="checkpoint", share=0.5, capacity=1.0)
    assert engine.memory == "checkpoint"
    assert engine.planned.total > 1.0
    assert engine.size is work.size


def test_logits_are_whole_in_float16_whose_gradients_are_scaled():
    chunks = [
        choose_engine(work_of(dtype, trainer), compiles=False, memory="none", share=0.5, capacity=None).chunks_loss
        for dtype, trainer in [(torch.bfloat16, "32-true"), (torch.float16, "16-mixed")]
    ]
    assert chunks == [True, False]


PLANNED = Footprint(2.0 * GIBIBYTE, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("engine", "capacity", "line"),
    [
        (Engine(False, False, "none", 0.5), None, "memory=none, model.compile=false"),
        (Engine(True, True, "budget", 0.5, planned=PLANNED), None, "model.compile=true, planned peak 2.0 GiB"),
        (Engine(True, True, "none", 0.5, planned=PLANNED), 80 * GIBIBYTE, "planned peak 2.0 of 80.0 GiB"),
    ],
    ids=["cpu", "unknown device", "gpu"],
)
def test_what_was_decided_is_said_in_one_line(engine, capacity, line):
    said = describe(engine, capacity)
    assert line in said and f"memory={engine.memory}" in said
    assert "\n" not in said
