import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from ftframe.models.adapter import attach_adapter, load_adapter, save_adapter
from ftframe.models.adapter_compute import CastingLinear, is_plain_lora, multiply_in_type_of_input
from ftframe.models.random_init import random_model

CPU = torch.device("cpu")


def config_of(**options):
    defaults = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    return LoraConfig(**{**defaults, **options})


def peft_model(shape, dtype=torch.float32, **options):
    """With PEFT's own arithmetic; the same weights at each call."""
    base = random_model(shape, dtype=dtype, quantization_config=None, device=CPU)
    torch.manual_seed(0)
    return get_peft_model(base, config_of(**options), autocast_adapter_dtype=True).train()


def matrices(model):
    return {n: m for n, m in model.named_modules() if n.endswith(("lora_A.default", "lora_B.default"))}


def loss_and_gradients(model, batch):
    torch.manual_seed(1)  # of the dropout
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "options",
    [{}, {"lora_dropout": 0.3}, {"lora_bias": True}, {"use_rslora": True}],
    ids=["plain", "dropout", "bias", "rslora"],
)
def test_in_float32_it_is_pefts_own_arithmetic(shape, batch, options):
    if "lora_bias" in options:  # which needs biases in the base
        shape.attention_bias = shape.mlp_bias = True
    expected, gradients = loss_and_gradients(peft_model(shape, **options), batch)
    model = peft_model(shape, **options)
    multiply_in_type_of_input(model)
    found, own = loss_and_gradients(model, batch)
    assert torch.equal(found, expected)
    assert own.keys() == gradients.keys()
    assert len(own) >= 28
    for name, gradient in own.items():
        assert torch.equal(gradient, gradients[name]), name


def lora_layer(cast):
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(48, 32, dtype=torch.bfloat16)), LoraConfig(r=4, target_modules=["0"])
    )
    nn.init.normal_(model.base_model.model[0].lora_B.default.weight)
    if cast:
        multiply_in_type_of_input(model)
    return model


def run_layer(model, *, autocast):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(6, 48, generator=generator).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = model(inputs)
    outputs.backward(torch.randn(6, 32, generator=generator).bfloat16())
    return [outputs, inputs.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def test_in_bfloat16_it_is_what_autocast_computes():
    expected = run_layer(lora_layer(cast=False), autocast=True)
    found = run_layer(lora_layer(cast=True), autocast=False)
    assert len(found) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=2**-7)


def test_nothing_is_multiplied_in_float32_over_a_bfloat16_base(shape, batch):
    """PEFT by itself does so."""
    counts = []
    for cast in (False, True):
        model, types = peft_model(shape, torch.bfloat16), []
        if cast:
            multiply_in_type_of_input(model)
        for module in matrices(model).values():
            module.register_forward_hook(lambda module, inputs, output, types=types: types.append(output.dtype))
        model(**batch)
        assert len(types) == 28
        counts.append(types.count(torch.float32))
    assert counts == [28, 0]


def test_weights_and_gradients_stay_float32_and_the_same_parameters(shape, batch):
    model = peft_model(shape, torch.bfloat16)
    before = dict(model.named_parameters())
    multiply_in_type_of_input(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    _, gradients = loss_and_gradients(model, batch)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert all(after[name].dtype == torch.float32 for name in gradients)


@pytest.mark.parametrize("training", [True, False])
def test_a_casting_layer_takes_over_weights_and_mode(training):
    linear = nn.Linear(5, 3).train(training)
    casting = CastingLinear.of(linear)
    assert casting.weight is linear.weight
    assert casting.bias is linear.bias
    assert casting.training == training
    values = torch.randn(2, 5)
    assert torch.equal(casting(values), linear(values))
    assert casting(values.bfloat16()).dtype == torch.bfloat16


def dora(shape):
    return peft_model(shape, use_dora=True)


def embeddings(shape):
    return peft_model(shape, target_modules=["embed_tokens"])


def convolutions(shape):
    return get_peft_model(
        nn.Sequential(nn.Conv1d(3, 4, 2), nn.Conv2d(4, 4, 2)), LoraConfig(r=2, target_modules=["0", "1"])
    )


@pytest.mark.parametrize("build", [dora, embeddings, convolutions])
def test_other_layers_are_left_alone(shape, build):
    model = build(shape)
    before = [(name, type(module)) for name, module in model.named_modules()]
    multiply_in_type_of_input(model)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    layers = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    assert layers
    assert all(layer.cast_input_dtype_enabled for layer in layers)


def test_saved_and_loaded_as_pefts_own(shape, batch, tmp_path):
    own = peft_model(shape)
    base = random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU)
    torch.manual_seed(0)
    model = attach_adapter(base, config_of(), base_path="none", in_float32=True)
    assert {type(module) for module in matrices(model).values()} == {CastingLinear}
    stored, expected = get_peft_model_state_dict(model), get_peft_model_state_dict(own)
    assert list(stored) == list(expected)
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
    save_adapter(model, tmp_path)
    base = random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU)
    loaded = load_adapter(base, tmp_path)
    assert {type(module) for module in matrices(loaded).values()} == {CastingLinear}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, own.eval()(**batch).logits)


def test_merging_adds_the_same_as_pefts_own(shape, batch):
    own, model = peft_model(shape), peft_model(shape)
    multiply_in_type_of_input(model)
    with torch.no_grad():
        expected, found = (each.merge_and_unload().eval()(**batch).logits for each in (own, model))
    assert torch.equal(found, expected)


PLAIN = {
    "plain": (LoraConfig(r=4), True),
    "rslora": (LoraConfig(r=4, use_rslora=True, lora_dropout=0.1), True),
    "dora": (LoraConfig(r=4, use_dora=True), False),
    "bias": (LoraConfig(r=4, bias="all"), False),
    "whole modules": (LoraConfig(r=4, modules_to_save=["lm_head"]), False),
    "tokens": (LoraConfig(r=4, trainable_token_indices=[1]), False),
    "parameters": (LoraConfig(r=4, target_parameters=["experts.weight"]), False),
    "adalora": (AdaLoraConfig(r=4, total_step=10), False),
    "ia3": (IA3Config(), False),
}


@pytest.mark.parametrize(("config", "expected"), PLAIN.values(), ids=PLAIN)
def test_plain_lora_is_told_from_the_rest(config, expected):
    assert is_plain_lora(config) is expected
