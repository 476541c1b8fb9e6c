import copy

import pytest
import torch
from peft import LoraConfig
from torch import nn

from ftframe.models import compiling
from ftframe.models.adapter import attach_adapter
from ftframe.models.compiling import compile_layers, compiled, layers_of
from ftframe.models.random_init import random_model

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)


@pytest.fixture
def graphs(monkeypatch):
    """What was compiled, in place of a compiler."""
    seen = []

    def count(graph, inputs):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", count)
    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        yield seen
    torch._dynamo.reset()


def build(shape, *, lora):
    shape.use_cache, shape.num_hidden_layers = False, 3
    base = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    torch.manual_seed(0)
    model = attach_adapter(base, copy.deepcopy(LORA), base_path="none", in_float32=True) if lora else base
    return model.train()


def gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["base", "peft"])
def test_layers_are_those_of_the_decoder(shape, lora):
    model = build(shape, lora=lora)
    base = model.get_base_model() if lora else model
    assert layers_of(model) == list(base.model.layers)


def test_a_model_of_other_parts_has_no_layers(graphs):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert layers_of(model) == []
    compile_layers(model)
    model(torch.ones(1, 4))
    assert not graphs


@pytest.mark.parametrize("lora", [False, True], ids=["base", "peft"])
def test_compiled_layers_compute_what_they_did(shape, batch, lora, graphs):
    model = build(shape, lora=lora)
    loss, expected = gradients(model, batch)
    compile_layers(model)
    again, found = gradients(model, batch)
    assert graphs
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


@pytest.mark.parametrize(("lora", "count"), [(False, 2), (True, 3)], ids=["base", "peft"])
def test_one_graph_serves_all_layers_whose_input_has_a_gradient(shape, batch, lora, count, graphs):
    """Under an adapter the first layer's input has none, and that layer has one of its own; so has the last norm."""
    model = build(shape, lora=lora)
    compile_layers(model)
    gradients(model, batch)
    gradients(model, batch)
    assert len(graphs) == count


def test_rows_of_any_length_share_a_graph_once_two_were_seen(shape, batch, graphs):
    model = build(shape, lora=False)
    compile_layers(model)
    for length in (24, 20, 17, 13, 9):
        model(**{name: values[:, :length] for name, values in batch.items()}).loss.backward()
    assert len(graphs) == 2 * 2  # of a layer, and of the norm behind the last


def test_a_layer_that_cannot_be_compiled_as_a_whole_raises(shape, batch, graphs):
    model = build(shape, lora=False)
    mlp = layers_of(model)[0].mlp
    forward = mlp.forward

    def breaking(hidden):
        torch._dynamo.graph_break()
        return forward(hidden)

    mlp.forward = breaking
    compile_layers(model)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        model(**batch)


def test_a_function_is_compiled_when_it_is_called(graphs):
    double = compiled(lambda x: x * 2)
    assert not graphs
    assert torch.equal(double(torch.ones(3)), torch.full((3,), 2.0))
    assert len(graphs) == 1


def test_more_variants_are_allowed_than_by_default(shape, graphs):
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_layers(build(shape, lora=False))
        assert torch._dynamo.config.recompile_limit == 64
