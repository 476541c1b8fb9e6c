import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig

from ftframe.errors import ConfigError, FtframeError
from ftframe.models import compiling
from ftframe.models.adapter import attach_adapter
from ftframe.models.fp8 import (
    FORMAT,
    Fp8Config,
    Fp8Linear,
    check_fp8_device,
    compiles_rightly,
    dequantise_linear_layers,
    quantise_linear_layers,
    quantise_rows,
)
from ftframe.models.random_init import random_model

CPU = torch.device("cpu")
LARGEST, SMALLEST_NORMAL = 448.0, 2.0**-6


def e4m3(values):
    """Rounded to three bits behind the leading one, to even between two; evenly spaced below the normal numbers."""
    exponents = values.abs().double().clamp(min=SMALLEST_NORMAL).log2().floor()
    spacing = 2.0 ** (exponents - 3)
    return ((values.double() / spacing).round() * spacing).float()


def rows_in_e4m3(values):
    """The rounded values, and the factor of each row that brings its largest one to 448."""
    scale = values.float().abs().amax(1, keepdim=True) / LARGEST
    return e4m3(values.float() / scale), scale


def linear_of(*, bias=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(128, 96, bias=bias, dtype=dtype)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return linear


@pytest.mark.parametrize("value", [False, None, "true", 1], ids=repr)
def test_config_refuses_what_is_no_choice(value):
    with pytest.raises(ValueError, match="load_in_fp8 must be true"):
        Fp8Config(load_in_fp8=value)


def test_config_is_read_like_one_of_bitsandbytes():
    ours, theirs = Fp8Config(), BitsAndBytesConfig()
    for name in ("load_in_4bit", "load_in_8bit", "llm_int8_skip_modules"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((9, 0), True)], ids=str)
def test_a_gpu_must_have_fp8_tensor_cores(capability, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    if fits:
        check_fp8_device(torch.device("cuda"))
        return
    with pytest.raises(ConfigError, match=r"A100 has 8\.0\. Use quant=4bit"):
        check_fp8_device(torch.device("cuda"))


def test_a_cpu_will_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_fp8_device(CPU)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_rows_are_rounded_to_e4m3(rows, columns, spread, size, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    values = (values * torch.exp(spread * torch.randn(rows, columns, generator=generator)) * size).to(dtype)
    codes, scale = quantise_rows(values)
    assert (codes.dtype, codes.shape) == (FORMAT, values.shape)
    assert (scale.dtype, scale.shape) == (torch.float32, (rows, 1))
    scaled = values.float() / scale
    assert torch.equal(codes.float(), e4m3(scaled))
    errors = (codes.float() - scaled).abs()
    normal = scaled.abs() >= SMALLEST_NORMAL
    assert (errors[normal] <= 2**-4 * scaled[normal].abs()).all()
    assert (errors[~normal] <= 2**-10).all()
    assert torch.allclose(codes.float().abs().amax(1), torch.full((rows,), LARGEST))


def test_a_row_of_zeros_stays_zero():
    codes, scale = quantise_rows(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert torch.equal(codes.float() * scale, torch.tensor([[0.0, 0.0], [1.0, -2.0]]))


def test_weights_are_frozen_bytes_that_mean_the_rounded_weights():
    linear = linear_of(bias=True)
    layer = Fp8Linear.of(linear)
    assert (layer.weight.dtype, layer.weight.shape) == (torch.uint8, linear.weight.shape)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    codes, scale = rows_in_e4m3(linear.weight.data)
    assert torch.equal(layer.dequantised(torch.float32), codes * scale)
    assert layer.dequantised(torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(layer.bias, linear.bias)


@pytest.mark.parametrize("training", [True, False])
def test_keeps_the_mode(training):
    assert Fp8Linear.of(linear_of().train(training)).training == training


def run_layer(layer, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 5, 128, generator=generator).to(dtype).requires_grad_()
    outputs = layer(inputs)
    gradient = torch.randn(outputs.shape, generator=generator).to(dtype)
    outputs.backward(gradient)
    return inputs.detach(), outputs.detach(), gradient, inputs.grad


def distance(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)], ids=str)
def test_products_are_those_of_separately_rounded_matrices(bias, dtype, rounding):
    layer = Fp8Linear.of(linear_of(bias=bias))
    inputs, outputs, gradient, input_gradient = run_layer(layer, dtype)
    assert (outputs.dtype, outputs.shape) == (dtype, (2, 5, 96))
    assert (input_gradient.dtype, input_gradient.shape) == (dtype, (2, 5, 128))
    codes, scale = rows_in_e4m3(inputs.flatten(0, 1))
    expected = (codes * scale) @ layer.dequantised(torch.float32).t()
    expected = expected if layer.bias is None else expected + layer.bias
    assert distance(outputs.flatten(0, 1), expected) < rounding
    weight_codes, weight_scale = layer.weight.view(FORMAT).float(), layer.scale
    codes, scale = rows_in_e4m3(gradient.flatten(0, 1) * weight_scale.t().to(dtype))
    assert distance(input_gradient.flatten(0, 1), (codes * scale) @ weight_codes) < rounding


def test_outputs_and_gradients_are_near_the_unquantised_layers():
    linear = linear_of(bias=True)
    _, outputs, _, gradient = run_layer(Fp8Linear.of(linear))
    _, expected, _, expected_gradient = run_layer(linear)
    assert 0 < distance(outputs, expected) < 0.06
    assert 0 < distance(gradient, expected_gradient) < 0.06


def test_tokens_do_not_share_a_scale():
    """A token a million times smaller than its neighbour keeps its digits."""
    layer = Fp8Linear.of(linear_of())
    tokens = torch.randn(2, 128, generator=torch.Generator().manual_seed(3))
    both = torch.stack([tokens[0], tokens[1] * 2.0**-20])
    assert torch.equal(layer(both)[1], layer(tokens[1:])[0] * 2.0**-20)


def test_named_layers_are_kept():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)))
    kept, emptied = model[2][0], model[0].weight.data.clone()
    quantise_linear_layers(model, {"2.0"}, CPU)
    assert [type(model[0]), type(model[2][0]), type(model[2][1])] == [Fp8Linear, nn.Linear, Fp8Linear]
    assert model[2][0] is kept
    assert distance(model[0].dequantised(torch.float32), emptied) < 0.06


