from contextlib import nullcontext
from functools import partial

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx
from torch.autograd.graph import saved_tensors_hooks
from transformers import BitsAndBytesConfig

from ftframe.errors import ConfigError
from ftframe.models import compilable_4bit, compiling
from ftframe.models.adapter import attach_adapter
from ftframe.models.compilable_4bit import CompilableLinear4bit, check_unpacking, dequantised, let_compiler_see
from ftframe.models.probing import eagerly
from ftframe.models.random_init import quantised_linear, random_model

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def config_of(kind="nf4", *, nested=True, compute=torch.float32):
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=compute,
    )


def layer_of(config, *, bias=False, rows=96, columns=128):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(columns, rows, bias=bias)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    quantised = quantised_linear(linear, config)
    quantised.support_avx512bf16_for_cpu = False
    let_compiler_see(quantised)
    return quantised


@settings(max_examples=50)
@given(
    kind=st.sampled_from(["nf4", "fp4"]),
    nested=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    blocksize=st.sampled_from([64, 128, 256]),
    rows=st.integers(1, 40),
    columns=st.one_of(st.integers(1, 100), st.sampled_from([64, 128, 512])),
    by_row=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_dequantised_is_bitsandbytes_own_bit_for_bit(kind, nested, dtype, blocksize, rows, columns, by_row, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    packed, state = quantize_4bit(weight, blocksize=blocksize, compress_statistics=nested, quant_type=kind)
    found = dequantised(packed, state, dtype, by_row=by_row)
    assert found.shape == weight.shape
    assert found.dtype == dtype
    with eagerly():  # of some shapes bitsandbytes makes a kernel by the compiler
        in_one_row = quantize_4bit(weight.flatten(), blocksize=blocksize, compress_statistics=nested, quant_type=kind)
        assert torch.equal(in_one_row[0], packed)
        expected = dequantize_4bit(*in_one_row)  # its AVX-512 kernel mixes up scales of rows that end within a block
        assert torch.equal(found, expected.view(found.shape))


def with_scales_by_row(packed, state):
    """As bitsandbytes 0.50 unpacks with AVX-512: where a row ends, so does a block."""
    rows, columns = state.shape
    in_whole = torch.arange(rows * columns).view(rows, columns) // state.blocksize
    by_row = torch.arange(rows)[:, None] * (columns // state.blocksize) + torch.arange(columns) // state.blocksize
    return dequantised(packed, state, torch.float32) / state.absmax[in_whole] * state.absmax[by_row]


def test_a_width_that_bitsandbytes_unpacks_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(compilable_4bit, "dequantize_4bit", with_scales_by_row)
    with pytest.raises(ConfigError, match="96, 160 inputs wrongly, since they are no multiple of the 64"):
        check_unpacking(nn.ModuleList(layer_of(config_of(), columns=width) for width in (160, 64, 96, 128, 96)))
    check_unpacking(nn.ModuleList(layer_of(config_of(), columns=width) for width in (64, 128)))


def test_a_model_is_refused_just_where_this_cpu_would_give_other_weights():
    layer = layer_of(config_of(nested=False), columns=96)
    with torch.no_grad():
        unpacked = layer(torch.eye(96)).T
    right = torch.equal(unpacked, dequantised(layer.weight.data, layer.weight.quant_state, torch.float32))
    with nullcontext() if right else pytest.raises(ConfigError, match="96 inputs"):
        check_unpacking(layer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("by_row", [True, False], ids=["by row", "whole"])
@pytest.mark.parametrize(("rows", "columns"), [(4096, 4096), (4096, 11008)], ids=str)
def test_compiled_for_a_gpu_it_is_off_by_one_rounding_in_few_weights(rows, columns, by_row):
    """The compiler adds a block's offset to a product that it has not rounded."""
    weight = 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight.cuda().bfloat16(), compress_statistics=True, quant_type="nf4")
    found = torch.compile(partial(dequantised, by_row=by_row), fullgraph=True)(packed, state, torch.bfloat16)
    expected = dequantize_4bit(packed, state)
    assert (found != expected).sum() <= 1e-5 * found.numel()
    assert torch.allclose(found, expected, rtol=torch.finfo(torch.bfloat16).eps, atol=0)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32], ids=str)
def test_bytes_may_be_stored_as_another_type(storage):
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, quant_type="nf4", quant_storage=storage)
    assert packed.dtype == storage
    assert torch.equal(dequantised(packed, state, torch.float32), dequantize_4bit(packed, state))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_uncompiled_it_is_bitsandbytes_layer(bias, compute):
    layer = layer_of(config_of(compute=compute), bias=bias)
    assert type(layer) is CompilableLinear4bit
    values = torch.randn(5, 128, requires_grad=True)
    with torch.no_grad():
        expected = bnb.nn.Linear4bit.forward(layer, values)
    assert torch.equal(layer(values), expected)


