"""What an adapter may say about itself."""

import json

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.errors import ConfigError, FtframeError
from ftframe.models.adapter import check_adapter
from ftframe.models.adapter_config import FIXED, KINDS, find_trouble, read_adapter_config

CONFIGS = {
    "lora": peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", rank_pattern={"q_proj": 2}),
    "dora": peft.LoraConfig(use_dora=True, target_modules="all-linear"),
    "pissa": peft.LoraConfig(init_lora_weights="pissa", layers_to_transform=[0, 1], target_modules=["v_proj"]),
    "ia3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    "loha": peft.LoHaConfig(),
    "lokr": peft.LoKrConfig(),
    "oft": peft.OFTConfig(),
    "hra": peft.HRAConfig(),
    "vera": peft.VeraConfig(),
    "adalora": peft.AdaLoraConfig(total_step=10),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_peft_saves_is_read_back(config, tmp_path):
    config.save_pretrained(tmp_path)
    read = read_adapter_config(tmp_path)
    assert read.inference_mode is True
    assert {**read.to_dict(), "inference_mode": False} == config.to_dict()
    assert find_trouble(config.to_dict()) == ""


def test_every_field_that_does_more_than_describe_is_kept_out():
    """A new release of PEFT with a new kind of field is noticed here."""
    plain = {"int", "float", "bool", "str", "None", "NoneType", "list", "dict", "Optional", "Union", "Literal"}
    known = {"PeftType", "TaskType"}
    for kind in KINDS:
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
        for name, field in config.__dataclass_fields__.items():
            words = set("".join(c if c.isalnum() or c == "_" else " " for c in str(field.type)).split())
            types = {word for word in words if word[0].isupper()} - plain - known
            assert not types or name in FIXED, f"{kind}.{name}: {field.type}"


REFUSED = {
    "target": ({"_target_": "os.system"}, "it has the unknown key '_target_'."),
    "typo": ({"lora_alfa": 3}, "it has the unknown key 'lora_alfa'. Did you mean 'lora_alpha'?"),
    "mapping": ({"auto_mapping": {"parent_library": "evil"}}, "it sets auto_mapping, by which an adapter would load"),
    "megatron": ({"megatron_config": {"x": 1}, "megatron_core": "evil"}, "it sets megatron_config"),
    "megatron core": ({"megatron_core": "evil"}, "it sets megatron_core"),
    "corda": ({"corda_config": {"covariance_file": "/x"}}, "it sets corda_config"),
    "eva": ({"eva_config": {"rho": 1.0}}, "it sets eva_config"),
    "loftq": ({"loftq_config": {"loftq_bits": 4}}, "it sets loftq_config"),
    "replication": ({"layer_replication": [[0, 2]]}, "it sets layer_replication"),
    "runtime": ({"runtime_config": {"ephemeral_gpu_offload": True}}, "it sets runtime_config"),
    "init": ({"init_lora_weights": "corda"}, "init_lora_weights='corda': True, False, gaussian, orthogonal, olora"),
    "init, random": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
    "rank": ({"r": [1]}, "r=[1]: a text, a number, true, false or null is needed."),
    "modules": ({"target_modules": {"a": 1}}, "target_modules={'a': 1}: a text, a list of texts or null is needed."),
    "pattern": ({"rank_pattern": {"a": "b"}}, "rank_pattern={'a': 'b'}: null, or a number for each name is needed."),
    "task": ({"task_type": "SEQ_CLS"}, "task_type='SEQ_CLS': CAUSAL_LM or null is needed."),
    "kind": ({"peft_type": "PROMPT_TUNING"}, "peft_type='PROMPT_TUNING' is none of the kinds"),
    "no kind": ({"peft_type": None}, "peft_type=None is none of the kinds"),
    "custom": ({"_custom_modules": {"a": "b"}}, "it has the unknown key '_custom_modules'."),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_an_adapter_has_no_say_in_is_refused(change, message, tmp_path):
    peft.LoraConfig(target_modules=["q_proj"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FtframeError) as caught:
        read_adapter_config(tmp_path)
    assert str(caught.value).startswith(f"{path} is refused: {message}")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"'])
def test_damaged_config_is_refused(text, tmp_path):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(FtframeError, match=r"adapter_config\.json is (damaged|refused: it is no JSON object)"):
        read_adapter_config(tmp_path)


def test_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no adapter_config\.json, so it is not an adapter\.$"):
        read_adapter_config(tmp_path)


def test_what_would_not_be_loaded_again_is_not_trained():
    config = peft.LoraConfig(init_lora_weights="eva", target_modules=["q_proj"])
    with pytest.raises(ConfigError, match=r"^peft: (it sets eva_config|init_lora_weights='eva')"):
        check_adapter(config, None, on_gpu=False)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
NAMES = st.sampled_from([*peft.LoraConfig.__dataclass_fields__, "_target_", "x"])


@given(st.one_of(JSON, st.dictionaries(NAMES, JSON).map(lambda fields: {"peft_type": "LORA", **fields})))
def test_anything_is_taken_or_refused_with_a_reason(content):
    trouble = find_trouble(content)
    assert isinstance(trouble, str)
    if not trouble:
        for name in FIXED:
            assert not content.get(name) or content[name] == "megatron.core"
