"""Packed examples do not see each other, and learn what they learn alone."""

from shutil import which

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ftframe.models.loss import causal_lm_loss
from ftframe.models.varlen_attention import register_varlen_attention

from .packs import WINDOW, build, first_hidden, make_examples, make_pack, token_losses

register_varlen_attention()

MODELS = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, **WINDOW},
    "gemma3_text": {"head_dim": 16, **WINDOW},
    "phi3": WINDOW,
}
HAS_NOT = {("gemma2", "sdpa"), ("gemma2", "varlen")}  # soft-capped scores
CASES = [(m, a) for m in MODELS for a in ("sdpa", "eager", "varlen") if (m, a) not in HAS_NOT]
CASE = pytest.mark.parametrize(("model_type", "attention"), CASES, ids=["-".join(case) for case in CASES])
ATTENTION = pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])


def change_one(rows, row, index):
    changed = [list(examples) for examples in rows]
    changed[row][index] = (changed[row][index] + 17) % 125 + 3
    assert not torch.equal(changed[row][index], rows[row][index])
    return changed


def packed_logits(model, attention, rows):
    pack = make_pack(rows, varlen=attention == "varlen")
    return pack, model(**pack.inputs(attention)).logits


def summed_loss_alone(model, ids):
    return causal_lm_loss(model(input_ids=ids[None]).logits, first_hidden(ids)[None])


@CASE
def test_losses_are_those_of_each_example_alone(model_type, attention):
    model, rows = build(model_type, attention, **MODELS[model_type]), make_examples()
    with torch.no_grad():
        pack, logits = packed_logits(model, attention, rows)
        found = [losses.sum() for losses in pack.spans(token_losses(logits, pack.batch["labels"]))]
        expected = [summed_loss_alone(model, ids) for _, _, ids in pack.examples]
    assert len(found) == 6
    for packed, alone in zip(found, expected, strict=True):
        assert packed.item() == pytest.approx(alone.item(), abs=1e-5)
    assert causal_lm_loss(logits, pack.batch["labels"]).item() == pytest.approx(sum(expected).item(), abs=1e-4)


@CASE
@pytest.mark.parametrize("changed", [(0, 0), (0, 1), (0, 2), (1, 1)], ids=["first", "middle", "last", "one token"])
def test_neighbours_do_not_change_by_a_bit(model_type, attention, changed):
    model, rows = build(model_type, attention, **MODELS[model_type]), make_examples()
    with torch.no_grad():
        pack, before = packed_logits(model, attention, rows)
        _, after = packed_logits(model, attention, change_one(rows, *changed))
    equal = [torch.equal(*pair) for pair in zip(pack.spans(before), pack.spans(after), strict=True)]
    assert equal == [index != changed[0] * 3 + changed[1] for index in range(6)]


@ATTENTION
def test_the_test_sees_a_leak(attention):
    """The same rows without the restarting positions: what every other test here would look like if it failed."""
    model, rows = build("llama", attention), make_examples()
    with torch.no_grad():
        pack = make_pack(rows, varlen=False)
        before = model(input_ids=pack.batch["input_ids"]).logits
        after = model(input_ids=make_pack(change_one(rows, 0, 0), varlen=False).batch["input_ids"]).logits
    assert [torch.equal(*pair) for pair in zip(pack.spans(before), pack.spans(after), strict=True)] == [False] * 3 + [
        True
    ] * 3


@ATTENTION
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "peft"])
def test_gradients_are_the_sum_of_those_of_each_example(attention, checkpointing, adapter):
    def ready():
        model = build("llama", attention)
        if adapter:
            torch.manual_seed(1)
            options = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
            model = get_peft_model(model, options)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        return model.train()

    rows = make_examples()
    packed, alone = ready(), ready()
    pack, logits = packed_logits(packed, attention, rows)
    causal_lm_loss(logits, pack.batch["labels"]).backward()
    for _, _, ids in pack.examples:
        summed_loss_alone(alone, ids).backward()
    trained = [p for p in packed.parameters() if p.requires_grad]
    expected = [p.grad for p in alone.parameters() if p.requires_grad]
    assert len(trained) == (28 if adapter else 21)
    for parameter, gradient in zip(trained, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@ATTENTION
def test_no_gradient_flows_between_examples(attention):
    model, rows = build("llama", attention).train(), make_examples()
    pack = make_pack(rows, varlen=attention == "varlen")
    inputs = pack.inputs(attention)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, **inputs).logits
    pack.spans(token_losses(logits, pack.batch["labels"]))[2].sum().backward()
    reached = [bool(span.abs().sum() > 0) for span in pack.spans(embeddings.grad)]
    assert reached == [False, False, True, False, False, False]


@ATTENTION
def test_a_single_example_is_not_packed(attention):
    """A row that is one example has no restart; transformers then takes the plain causal path."""
    model, rows = build("llama", attention), make_examples([[12]])
    with torch.no_grad():
        _, logits = packed_logits(model, attention, rows)
        alone = model(input_ids=rows[0][0][None]).logits
    assert torch.allclose(logits, alone, atol=1e-6)


def test_bfloat16_neighbours_do_not_change_by_a_bit():
    rows = make_examples()
    for attention in ("sdpa", "eager", "varlen"):
        model = build("llama", attention).to(torch.bfloat16)
        with torch.no_grad():
            pack, before = packed_logits(model, attention, rows)
            _, after = packed_logits(model, attention, change_one(rows, 0, 0))
        assert torch.equal(pack.spans(before)[1], pack.spans(after)[1])
        assert torch.equal(pack.spans(before)[2], pack.spans(after)[2])


@pytest.mark.slow
@pytest.mark.skipif(which("c++") is None, reason="no C++ compiler")
def test_flex_attention():
    """Its mask is compiled, which takes a C++ compiler on a CPU."""
    model, rows = build("llama", "flex_attention"), make_examples()
    with torch.no_grad():
        pack, before = packed_logits(model, "flex_attention", rows)
        _, after = packed_logits(model, "flex_attention", change_one(rows, 0, 0))
        losses = pack.spans(token_losses(before, pack.batch["labels"]))
        for found, (_, _, ids) in zip(losses, pack.examples, strict=True):
            assert found.sum().item() == pytest.approx(summed_loss_alone(model, ids).item(), abs=1e-5)
    equal = [torch.equal(*pair) for pair in zip(pack.spans(before), pack.spans(after), strict=True)]
    assert equal == [False, True, True, True, True, True]
