import pytest
import torch

from ftframe.models.loss import causal_lm_loss, row_losses
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