def outputs_and_gradient(layer, dtype):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 5, 128, generator=generator).to(dtype).requires_grad_()
    outputs = layer(values)
    outputs.backward(torch.randn(outputs.shape, generator=generator).to(dtype))
    return outputs.detach(), values.grad


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_layer_gives_the_uncompiled_ones_outputs_and_gradient(bias, dtype, compute):
    torch.compiler.reset()
    layer = layer_of(config_of(compute=compute), bias=bias)
    expected = outputs_and_gradient(layer, dtype)
    layer.compile(backend="aot_eager", fullgraph=True)
    found = outputs_and_gradient(layer, dtype)
    tolerance = 1e-5 if dtype == compute == torch.float32 else 2**-6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()


def test_compiled_model_gives_the_uncompiled_ones_logits_and_gradients(shape, batch, monkeypatch):
    torch.compiler.reset()
    shape.num_hidden_layers = 1
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    found = []
    for compiles in (False, True):
        base = random_model(shape, dtype=torch.float32, quantization_config=config_of(), device=CPU)
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        model = attach_adapter(base, lora, base_path="none", in_float32=True).train()
        let_compiler_see(model)
        if compiles:
            compiling.compile_layers(model)
        output = model(**batch)
        output.loss.backward()
        found.append((output.logits, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (logits, gradients), (compiled_logits, compiled_gradients) = found
    assert torch.allclose(compiled_logits, logits, atol=1e-5)
    assert len(gradients) == 14
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(compiled_gradients[name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "plain"])
def test_compiled_layer_keeps_no_unpacked_weight_for_the_backward_pass(nested):
    """Inductor decides what is kept and what is computed again; its kernels need not be built for that."""
    torch.compiler.reset()
    layer = layer_of(config_of(nested=nested, compute=torch.bfloat16))
    without_kernels = partial(compile_fx, inner_compile=lambda graph, inputs, **options: make_boxed_func(graph.forward))
    layer.compile(backend=without_kernels, fullgraph=True)
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    values = torch.randn(5, 128, dtype=torch.bfloat16, requires_grad=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = layer(values)
    assert {tensor.dtype for tensor in saved if tensor.numel() >= 96 * 128 // 2} == {torch.uint8}
    assert max(tensor.numel() * tensor.element_size() for tensor in saved) == 96 * 128 // 2
    outputs.backward(torch.ones_like(outputs))
    assert values.grad.abs().sum() > 0


def test_only_bitsandbytes_4bit_layers_are_changed(shape):
    model = random_model(shape, dtype=torch.float32, quantization_config=config_of(), device=CPU)
    before = {name: type(module) for name, module in model.named_modules()}
    let_compiler_see(model)
    after = {name: type(module) for name, module in model.named_modules()}
    changed = {name for name in before if after[name] is not before[name]}
    assert changed == {name for name, kind in before.items() if kind is bnb.nn.Linear4bit}
    assert {after[name] for name in changed} == {CompilableLinear4bit}
    assert all(isinstance(model.get_submodule(name), bnb.nn.Linear4bit) for name in changed)
