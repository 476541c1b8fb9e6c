import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ftframe.models.output_head import frozen_head

from .packs import build

TOKENS = torch.arange(3, 43).view(2, 20)


def frozen(model_type="llama", attention="sdpa", **changes):
    return build(model_type, attention, **changes).requires_grad_(False)


def with_lora(*targets):
    return get_peft_model(frozen(), LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))


SPLITS = {
    "llama": frozen,
    "tied": lambda: frozen(tie_word_embeddings=True),
    "qwen2": lambda: frozen("qwen2"),
    "mistral": lambda: frozen("mistral"),
    "gpt_neox": lambda: frozen("gpt_neox"),
    "lora": lambda: with_lora("q_proj", "down_proj"),
}


@pytest.mark.parametrize("make", SPLITS.values(), ids=SPLITS)
def test_the_two_parts_give_the_models_logits(make):
    model = make().eval()
    head = frozen_head(model)
    with torch.no_grad():
        found = nn.functional.linear(head.hidden_states({"input_ids": TOKENS}), head.weight)
        assert torch.equal(found, model(TOKENS).logits)
    assert head.weight is model.get_output_embeddings().weight


def trains():
    model = frozen()
    model.lm_head.requires_grad_(True)
    return model


def copied_and_trained():
    return get_peft_model(frozen(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))


def changed():
    """Logits that are no plain product: the head is right by its looks."""
    model = frozen()
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled
    return model


def without_a_decoder():
    model = frozen()

    def get_decoder():
        raise NotImplementedError

    model.get_decoder = get_decoder
    return model


WHOLE = {
    "trains": trains,
    "copied and trained": copied_and_trained,
    "has an adapter": lambda: with_lora("q_proj", "lm_head"),
    "bias": lambda: frozen("phi"),
    "scaled by granite": lambda: frozen("granite", logits_scaling=4.0),
    "scaled by cohere": lambda: frozen("cohere"),
    "capped": lambda: frozen("gemma2", "eager", head_dim=16, final_logit_softcapping=1.0),
    "scaled in its own way": changed,
    "no decoder": without_a_decoder,
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_other_models_are_not_split(make):
    assert frozen_head(make()) is None


def test_hidden_states_are_those_of_the_adapted_model_and_carry_its_gradient():
    model = with_lora("q_proj")
    head = frozen_head(model)
    head.hidden_states({"input_ids": TOKENS}).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad.abs().sum() > 0 for p in trained)


def test_leaves_modes_and_random_state_as_they_were():
    model = with_lora("q_proj").train()
    model.base_model.model.model.norm.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert frozen_head(model) is not None
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