def lora_model(shape, **options):
    base = random_model(shape, dtype=torch.float32, quantization_config=Fp8Config(**options), device=CPU)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["lm_head"], task_type="CAUSAL_LM")
    return attach_adapter(base, lora, base_path="none", in_float32=True).train()


def test_a_lora_over_it_learns_and_the_base_stays(shape, batch):
    model = lora_model(shape)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert sum(p.dtype == torch.uint8 for p in frozen.values()) == 14
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(model.get_parameter(name), before) for name, before in frozen.items())


def test_compiled_model_gives_the_uncompiled_ones_loss_and_gradients(shape, batch, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    shape.num_hidden_layers = 1
    found = []
    for compiles in (False, True):
        model = lora_model(shape)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
        if compiles:
            compiling.compile_layers(model)
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (loss, gradients), (compiled_loss, compiled_gradients) = found
    assert torch.allclose(compiled_loss, loss, rtol=1e-6)
    assert len(gradients) == 14
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0, name
        assert distance(compiled_gradients[name], gradient) < 0.01, name


@pytest.mark.parametrize("safe_merge", [False, True], ids=["plain", "safe"])
def test_nothing_is_merged_into_it(shape, safe_merge):
    model = lora_model(shape)
    before = {name: p.clone() for name, p in model.named_parameters() if p.dtype == torch.uint8}
    with pytest.raises(FtframeError, match="dequantise_linear_layers"):
        model.merge_and_unload(safe_merge=safe_merge)
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in before.items())


def test_an_adapter_is_merged_into_the_base_in_another_type(shape):
    model, tokens = lora_model(shape).eval(), torch.arange(3, 35).view(2, 16)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    in_fp8 = model(tokens).logits
    dequantise_linear_layers(model, torch.float32)
    unmerged = model(tokens).logits
    merged = model.merge_and_unload(safe_merge=True)
    assert not any(isinstance(module, Fp8Linear) for module in merged.modules())
    assert torch.allclose(merged(tokens).logits, unmerged, atol=1e-5)
    assert 0 < distance(in_fp8, unmerged) < 0.1


@pytest.mark.parametrize("factor", [1.0, 0.0, 2.0], ids=["right", "no gradient", "another gradient"])
def test_a_compiler_that_loses_gradients_is_noticed(factor, monkeypatch):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return factor * gradient

    monkeypatch.setattr("ftframe.models.fp8.compiled", lambda function: lambda values: function(Scaled.apply(values)))
    assert compiles_rightly(torch.device("cpu")) is (factor == 1.0)


def test_no_replaced_layer_is_held():
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4)))
    replaced = [weakref.ref(layer) for layer in model]
    quantise_linear_layers(model, {"1"}, torch.device("cpu"))
    assert [reference() is None for reference in replaced] == [True, False, True, True]
