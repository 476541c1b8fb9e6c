"""The LightningModule under a real Trainer."""

import lightning
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader

from ftframe.errors import FtframeError, NonFiniteError
from ftframe.models.module import CausalLMModule
from ftframe.models.random_init import random_model


def rows(batch):
    """The batch's rows, each cut to its own length, as batches of one."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [{k: v[i : i + 1, :n] for k, v in batch.items()} for i, n in enumerate(lengths)]


def counted(batch, task=0):
    """The batch with the numbers that a collator puts beside the tensors."""
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    tasks = torch.full(batch["labels"].shape[:1], task)
    return {**batch, "supervised_tokens": supervised, "tokens": int(batch["attention_mask"].sum()), "task": tasks}


def run(shape, batches, *, accumulate=1, tokens_per_batch=1.0, **flags):
    """One optimizer step of SGD with learning rate 1; the trained model and what was logged."""
    module = CausalLMModule(
        lambda device: random_model(shape, dtype=torch.float32, quantization_config=None, device=device).train(),
        lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        tokens_per_batch=tokens_per_batch,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )
    trainer.fit(module, DataLoader([counted(batch) for batch in batches], batch_size=None))
    return module.model, trainer


def test_one_batch_of_eight_equals_eight_accumulated_batches_of_one(shape, batch):
    whole, trainer = run(shape, [batch], tokens_per_batch=50.0)
    pieces, accumulated = run(shape, rows(batch), accumulate=8, tokens_per_batch=7.0)
    assert accumulated.global_step == trainer.global_step == 1
    start = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    for (name, a), b, before in zip(whole.named_parameters(), pieces.parameters(), start.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
        assert not torch.equal(a, before), name
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(
        accumulated.callback_metrics["train/loss"].item(), abs=1e-5
    )


def test_step_is_the_gradient_of_transformers_own_loss(shape, batch):
    """SGD with learning rate 1 moves each weight by minus its gradient."""
    trained, trainer = run(shape, [batch], tokens_per_batch=13.0)
    reference = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    loss = reference(**batch).loss
    loss.backward()
    for (name, after), before in zip(trained.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(before - after, before.grad, atol=1e-6), name
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss.item(), abs=1e-6)


def test_gradients_are_gone_when_the_next_batch_goes_forward(shape, batch):
    trained, _ = run(shape, rows(batch)[:4], accumulate=2)
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_last_window_of_an_epoch_may_be_short(shape, batch):
    """Three rows with accumulation over two: the second step has one row and weighs it fully."""
    short = rows(batch)[:3]
    trained, trainer = run(shape, short, accumulate=2)
    assert trainer.global_step == 2
    reference = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    optimizer = torch.optim.SGD(reference.parameters(), lr=1.0)
    for window in (short[:2], short[2:]):
        optimizer.zero_grad()
        tokens = sum((row["labels"][:, 1:] != -100).sum() for row in window)
        for row in window:
            count = (row["labels"][:, 1:] != -100).sum()
            (reference(**row).loss * count / tokens).backward()
        optimizer.step()
    for (name, a), b in zip(trained.named_parameters(), reference.named_parameters(), strict=True):
        assert torch.allclose(a, b[1], atol=1e-5), name


def test_clipping_sees_the_normalised_gradient(shape, batch):
    trained, _ = run(shape, [batch], tokens_per_batch=0.001, gradient_clip_val=0.1)
    start = random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))
    moved = [before - after for after, before in zip(trained.parameters(), start.parameters(), strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.1, rel=1e-3)


def test_validation_equals_transformers_own_loss(shape, batch):
    module = CausalLMModule(
        lambda device: random_model(shape, dtype=torch.float32, quantization_config=None, device=device)
    )
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    logged = trainer.validate(module, DataLoader(list(map(counted, rows(batch))), batch_size=None), verbose=False)[0]
    with torch.no_grad():
        output = module.model(**batch)
    labels = batch["labels"][:, 1:]
    right = (output.logits[:, :-1].argmax(-1) == labels)[labels != -100].float().mean()
    assert logged["val/loss"] == pytest.approx(output.loss.item(), abs=1e-5)
    assert logged["val/perplexity"] == pytest.approx(output.loss.exp().item(), rel=1e-5)
    assert logged["val/token_accuracy"] == pytest.approx(right.item(), abs=1e-6)


def test_each_task_has_a_validation_loss_of_its_own(shape, batch):
    module = CausalLMModule(
        lambda device: random_model(shape, dtype=torch.float32, quantization_config=None, device=device),
        validation_tasks=["a", "b", "empty"],
    )
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    tasks = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
    logged = trainer.validate(module, DataLoader([{**counted(batch), "task": tasks}], batch_size=None), verbose=False)[
        0
    ]
    for number, name in enumerate("ab"):
        with torch.no_grad():
            alone = module.model(**{key: value[tasks == number] for key, value in batch.items()}).loss
        assert logged[f"val/{name}/loss"] == pytest.approx(alone.item(), abs=1e-5)
    assert not any("empty" in name for name in logged)
    with torch.no_grad():
        assert logged["val/loss"] == pytest.approx(module.model(**batch).loss.item(), abs=1e-5)


def test_checkpoint_holds_only_what_trains(shape, batch, tmp_path):
    def build(device):
        base = random_model(shape, dtype=torch.float32, quantization_config=None, device=device)
        return get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))

    module = CausalLMModule(build, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, DataLoader([counted(batch)], batch_size=None))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert len(stored["state_dict"]) == 2 * 7 * shape.num_hidden_layers
    assert all("lora_" in name for name in stored["state_dict"])

    other = CausalLMModule(
        lambda device: random_model(shape, dtype=torch.float32, quantization_config=None, device=device),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False)
    with pytest.raises(FtframeError, match="does not fit this configuration"):
        trainer.fit(
            other, DataLoader([counted(batch)], batch_size=None), ckpt_path=tmp_path / "x.ckpt", weights_only=True
        )


def test_non_finite_loss_stops_before_the_update(shape, batch):
    poisoned = {}

    def build(device):
        model = random_model(shape, dtype=torch.float32, quantization_config=None, device=device).train()
        torch.nn.init.constant_(model.model.norm.weight, float("inf"))
        poisoned["model"] = model
        return model

    module = CausalLMModule(build, lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(NonFiniteError, match=r"The loss of step 0 is nan.*optim\.lr"):
        trainer.fit(module, DataLoader([counted(batch)], batch_size=None))
    assert torch.isfinite(poisoned["model"].lm_head.weight).all()


def test_window_without_supervised_tokens_is_refused(shape, batch):
    empty = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    with pytest.raises(FtframeError, match="No supervised token"):
        run(shape, [empty])
