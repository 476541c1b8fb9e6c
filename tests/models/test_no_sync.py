"""A training step reads no value from the device: the host would wait for it, and then the device for the host."""

import lightning
import pytest
import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from transformers import BitsAndBytesConfig

from ftframe.data.batching import pack_batch, pad_batch
from ftframe.models import compiling, varlen_attention
from ftframe.models.adapter import attach_adapter
from ftframe.models.causal_attention import CAUSAL, register_causal_attention
from ftframe.models.compilable_4bit import let_compiler_see
from ftframe.models.fp8 import Fp8Config
from ftframe.models.lora_stacks import stack_lora_layers
from ftframe.models.module import CausalLMModule
from ftframe.models.output_head import frozen_head
from ftframe.models.random_init import random_model
from ftframe.models.step_figures import skip_if_not_finite
from ftframe.models.varlen_attention import VARLEN, register_varlen_attention

register_causal_attention()
register_varlen_attention()

CPU = torch.device("cpu")
LENGTHS = [5, 24, 9, 17]
READING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2"}
QUANTS = {
    "none": None,
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "fp8": Fp8Config(),
}


class ReadsNothing(TorchDispatchMode):
    """Raises where a value, or a shape that depends on values, is asked for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in READING or by_mask:
            raise AssertionError(f"{func} reads from the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        lambda values: values.sum().item(),
        lambda values: float(values[0]),
        lambda values: bool((values > 0).all()),
        lambda values: values.nonzero(),
        lambda values: values[values > 1],
        lambda values: torch.equal(values, values + 1),
    ],
    ids=["item", "float", "bool", "nonzero", "mask", "equal"],
)
def test_reading_is_noticed(read):
    with pytest.raises(AssertionError, match="reads from the device"), ReadsNothing():
        read(torch.arange(3))


def test_arithmetic_is_no_reading():
    with ReadsNothing():
        total = (torch.arange(3) * 2).sum()
    assert total == 6


def examples():
    generator = torch.Generator().manual_seed(0)
    found = []
    for row, length in enumerate(LENGTHS):
        ids = torch.randint(3, 128, (length,), generator=generator).tolist()
        found.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :], "row": row})
    return found


def padded():
    return pad_batch(examples(), pad_token_id=0)


def packed():
    first, second, *rest = examples()
    return pack_batch([[first, second], rest], pad_token_id=0, one_row=32)


def build(shape, attention, quant, device=CPU):
    shape.use_cache = False  # as of every base that is trained
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    base = random_model(
        shape, dtype=dtype, quantization_config=QUANTS[quant], device=device, attn_implementation=attention
    )
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    return attach_adapter(base, lora, base_path="none", in_float32=True).train()


class AsOnGpu(CausalLMModule):
    """Whose inputs are those that it makes for a GPU."""

    device = torch.device("cuda")


def module_of(model, *, chunks_loss):
    module = AsOnGpu(lambda device: model)
    module.model = model
    module._head = frozen_head(model) if chunks_loss else None
    return module


@pytest.fixture
def kernel(monkeypatch):
    """In place of the GPU's: one that needs no lengths on the host."""

    def attend(query, key, value, starts, longest, scaling, window):
        place = torch.arange(len(query))
        example = torch.bucketize(place, starts[1:].long(), right=True)
        seen = (example[:, None] == example) & (place[:, None] >= place)
        states = (each.transpose(0, 1)[None] for each in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(*states, seen, scale=scaling, enable_gqa=True)
        return attended[0].transpose(0, 1)

    monkeypatch.setattr(varlen_attention, "_reference", attend)


BATCHES = [
    pytest.param(padded, CAUSAL, id="padded"),
    pytest.param(packed, VARLEN, id="packed"),
]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("chunks_loss", [True, False], ids=["chunked loss", "all logits"])
@pytest.mark.parametrize(("make", "attention"), BATCHES)
def test_nothing_is_read_in_a_training_step(shape, make, attention, chunks_loss, quant):
    batch, model = make(), build(shape, attention, quant)
    module = module_of(model, chunks_loss=chunks_loss)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, fused=True)
    with ReadsNothing():
        module.training_step(batch, 0).backward()
        gradients = [p.grad for p in trained]
        sums = module._window.sums(torch.nn.utils.get_total_norm(gradients))
        skip_if_not_finite(optimizer, sums)
        torch._foreach_mul_(gradients, (1 / sums[1]).float())
        optimizer.step()
    assert sums.isfinite().all()
    assert sums[1] == batch["supervised_tokens"]
    assert any(not torch.equal(p, earlier) for p, earlier in zip(trained, before, strict=True))


def test_a_mask_would_be_read(shape):
    """Why the module leaves it out on a GPU."""
    batch, model = padded(), build(shape, "sdpa", "none")
    with pytest.raises(AssertionError, match="reads from the device"), ReadsNothing():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


class Synchronised(lightning.Callback):
    """Has CUDA raise at whatever waits for the device in a step, after the first one, in which kernels are built."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx > 0:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *args):
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *args):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize(("make", "attention"), BATCHES)
def test_a_gpu_is_not_waited_for(shape, make, attention, quant, compiles):
    if quant == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs FP8 tensor cores")

    def build_model(device):
        model = build(shape, attention, quant, device)
        let_compiler_see(model)
        stack_lora_layers(model)
        if compiles:
            compiling.compile_layers(model)
        return model

    module = CausalLMModule(
        build_model,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True),
        chunks_loss=True,
        compiles=compiles,
    )
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=1,
        max_steps=4,
        log_every_n_steps=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Synchronised()],
    )
    trainer.fit(module, DataLoader([make()] * 4, batch_size=None, pin_memory=True))
    assert trainer.global_step == 4
