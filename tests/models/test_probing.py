import pytest
import torch
from torch import nn

from ftframe.models.probing import eagerly, in_eval_mode

CPU = torch.device("cpu")


def mixed_modes():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.ReLU())).train()
    model[1][0].eval()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_every_part_is_in_eval_mode_and_then_in_its_own():
    model = mixed_modes()
    before = modes(model)
    with in_eval_mode(model, CPU):
        assert not any(modes(model))
    assert modes(model) == before
    assert before.count(False) == 1


def test_an_eval_model_stays_one():
    model = mixed_modes().eval()
    with in_eval_mode(model, CPU):
        pass
    assert not any(modes(model))


def test_random_state_is_given_back():
    model = mixed_modes()
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    with in_eval_mode(model, CPU):
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)


def test_modes_and_random_state_survive_an_error():
    model = mixed_modes()
    before, state = modes(model), torch.get_rng_state()
    with pytest.raises(ValueError, match="within"), in_eval_mode(model, CPU):
        torch.rand(1)
        raise ValueError("within")
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [eagerly, lambda: in_eval_mode(nn.Identity(), CPU)], ids=["eagerly", "eval"])
def test_compiled_layers_run_as_written(context):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    layer = torch.compile(lambda values: values * 2 + 1, backend=backend)
    values = torch.ones(1, 2)
    with context():
        within = layer(values)
    assert not graphs
    assert torch.equal(layer(values), within)
    assert len(graphs) == 1
