import pytest
import torch

from ftframe.models.loss import causal_lm_loss, chunked_causal_lm_loss, row_losses
from ftframe.models.random_init import random_model


@pytest.fixture
def model(shape):
    return random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))


def test_loss_and_gradients_equal_transformers_own(model, batch):
    supervised = (batch["labels"][:, 1:] != -100).sum()
    theirs = model(**batch).loss
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    ours = causal_lm_loss(logits, batch["labels"]) / supervised
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_unsupervised_tokens_do_not_count(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits
    labels = torch.full_like(batch["labels"], -100)
    assert causal_lm_loss(logits, labels) == 0


def test_is_computed_in_float32(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits.bfloat16()
    assert causal_lm_loss(logits, batch["labels"]).dtype == torch.float32


def test_losses_of_rows_add_up_to_the_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = row_losses(logits, batch["labels"])
    assert losses.shape == (len(batch["labels"]),)
    assert losses.sum().item() == pytest.approx(causal_lm_loss(logits, batch["labels"]).item(), rel=1e-6)
    assert losses[2].item() == pytest.approx(causal_lm_loss(logits[2:3], batch["labels"][2:3]).item(), rel=1e-6)


def supervised_positions(labels):
    rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    return rows * labels.shape[1] + columns


@pytest.mark.parametrize("chunk", [1, 128 * 7, 2**26], ids=["one token", "uneven", "one chunk"])
def test_chunked_loss_and_gradients_equal_those_of_all_logits(model, batch, chunk, monkeypatch):
    monkeypatch.setattr("ftframe.models.loss.CHUNK", chunk)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    model.lm_head.requires_grad_(False)
    expected = causal_lm_loss(model(**inputs).logits, batch["labels"])
    (expected / 50).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = model.get_decoder()(**inputs).last_hidden_state
    found = chunked_causal_lm_loss(hidden, model.lm_head.weight, batch["labels"], supervised_positions(batch["labels"]))
    (found / 50).backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.dtype == torch.float32
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name
    assert model.lm_head.weight.grad is None


def test_chunked_loss_in_bfloat16_is_as_near_as_that_of_all_logits(model, batch):
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    exact = causal_lm_loss(model(**inputs).logits, batch["labels"]).item()
    model.bfloat16().lm_head.requires_grad_(False)
    whole = causal_lm_loss(model(**inputs).logits, batch["labels"]).item()
    hidden = model.get_decoder()(**inputs).last_hidden_state
    found = chunked_causal_lm_loss(hidden, model.lm_head.weight, batch["labels"], supervised_positions(batch["labels"]))
    assert found.item() == pytest.approx(whole, rel=1e-5)
    assert abs(found.item() - exact) < 0.01 * exact


def test_chunked_loss_of_no_token_is_zero(model, batch):
    hidden = model.get_decoder()(input_ids=batch["input_ids"]).last_hidden_state
    none = torch.zeros(0, dtype=torch.long)
    loss = chunked_causal_lm_loss(hidden, model.lm_head.weight, batch["labels"], none)
    loss.backward()
    assert loss == 0
