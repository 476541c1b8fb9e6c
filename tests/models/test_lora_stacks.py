from copy import copy

import pytest
import torch
import torch._dynamo
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import BitsAndBytesConfig

from ftframe.models import compiling
from ftframe.models.adapter import attach_adapter
from ftframe.models.base import keep_weights_trainable_through
from ftframe.models.compilable_4bit import let_compiler_see
from ftframe.models.fp8 import Fp8Config
from ftframe.models.lora_stacks import stack_lora_layers
from ftframe.models.memory import arrange_memory
from ftframe.models.random_init import random_model

from .saving import saved_storages

CPU = torch.device("cpu")
NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def build(shape, *, quant=NF4, stacked=True, **options):
    shape.use_cache = False
    base = random_model(shape, dtype=torch.float32, quantization_config=quant, device=CPU)
    keep_weights_trainable_through(base)
    torch.manual_seed(0)
    defaults = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    model = attach_adapter(base, LoraConfig(**{**defaults, **options}), base_path="none", in_float32=True).train()
    let_compiler_see(model)
    if stacked:
        stack_lora_layers(model)
    return model


def stacks_of(model):
    return {id(m.stack): m.stack for m in model.modules() if hasattr(m, "stack")}.values()


def logits_and_gradients(model, batch):
    torch.manual_seed(1)  # of the dropout
    output = model(**batch)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def biases(shape):
    shape.attention_bias = shape.mlp_bias = True


def grouped_queries(shape):
    shape.num_key_value_heads = 1


def as_it_is(shape):
    pass


