import copy

import pytest
import torch
from peft import LoraConfig
from torch.profiler import profile
from transformers import LlamaForCausalLM

from ftframe.errors import ConfigError
from ftframe.models import compiling, memory
from ftframe.models.adapter import attach_adapter
from ftframe.models.memory import SETTINGS, arrange_memory
from ftframe.models.random_init import random_model

from .saving import saved_storages

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, lora_dropout=0.1)


@pytest.fixture(autouse=True)
def restored_budget():
    with (
        torch._functorch.config.patch(activation_memory_budget=1.0),
        torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit),
    ):
        yield
    torch._dynamo.reset()


@pytest.fixture
def eager_backend(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def arranged(shape, setting, *, compiles=False, dropout=0.0, lora=True, **options):
    shape.use_cache = False
    model = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    torch.manual_seed(0)
    if lora:
        config = copy.deepcopy(LORA)
        config.lora_dropout = dropout
        model = attach_adapter(model, config, base_path="none", in_float32=True)
    arrange_memory(model, setting, compiles=compiles, **options)
    return model.train()


def gradients(model, batch):
    torch.manual_seed(1)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def saved_bytes(model, batch):
    """What autograd holds after the forward pass, weights apart."""
    with saved_storages(model) as storages:
        model.get_base_model().get_decoder()(batch["input_ids"])
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("setting", ["checkpoint", "offload"])
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["plain", "dropout"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_gradients_stay_the_same_to_the_last_bit(shape, batch, setting, dropout, lora):
    loss, expected = gradients(arranged(shape, "none", dropout=dropout, lora=lora), batch)
    again, found = gradients(arranged(shape, setting, dropout=dropout, lora=lora), batch)
    assert again == loss
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient is not None and gradient.abs().sum() > 0, name
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_compiled_gradients_are_the_same(shape, batch, setting, eager_backend):
    loss, expected = gradients(arranged(shape, "none"), batch)
    again, found = gradients(arranged(shape, setting, compiles=True), batch)
    assert again == pytest.approx(loss, rel=1e-6)
    for name, gradient in found.items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_a_checkpoint_saves_the_input_of_each_layer_only(shape, batch):
    whole, least = (saved_bytes(arranged(shape, setting), batch) for setting in ("none", "checkpoint"))
    states = batch["input_ids"].numel() * shape.hidden_size * 4
    assert least < whole / 4
    assert least >= shape.num_hidden_layers * states


@pytest.mark.slow
def test_a_smaller_budget_saves_less(shape, batch, eager_backend):
    shape.num_hidden_layers, found = 1, []
    for share in (1.0, 0.2):
        found.append(saved_bytes(arranged(shape, "budget", compiles=True, share=share), batch))
        torch._dynamo.reset()
    assert found[0] > 1.5 * found[1]


@pytest.mark.parametrize(("setting", "budget"), [("none", 1.0), ("budget", 0.3), ("checkpoint", 1.0), ("offload", 1.0)])
def test_the_compilers_budget_is_for_its_own_setting_only(shape, setting, budget, eager_backend):
    torch._functorch.config.activation_memory_budget = 0.7
    arranged(shape, setting, compiles=True, share=0.3)
    assert torch._functorch.config.activation_memory_budget == budget


@pytest.mark.parametrize(("setting", "compiles"), [("budget", False), ("ample", False), ("most", True)])
def test_what_cannot_be_is_refused(shape, setting, compiles):
    with pytest.raises(AssertionError, match=setting):
        arranged(shape, setting, compiles=compiles)


@pytest.mark.parametrize("setting", ["none", "checkpoint", "offload"])
def test_outputs_without_gradients_are_the_same(shape, batch, setting):
    model = arranged(shape, setting).eval()
    with torch.no_grad():
        found = model(**batch).logits
        expected = arranged(shape, "none").eval()(**batch).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("setting", ["none", "checkpoint", "offload"])
def test_a_copy_computes_with_its_own_weights(shape, batch, setting, eager_backend):
    """As those that are made of an average of the weights."""
    models = [arranged(shape, "none"), arranged(shape, setting, compiles=True)]
    models[1](**batch)
    losses = []
    for model in map(copy.deepcopy, models):
        for parameter in model.parameters():
            parameter.data *= 1.5
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("setting", ["checkpoint", "offload"])
def test_a_model_of_other_layers_does_it_its_own_way_or_is_refused(shape, setting, monkeypatch):
    monkeypatch.setattr(memory, "layers_of", lambda model: [])
    if setting == "offload":
        with pytest.raises(ConfigError, match="memory=offload: LlamaForCausalLM has no layers"):
            arranged(shape, setting)
    else:
        assert arranged(shape, setting).get_base_model().is_gradient_checkpointing
    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=f"memory={setting}: LlamaForCausalLM has no layers"):
        arranged(shape, setting)


@pytest.mark.parametrize("compiles", [True, False], ids=["compiled", "uncompiled"])
def test_of_each_layer_only_its_input_waits_on_the_host(shape, batch, compiles, eager_backend, monkeypatch):
    put_aside, aside = memory._put_aside, []
    monkeypatch.setattr(memory, "_put_aside", lambda tensor: aside.append(tensor.shape) or put_aside(tensor))
    model = arranged(shape, "offload", compiles=compiles)
    gradients(model, batch)
    assert aside == [(*batch["input_ids"].shape, shape.hidden_size)] * shape.num_hidden_layers


def test_offloaded_layers_do_not_multiply_again_what_no_gradient_needs(shape, batch, eager_backend):
    """The last product of a layer is what the next one has kept."""
    counts = {}
    for setting in ("none", "offload"):
        torch._dynamo.reset()
        model = arranged(shape, setting, compiles=True)
        gradients(model, batch)  # compiles it
        with profile() as profiler:
            gradients(model, batch)
        counts[setting] = next(event.count for event in profiler.key_averages() if event.key == "aten::mm")
    all_of_them, needless = 7 * 3, 2  # by W, A and B of each projection; the last one's by W and B
    assert counts["offload"] - counts["none"] == shape.num_hidden_layers * (all_of_them - needless)


@pytest.mark.slow
def test_what_the_compiler_computes_again_it_drops_again(shape, batch):
    """Where it draws anew what to drop, gradients are those of another loss, and nothing tells."""
    shape.num_hidden_layers, found = 1, []
    for setting in ("none", "budget", "checkpoint"):
        torch._dynamo.reset()
        found.append(gradients(arranged(shape, setting, compiles=True, dropout=0.3, share=0.3), batch))
    (loss, expected), *others = found
    for again, own in others:
        assert again == pytest.approx(loss, rel=1e-6)
        for name, gradient in expected.items():
            assert torch.allclose(own[name], gradient, atol=1e-6), name
