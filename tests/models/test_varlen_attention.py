import pytest
import torch
from transformers import AttentionMaskInterface, AutoConfig

from ftframe.errors import ConfigError
from ftframe.models import varlen_attention
from ftframe.models.varlen_attention import VARLEN, check_varlen, model_inputs, register_varlen_attention

from .packs import SHAPE, WINDOW, build, make_examples, make_pack

register_varlen_attention()

CUDA = torch.device("cuda")


def forward(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture
def padded():
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, 128, (2, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :4] = 0  # padded on the left, as for generation
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("mistral", WINDOW)], ids=["llama", "mistral"])
def test_padded_batches_are_computed_as_sdpa_does(model_type, changes, padded):
    expected, found = (forward(build(model_type, attention, **changes), **padded) for attention in ("sdpa", VARLEN))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("mistral", WINDOW)], ids=["llama", "mistral"])
def test_generates_what_sdpa_does(model_type, changes, padded):
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": True, "eos_token_id": None}
    expected, found = (build(model_type, name, **changes).generate(**padded, **options) for name in ("sdpa", VARLEN))
    assert found.shape == (2, 15)
    assert torch.equal(found, expected)


def test_a_pack_without_its_starts_still_keeps_examples_apart():
    """Slower, with a mask, but never wrong."""
    pack = make_pack(make_examples(), varlen=True)
    inputs = {key: pack.batch[key] for key in ("input_ids", "position_ids")}
    model = build("llama", VARLEN)
    for found, expected in zip(
        pack.spans(forward(model, **inputs)), pack.spans(forward(model, **pack.inputs(VARLEN))), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("gemma3_text", WINDOW)], ids=["llama", "gemma3"])
def test_no_mask_is_built_for_a_pack(model_type, changes, monkeypatch):
    def built(*args, **kwargs):
        raise AssertionError("a mask was built")

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, VARLEN, built)
    model, pack = build(model_type, VARLEN, **changes), make_pack(make_examples(), varlen=True)
    assert forward(model, **pack.inputs(VARLEN)).isfinite().all()
    with pytest.raises(AssertionError, match="a mask was built"):
        forward(model, input_ids=pack.batch["input_ids"])


def test_longest_may_be_an_upper_bound():
    model, pack = build("mistral", VARLEN, **WINDOW), make_pack(make_examples(), varlen=True)
    expected = forward(model, **pack.inputs(VARLEN))
    pack.batch |= {"max_length_q": 512, "max_length_k": 512}
    assert torch.equal(forward(model, **pack.inputs(VARLEN)), expected)


def test_autocast_reaches_what_a_norm_left_in_float32():
    """Qwen3 normalises queries and keys in float32; sdpa is on autocast's list and casts them."""
    pack = make_pack(make_examples(), varlen=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = forward(build("qwen3", VARLEN, head_dim=16), **pack.inputs(VARLEN))
        expected = forward(build("qwen3", "sdpa", head_dim=16), **pack.inputs("sdpa"))
    for pair in zip(pack.spans(found.float()), pack.spans(expected.float()), strict=True):
        assert torch.allclose(*pair, atol=2e-2)


def as_documented(with_gqa):
    """`torch.nn.attention.varlen.varlen_attn` in float64, by one mask, with the arguments of torch 2.13 or of 2.11."""

    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
    ):
        assert torch.equal(cu_seq_q, cu_seq_k)
        assert max_q == max_k >= cu_seq_q.diff().max()
        assert enable_gqa or query.shape[1] == key.shape[1]
        groups, total = query.shape[1] // key.shape[1], len(query)
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * (scale or query.shape[-1] ** -0.5)
        place = torch.arange(total)
        example = torch.bucketize(place, cu_seq_q[1:].long(), right=True)
        left, right = window_size
        back = place[:, None] - place
        seen = (example[:, None] == example) & (back >= -right) & ((left < 0) | (back <= left))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, value.double()).to(query.dtype)

    if with_gqa:
        return varlen_attn
    return lambda *args, scale=None, window_size=(-1, -1): varlen_attn(*args, scale=scale, window_size=window_size)