@pytest.mark.parametrize(
    ("change", "options", "memory"),
    [
        (as_it_is, {}, "none"),
        (as_it_is, {}, "checkpoint"),
        (as_it_is, {}, "offload"),
        (as_it_is, {}, "ample"),
        (as_it_is, {"lora_dropout": 0.3}, "none"),
        (as_it_is, {"lora_dropout": 0.3}, "ample"),
        (as_it_is, {"use_rslora": True, "rank_pattern": {"k_proj": 2}}, "none"),
        (as_it_is, {"use_rslora": True, "rank_pattern": {"k_proj": 2}}, "ample"),
        (as_it_is, {"target_modules": ["q_proj", "v_proj", "down_proj"]}, "none"),
        (grouped_queries, {}, "none"),
        (biases, {}, "none"),
        (biases, {}, "ample"),
    ],
    ids=[
        *("plain", "checkpoint", "offload", "ample", "dropout", "ample dropout", "ranks", "ample ranks"),
        *("some", "gqa", "biases", "ample biases"),
    ],
)
def test_compiled_it_gives_pefts_logits_and_gradients(shape, batch, change, options, memory):
    change(shape)
    shape.num_hidden_layers = 3
    plain, model = build(shape, stacked=False, **options), build(shape, **options)
    graphs = 3  # of the first layer, whose input needs no gradient (with `offload`, of any), of the others, of the norm
    if change is not as_it_is or options or memory == "checkpoint":
        model.enable_input_require_grads()
        graphs = 2
    torch._dynamo.utils.counters.clear()
    expected, gradients = logits_and_gradients(plain, batch)
    arrange_memory(model, memory, compiles=True)
    found, own = logits_and_gradients(model.train(), batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # which serve all layers
    assert torch.allclose(found, expected, atol=1e-5)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0, name
        assert (own[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert all(stack.input is None and stack.shared is None for stack in stacks_of(model))


@pytest.mark.parametrize(
    ("quant", "memory", "share"),
    [(None, "checkpoint", 1e-5), (Fp8Config(), "none", 0.03), (Fp8Config(), "ample", 0.03)],
    ids=["plain", "fp8", "ample fp8"],
)
def test_over_other_bases_too(shape, batch, quant, memory, share):
    """Of a sum that is rounded otherwise, FP8 rounds some numbers to the next value, 6 % away."""
    expected, gradients = logits_and_gradients(build(shape, quant=quant, stacked=False, use_rslora=True), batch)
    model = build(shape, quant=quant, use_rslora=True)
    arrange_memory(model, memory, compiles=True)
    found, own = logits_and_gradients(model.train(), batch)
    assert len(stacks_of(model)) == 3 * shape.num_hidden_layers
    assert (found - expected).norm() <= share * expected.norm()
    for name, gradient in gradients.items():
        assert (own[name] - gradient).norm() <= 5 * share * gradient.norm(), name


def test_where_memory_is_ample_every_step_multiplies_by_the_b_that_it_has(shape, batch):
    plain, model = build(shape, stacked=False), build(shape)
    arrange_memory(model, "ample", compiles=True)
    for each in (plain, model):
        # With steps of 0.1 what is rounded otherwise grows about tenfold a step: to 4e-4 in the logits.
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.03)
        for _ in range(3):
            each.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        expected, found = plain.eval()(**batch).logits, model.eval()(**batch).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(expected, build(shape, stacked=False).eval()(**batch).logits, atol=1e-2)


def test_where_memory_is_ample_a_merge_counts(shape, batch):
    plain, model = build(shape, stacked=False), build(shape)
    arrange_memory(model, "ample", compiles=True)
    for change in ("merge_adapter", "unmerge_adapter"):
        for each in (plain, model):
            getattr(each, change)()
        with torch.no_grad():
            expected, found = plain.eval()(**batch).logits, model.eval()(**batch).logits
        assert torch.allclose(found, expected, atol=1e-5), change


def test_where_memory_is_ample_two_forward_passes_may_come_before_a_backward_pass(shape, batch):
    plain, model = build(shape, stacked=False), build(shape)
    arrange_memory(model, "ample", compiles=True)
    other = {**batch, "input_ids": batch["input_ids"].flip(0)}
    for each in (plain, model):
        each.train()
        (each(**batch).loss + 2 * each(**other).loss).backward()
    for (name, expected), own in zip(plain.named_parameters(), model.parameters(), strict=True):
        if expected.requires_grad:
            assert (own.grad - expected.grad).norm() <= 1e-4 * expected.grad.norm(), name


@pytest.mark.parametrize(("name", "rank"), [("other", 4), ("default", 4), ("default", 6)], ids=str)
def test_where_memory_is_ample_an_adapter_may_take_the_place_of_another(shape, batch, name, rank):
    logits = []
    for stacked in (False, True):
        model = build(shape, stacked=stacked)
        if stacked:
            arrange_memory(model, "ample", compiles=True)
        torch.manual_seed(1)
        config = copy(model.peft_config["default"])
        config.r = rank
        model.add_adapter("other", model.peft_config["default"])
        model.set_adapter("other")
        model.delete_adapter("default")
        if name != "other":
            model.add_adapter(name, config)
            model.set_adapter(name)
            model.delete_adapter("other")
        with torch.no_grad():
            logits.append(model.eval()(**batch).logits)
    assert torch.allclose(*logits, atol=1e-5)


def test_layers_with_one_input_are_one_stack_and_the_others_pefts_own(shape):
    plain, model = build(shape, stacked=False), build(shape)
    sizes = sorted(len(stack.layers) for stack in stacks_of(model))
    assert sizes == sorted([3, 2, 1] * shape.num_hidden_layers)
    pairs = zip(plain.modules(), model.modules(), strict=True)
    alone = [type(own) is type(pefts) for pefts, own in pairs if isinstance(own, LoraLayer)]
    assert alone.count(True) == shape.num_hidden_layers


def test_a_layer_alone_with_dropout_keeps_no_room_beside_its_weights(shape):
    for dropout, bordered in ((0.3, [2, 3]), (0.0, [1, 2, 3])):
        model = build(shape, lora_dropout=dropout)
        arrange_memory(model, "ample", compiles=True)
        kept = sorted(len(stack.layers) for stack in stacks_of(model) if stack.bordered is not None)
        assert kept == sorted(bordered * shape.num_hidden_layers)


def test_uncompiled_nothing_changes(shape, batch):
    expected, gradients = logits_and_gradients(build(shape, stacked=False), batch)
    found, own = logits_and_gradients(build(shape), batch)
    assert torch.equal(found, expected)
    assert all(torch.equal(own[name], gradients[name]) for name in gradients)


def test_an_adapter_that_is_switched_off_is_left_out(shape, batch):
    plain, model = build(shape, stacked=False), build(shape)
    compiling.compile_layers(model)
    with torch.no_grad(), plain.disable_adapter(), model.disable_adapter():
        assert torch.allclose(model(**batch).logits, plain(**batch).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("quant", "options"),
    [(BitsAndBytesConfig(load_in_8bit=True), {}), (NF4, {"use_dora": True}), (NF4, {"lora_bias": True})],
    ids=["8 bits", "dora", "bias"],
)
def test_other_layers_are_left_alone(shape, quant, options):
    if "lora_bias" in options:
        biases(shape)
    before = [(name, type(m)) for name, m in build(shape, quant=quant, stacked=False, **options).named_modules()]
    model = build(shape, quant=quant, **options)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert not stacks_of(model)


def test_layers_stay_pefts_own(shape, batch):
    """What saves, merges or switches adapters goes by type."""
    plain, model = build(shape, stacked=False), build(shape)
    kinds = [type(module) for module in plain.modules() if isinstance(module, LoraLayer)]
    own = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert len(own) == 7 * shape.num_hidden_layers
    assert all(isinstance(module, kind) for module, kind in zip(own, kinds, strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "alone"])
def test_a_compiled_checkpoint_keeps_the_input_of_a_layer_only(shape, batch, stacked):
    """What an `autograd.Function` returns is not told to be computed again by a compiler that sees none in it."""
    shape.num_hidden_layers = 4
    model = build(shape, stacked=stacked)
    arrange_memory(model, "checkpoint", compiles=True)
    with saved_storages(model.train()) as storages:
        model.get_base_model().get_decoder()(batch["input_ids"])
    states = batch["input_ids"].numel() * shape.hidden_size * 4
    assert sum(storage.nbytes() for storage in storages.values()) < (shape.num_hidden_layers + 2) * states