@pytest.mark.parametrize("with_gqa", [True, False], ids=["torch 2.13", "torch 2.11"])
@pytest.mark.parametrize("window", [None, 1, 4], ids=["all", "itself", "four"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_kernel_is_asked_for_what_the_reference_computes(with_gqa, window, scaling, monkeypatch):
    kernel = as_documented(with_gqa)
    monkeypatch.setattr(varlen_attention, "varlen_attn", kernel)
    monkeypatch.setattr(varlen_attention, "_HAS_GROUPS", with_gqa)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(20, heads, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    starts = torch.tensor([0, 7, 8, 20], dtype=torch.int32)
    arguments = (query, key, value, starts, 12, scaling, window)
    found, expected = varlen_attention._kernel(*arguments), varlen_attention._reference(*arguments)
    assert torch.allclose(found.float(), expected.float(), atol=2e-2)


def test_a_layer_is_traced_whole(monkeypatch):
    """Compiled layer by layer, the kernel stands in the graph, and nothing breaks it; only a GPU can run it."""
    graphs = []
    monkeypatch.setattr(varlen_attention, "_reference", varlen_attention._kernel)
    model, pack = build("llama", VARLEN).to(torch.bfloat16), make_pack(make_examples(), varlen=True)
    layer = model.model.layers[0]
    layer.compile(fullgraph=True, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
        model(**pack.inputs(VARLEN))
    assert "varlen_attn" in graphs[0].code


@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("qwen2", {})], ids=["llama", "qwen2"])
def test_layers_share_one_compiled_graph(model_type, changes, monkeypatch):
    """A layer's number must not be read while compiling: deep models would run into the compiler's limit."""
    torch.compiler.reset()
    graphs = []
    monkeypatch.setattr(varlen_attention, "_reference", lambda query, *rest: query)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = build(model_type, VARLEN, num_hidden_layers=4, **changes)
    for layer in model.model.layers:
        layer.compile(fullgraph=True, backend=backend)
    forward(model, **make_pack(make_examples(), varlen=True).inputs(VARLEN))
    assert len(graphs) == 1


def test_inputs_of_other_attentions():
    pack = make_pack(make_examples(), varlen=True)
    assert set(model_inputs(pack.batch, "sdpa")) == {"input_ids", "position_ids"}
    padded = {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2), "labels": torch.ones(1, 2)}
    for attention in ("sdpa", VARLEN):
        assert set(model_inputs(padded, attention)) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("gemma2", {"head_dim": 16, **WINDOW}, "soft-capped scores"),
        ("gpt_oss", {"head_dim": 16}, "attention sinks"),
        ("llama", {"attention_dropout": 0.1}, "attention dropout"),
        ("llama4_text", {"attention_chunk_size": 8}, "chunked_attention"),
        ("deepseek_v3", {"num_key_value_heads": 4, "first_k_dense_replace": 2}, "values of another width"),
    ],
)
def test_a_packed_call_that_the_kernel_cannot_serve(model_type, changes, why):
    model, pack = build(model_type, VARLEN, **changes), make_pack(make_examples(), varlen=True)
    with pytest.raises(ConfigError, match=rf"{why}.*attn_implementation=sdpa"):
        model.train()(**pack.inputs(VARLEN))


def test_starts_that_a_model_loses_on_the_way_are_missed(monkeypatch):
    model, pack = build("llama", VARLEN), make_pack(make_examples(), varlen=True)
    layer = model.model.layers[0].self_attn
    attend = layer.forward
    monkeypatch.setattr(
        layer,
        "forward",
        lambda hidden_states, position_embeddings, attention_mask, **kwargs: attend(
            hidden_states, position_embeddings, attention_mask
        ),
    )
    with pytest.raises(ConfigError, match="does not pass on where packed examples begin"):
        model(**pack.inputs(VARLEN))


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def config_of(model_type, **changes):
    return AutoConfig.for_model(model_type, **{**SHAPE, **changes})


def test_runs_in_half_precision_on_a_recent_gpu(ampere):
    for dtype in (torch.bfloat16, torch.float16):
        check_varlen(config_of("llama"), CUDA, dtype)


@pytest.mark.parametrize(
    ("config", "device", "dtype", "why"),
    [
        (config_of("llama"), torch.device("cpu"), torch.bfloat16, "needs a CUDA device; the model is on 'cpu'"),
        (config_of("llama"), CUDA, torch.float32, r"not in torch.float32. Set trainer.precision=bf16-mixed"),
        (config_of("falcon"), CUDA, torch.bfloat16, "'falcon' take no other attention"),
        (config_of("llama", attention_dropout=0.1), CUDA, torch.bfloat16, "asks for 0.1. Set model.config.attention_"),
    ],
    ids=["cpu", "float32", "own attention", "dropout"],
)
def test_refused_before_building(config, device, dtype, why, ampere):
    with pytest.raises(ConfigError, match=why) as refusal:
        check_varlen(config, device, dtype)
    assert "Use model.attn_implementation=sdpa" in str(refusal.value)


def test_an_older_gpu_or_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match=r"compute capability 8\.0"):
        check_varlen(config_of("llama"), CUDA, torch.float16)
    monkeypatch.setattr(varlen_attention, "_HAS_WINDOW", False)
    with pytest.raises(ConfigError, match=r"torch 2\.11 or later"):
        check_varlen(config_of("llama"), CUDA, torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("mistral", WINDOW)], ids=["llama", "mistral"])
def test_the_kernel_itself(model_type, changes):
    model = build(model_type, VARLEN, head_dim=64, **changes).to("cuda", torch.bfloat16)
    reference = build(model_type, "eager", head_dim=64, **changes).to("cuda", torch.bfloat16)
    pack = make_pack(make_examples(), varlen=True)
    pack.batch = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in pack.batch.items()}
    found = pack.spans(forward(model, **pack.inputs(VARLEN)))
    for logits, (_, _, ids) in zip(found, pack.examples, strict=True):
        assert torch.allclose(logits, forward(reference, input_ids=ids[None].cuda())[0], atol=2e-2)
