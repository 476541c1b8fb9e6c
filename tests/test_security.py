"""Artifacts, models, tokenizers and checkpoints that would run code, or reach out of their folder, if they could.

Each attack has a canary that it would leave behind. Where it is cheap to show, the unprotected call of the library is
made too, and does leave it.
"""

from __future__ import annotations

import ast
import importlib.resources
import json
import os
import pickle
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import lightning
import pytest
import torch
import yaml
from hydra.utils import instantiate
from packaging.requirements import Requirement
from packaging.version import Version
from peft import LoraConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)

from ftframe.api import Message
from ftframe.data import chat_jinja
from ftframe.data.prompt_templates import TokenizerTemplate
from ftframe.errors import ConfigError, DataError, FtframeError
from ftframe.installation import KNOWN_BAD
from ftframe.models.adapter import attach_adapter, load_adapter, save_adapter
from ftframe.models.artifact import load_artifact, load_artifact_tokenizer, open_artifact
from ftframe.models.base import BaseSpec, _kernels, build_base_model, load_config, load_tokenizer, resolve_path
from ftframe.models.base_fingerprint import fingerprint_base
from ftframe.models.module import CausalLMModule
from ftframe.models.random_init import random_model
from ftframe.models.record import Record, read_record, write_record
from ftframe.models.sealed_folder import digests
from ftframe.tasks.evaluate import data_of_run, seed_of_run

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = "pkg://ftframe.embedded/tiny"
SHAPE = LlamaConfig(
    vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=64,
)  # fmt: skip


class Attack:
    """What becomes of an attack: the unprotected call leaves a trace at `would`, ours none at `canary`."""

    def __init__(self, folder: Path) -> None:
        """Choose the two places."""
        self.canary, self.would = folder / "canary", folder / "would"

    def code(self, *, unprotected: bool = False) -> str:
        """Python that leaves the trace."""
        return f"import os\nos.mkdir({str(self.would if unprotected else self.canary)!r})\n"


class Leaves:
    """Unpickling it leaves a trace."""

    def __init__(self, place: Path) -> None:
        """Where."""
        self.place = place

    def __reduce__(self) -> Any:
        """The call that unpickling makes."""
        return os.mkdir, (str(self.place),)


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Attack]:
    """An attack, which must have failed when the test ends."""
    attack = Attack(tmp_path)
    yield attack
    assert not attack.canary.exists()


def base() -> Any:
    return random_model(SHAPE, dtype=torch.float32, quantization_config=None, device=CPU)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in `base`, an adapter of it in `adapter`; tests change copies."""
    root = tmp_path_factory.mktemp("made")
    base().save_pretrained(root / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    save_adapter(attach_adapter(base(), config, base_path=str(root / "base"), in_float32=True), root / "adapter")
    shutil.copytree(resolve_path(TINY), root / "tokenizer")
    (root / "tokenizer" / "model.safetensors").unlink()
    return root


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def edit(path: Path, /, **changes: Any) -> dict[str, Any]:
    """Change keys of a JSON file."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    return content


# Pickles


@pytest.mark.parametrize("beside", [False, True], ids=["in place of the weights", "beside the weights"])
def test_pickle_in_an_adapter(beside: bool, folders: Path, attack: Attack) -> None:
    adapter = folders / "adapter"
    torch.save({"x": Leaves(attack.canary)}, adapter / "adapter_model.bin")
    if not beside:
        (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"adapter_model\.bin is a pickle, which can run code when it is loaded"):
        load_adapter(base(), adapter)
    write_record(Record("adapter", {"path": "x"}, "float32", None, {"name": "plain"}, files=digests(adapter)), adapter)
    with pytest.raises(ConfigError, match=r"adapter_model\.bin is a pickle"):
        open_artifact(str(adapter))
    torch.save({"x": Leaves(attack.would)}, adapter / "other.bin")
    torch.load(adapter / "other.bin", weights_only=False)
    assert attack.would.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"], ids=["a pickle", "named safetensors"])
def test_pickle_as_the_weights_of_a_base(name: str, folders: Path, attack: Attack) -> None:
    (folders / "base" / "model.safetensors").unlink()
    torch.save({"x": Leaves(attack.canary)}, folders / "base" / name)
    spec = BaseSpec(str(folders / "base"))
    if name == "pytorch_model.bin":
        with pytest.raises(ConfigError, match=r"holds pytorch_model\.bin and no safetensors\. It is a pickle"):
            build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU)
    with pytest.raises(ConfigError, match=r"It is a pickle|is no safetensors file"):
        fingerprint_base(spec, dtype=torch.float32, device_type="cpu")


def trainable(device: torch.device) -> Any:
    return attach_adapter(base(), LoraConfig(r=2, target_modules=["q_proj"]), base_path="x", in_float32=True)


def resume(path: Path) -> lightning.Trainer:
    """Go on from a checkpoint as `ftframe fit ckpt_path=...` does."""
    module = CausalLMModule(trainable, partial(torch.optim.AdamW, lr=1e-3))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=path.parent, enable_checkpointing=False, **quiet
    )
    rows = torch.arange(8)[None]
    batch = {"input_ids": rows, "labels": rows, "attention_mask": torch.ones_like(rows), "supervised_tokens": 7}
    trainer.fit(
        module, DataLoader([{**batch, "tokens": 8}], batch_size=None),
        ckpt_path=path if path.exists() else None, weights_only=True,
    )  # fmt: skip
    return trainer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of one epoch."""
    path = tmp_path / "last.ckpt"
    resume(path).save_checkpoint(path)
    return path


def test_pickle_in_a_checkpoint(checkpoint: Path, attack: Attack) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "extra": Leaves(attack.canary)}, checkpoint)
    with pytest.raises((pickle.UnpicklingError, FtframeError), match=r"(?s)mkdir|damaged|refused"):
        resume(checkpoint)
    torch.save({**content, "extra": Leaves(attack.would)}, checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert attack.would.exists()


def test_object_in_the_hyperparameters_of_a_checkpoint(checkpoint: Path, attack: Attack) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "hyper_parameters": {"model": Leaves(attack.canary)}}, checkpoint)
    with pytest.raises((pickle.UnpicklingError, FtframeError), match=r"(?s)mkdir|damaged|refused"):
        resume(checkpoint)


def test_target_in_the_hyperparameters_of_a_checkpoint_is_never_called(checkpoint: Path, attack: Attack) -> None:
    """Nothing reads them: the run is built from the user's config alone."""
    content = torch.load(checkpoint, weights_only=True)
    target = {"_target_": "os.mkdir", "path": str(attack.canary)}
    hyper = {"optimizer": target, "_instantiator": "os.mkdir", "_class_path": str(attack.canary), **target}
    torch.save({**content, "hyper_parameters": hyper, "hparams_name": "kwargs"}, checkpoint)
    assert resume(checkpoint).global_step == 2
    instantiate({**target, "path": str(attack.would)})
    assert attack.would.exists()


# What an adapter says about itself


def test_target_in_an_adapter_config(folders: Path, attack: Attack) -> None:
    target = {"_target_": "os.mkdir", "path": str(attack.canary)}
    for change in (target, {"lora_config": target}, {"target_modules": target}, {"eva_config": target}):
        adapter = Path(shutil.copytree(folders / "adapter", folders / str(len(list(folders.iterdir())))))
        edit(adapter / "adapter_config.json", **change)
        with pytest.raises(FtframeError, match=r"adapter_config\.json is refused: "):
            load_adapter(base(), adapter)
    instantiate({**target, "path": str(attack.would)})
    assert attack.would.exists()


def test_module_that_an_adapter_names(folders: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT imports what `megatron_core` names, anything within a package of the name `megatron`."""
    (folders / "megatron").mkdir()
    (folders / "megatron" / "ours.py").write_text(attack.code())
    (folders / "megatron" / "library.py").write_text(attack.code(unprotected=True))
    monkeypatch.syspath_prepend(str(folders))
    path = folders / "adapter" / "adapter_config.json"
    edit(path, megatron_config={"x": 1}, megatron_core="megatron.ours")
    with pytest.raises(FtframeError, match="it sets megatron_config, by which an adapter would load code"):
        load_adapter(base(), folders / "adapter")
    edit(path, megatron_core="megatron.library")
    with pytest.raises(Exception):  # noqa: B017 (whatever comes of a module that is not Megatron)
        PeftModel.from_pretrained(base(), str(folders / "adapter"))
    assert attack.would.exists()


def test_package_that_an_artifact_names(folders: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("evil_base", "evil_other"):
        (folders / name / "model").mkdir(parents=True)
        (folders / name / "__init__.py").write_text(attack.code(unprotected=name == "evil_other"))
    monkeypatch.syspath_prepend(str(folders))
    assert resolve_path("pkg://evil_base/model") == str((folders / "evil_base" / "model").resolve())
    assert "evil_base" not in sys.modules
    with pytest.raises(ConfigError, match=r"pkg://evil_base/\.\./base leads out of the package 'evil_base'"):
        resolve_path("pkg://evil_base/../base")
    importlib.resources.files("evil_other")
    assert attack.would.exists()


# Code that a model or a tokenizer brings


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of models is cached apart from the user's."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for kind in (LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast):  # which transformers marks as custom code
        monkeypatch.setattr(kind, "_auto_class", None)


def bring_code(folder: Path, attack: Attack, *, model_type: str, unprotected: bool = False) -> None:
    """Have a model's folder name a module of its own for everything."""
    names = {"AutoConfig": "own_code.C", "AutoModelForCausalLM": "own_code.M", "AutoTokenizer": ["own_code.T"] * 2}
    edit(folder / "config.json", model_type=model_type, auto_map=names)
    classes = "from transformers import LlamaConfig as C, LlamaForCausalLM as M, PreTrainedTokenizerFast as T\n"
    (folder / "own_code.py").write_text(attack.code(unprotected=unprotected) + classes)


@pytest.mark.usefixtures("modules")
def test_code_of_a_model(folders: Path, attack: Attack) -> None:
    folder = folders / "base"
    bring_code(folder, attack, model_type="own")
    spec = BaseSpec(str(folder))
    with pytest.raises(ConfigError, match=r"needs Python code .*say so: model\.trust_remote_code=true"):
        load_config(spec)
    record = Record("adapter", asdict(spec), "float32", None, {"name": "plain"})
    with pytest.raises(ConfigError, match="needs Python code that comes with it"):
        artifact_base = record.base_spec(path=None, trust_remote_code=False)
        load_artifact(folders / "adapter", record, base=artifact_base, device=CPU)
    other = Path(shutil.copytree(folder, folders / "other"))
    bring_code(other, attack, model_type="own", unprotected=True)
    AutoConfig.from_pretrained(other, trust_remote_code=True)
    assert attack.would.exists()


@pytest.mark.usefixtures("modules")
def test_code_of_a_model_that_the_library_knows_is_not_needed(folders: Path, attack: Attack) -> None:
    bring_code(folders / "base", attack, model_type="llama")
    spec = BaseSpec(str(folders / "base"))
    model = build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU)
    assert type(model).__module__.startswith("transformers.models.llama")


@pytest.mark.parametrize("kind", ["base", "model"])
@pytest.mark.parametrize("key", ["_attn_implementation_internal", "_attn_implementation", "attn_implementation"])
def test_kernel_that_the_config_of_a_model_names(key: str, kind: str, folders: Path) -> None:
    """It would be fetched from a hub and run, even where another attention is asked for."""
    edit(folders / "base" / "config.json", **{key: "somebody/kernel"})
    spec = BaseSpec(str(folders / "base"))
    try:
        if kind == "base":
            model = build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU)
        else:
            record = Record("model", {"path": "x"}, "float32", None, {"name": "plain"})
            model = load_artifact(folders / "base", record, base=spec, device=CPU)
    except ConfigError as error:
        assert "names somebody/kernel as its attention: a kernel on a hub, which is code" in str(error)
    else:  # releases of transformers differ in which of the keys they heed
        assert model.config._attn_implementation == "sdpa"


def test_kernel_that_a_config_within_a_config_names() -> None:
    inner = LlamaConfig()
    outer = LlamaConfig()
    outer.text_config = inner
    assert _kernels(outer) == []
    inner._attn_implementation = "somebody/kernel"
    assert _kernels(outer) == ["somebody/kernel"]


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("has_config", [True, False], ids=["beside a model", "alone"])
def test_code_of_a_tokenizer(has_config: bool, folders: Path, attack: Attack) -> None:
    folder = folders / "tokenizer"
    bring_code(folder, attack, model_type="llama")
    if not has_config:
        (folder / "config.json").unlink()
    edit(
        folder / "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["own_code.T", "own_code.T"]}
    )
    for load in (load_artifact_tokenizer, lambda path: load_tokenizer(BaseSpec("x", tokenizer=str(path)))):
        with pytest.raises(ConfigError, match="needs Python code that comes with it"):
            load(folder)
    other = Path(shutil.copytree(folder, folders / "other"))
    (other / "own_code.py").write_text((other / "own_code.py").read_text().replace("canary", "would"))
    AutoTokenizer.from_pretrained(other, trust_remote_code=True)
    assert attack.would.exists()


# Chat templates

EACH = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
ESCAPES = {
    "globals of a class": "{{ cycler.__init__.__globals__.os.mkdir('PLACE') }}",
    "globals of a function": "{{ lipsum.__globals__['os'].mkdir('PLACE') }}",
    "attr": "{{ (lipsum | attr('__globals__'))['os'].mkdir('PLACE') }}",
    "item for attribute": "{{ lipsum['__globals__']['os'].mkdir('PLACE') }}",
    "spelt otherwise": "{{ lipsum['__glo' ~ 'bals__']['os'].mkdir('PLACE') }}",
    "namespace": "{{ namespace.__init__.__globals__['sys'].modules['os'].mkdir('PLACE') }}",
    "map": "{{ ([lipsum] | map(attribute='__globals__') | first)['os'].mkdir('PLACE') }}",
    "joiner": "{{ joiner.__init__.__globals__.os.mkdir('PLACE') }}",
    "self": "{{ self._TemplateReference__context.environment.loader.x.mkdir('PLACE') }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "format of a filter": "{{ ('{0.__class__.__init__.__globals__}' | attr('format'))(messages) }}",
    "format_map": "{{ '{m.__class__.__init__.__globals__}'.format_map({'m': messages}) }}",
    "helper of the library": "{{ raise_exception.__globals__['jinja2'] }}",
    "code": "{{ raise_exception.__code__.co_consts.x.y }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.mkdir('PLACE') }}",
    "change": "{{ messages.clear() }}{{ messages.append(1) }}",
    "huge range": "{% for i in range(999999999) %}x{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.fixture
def tokenizer_with(folders: Path) -> Any:
    """Writes a chat template into a tokenizer's folder, in one of the two places, and gives the folder."""

    def write(jinja: Any, where: str) -> Path:
        folder = Path(shutil.copytree(folders / "tokenizer", folders / f"tokenizer {where}"))
        if where == "chat_template.jinja":
            (folder / where).write_text(jinja)
        else:
            edit(folder / where, chat_template=jinja)
        return folder

    return write


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_escape_from_a_chat_template(escape: str, where: str, tokenizer_with: Any, attack: Attack) -> None:
    folder = tokenizer_with(escape.replace("PLACE", str(attack.canary)) + EACH, where)
    with pytest.raises((DataError, ConfigError), match=r"^The chat template of .* (refuses the roles|cannot be used)"):
        TokenizerTemplate(load_artifact_tokenizer(folder)).render([Message("user", "a"), Message("assistant", "b")])


@pytest.mark.parametrize(
    "name", ["globals of a class", "globals of a function", "attr", "map", "joiner", "spelt otherwise"]
)
def test_the_same_escape_without_the_sandbox(name: str, attack: Attack) -> None:
    jinja2.Environment().from_string(ESCAPES[name].replace("PLACE", str(attack.would))).render(messages=[])
    assert attack.would.exists()


def test_chat_template_of_before_the_escapes_is_taken(tokenizer_with: Any) -> None:
    """What refuses is the escape, and not what stands beside it."""
    tokenizer = load_artifact_tokenizer(tokenizer_with(EACH, "chat_template.jinja"))
    segments = TokenizerTemplate(tokenizer).render([Message("user", "a"), Message("assistant", "b")])
    assert [segment.text for segment in segments if segment.supervised] == ["b", "</s>"]


def test_chat_template_without_end(tokenizer_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_jinja, "LONGEST", 0.5)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = TokenizerTemplate(load_artifact_tokenizer(tokenizer_with(loops + EACH, "chat_template.jinja")))
    with pytest.raises(DataError, match=r"refuses the roles user, assistant: it did not end within 0\.5 seconds"):
        template.render([Message("user", "a"), Message("assistant", "b")])


def test_chat_template_of_endless_powers(tokenizer_with: Any) -> None:
    folder = tokenizer_with("{{ 9**9**9**9 }}" + EACH, "chat_template.jinja")
    with pytest.raises(ConfigError, match="cannot be used: it raises numbers to a power"):
        TokenizerTemplate(load_artifact_tokenizer(folder))


# Paths


@pytest.mark.parametrize("name", ["../../canary", "/canary", "a/b", ".."])
def test_chat_template_whose_name_is_a_path(name: str, tokenizer_with: Any, attack: Attack) -> None:
    """The name becomes a file's when the tokenizer is saved into the run folder."""
    name = name.replace("/canary", str(attack.canary)) if name.startswith("/") else name
    named = [{"name": "default", "template": EACH}, {"name": name, "template": "x"}]
    folder = tokenizer_with(named, "tokenizer_config.json")
    for load in (load_artifact_tokenizer, lambda path: load_tokenizer(BaseSpec("x", tokenizer=str(path)))):
        with pytest.raises(ConfigError, match="has a chat template of the name"):
            load(folder)


def test_weights_elsewhere_that_an_index_names(folders: Path) -> None:
    (folders / "base" / "model.safetensors").rename(folders / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../secret.safetensors"}}
    (folders / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    spec = BaseSpec(str(folders / "base"))
    for load in (
        partial(fingerprint_base, spec, dtype=torch.float32, device_type="cpu"),
        partial(build_base_model, spec, dtype=torch.float32, quantization_config=None, device=CPU),
    ):
        with pytest.raises(ConfigError, match=r"names '\.\./secret\.safetensors': only safetensors files beside it"):
            load()


def test_weights_elsewhere_that_a_config_names(folders: Path) -> None:
    edit(folders / "base" / "config.json", transformers_weights="../secret.safetensors")
    with pytest.raises(ConfigError, match="names its weights by `transformers_weights`, which is not followed"):
        load_config(BaseSpec(str(folders / "base")))


@pytest.mark.parametrize("key", ["vocab_file", "merges_file", "tokenizer_file"])
def test_files_elsewhere_that_a_tokenizer_names(key: str, folders: Path) -> None:
    edit(folders / "tokenizer" / "tokenizer_config.json", **{key: "../../etc/passwd"})
    with pytest.raises(ConfigError, match=rf"has {key}='\.\./\.\./etc/passwd': files outside of the folder"):
        load_artifact_tokenizer(folders / "tokenizer")


def test_files_elsewhere_that_a_record_lists(folders: Path) -> None:
    files = {"../base/model.safetensors": "0" * 64}
    write_record(Record("adapter", {"path": "x"}, "float32", None, {"name": "plain"}, files=files), folders / "adapter")
    with pytest.raises(ConfigError, match=r"ftframe\.json is damaged: files="):
        read_record(folders / "adapter")


# The config of somebody else's run folder


def write_run(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder


def test_object_in_the_config_of_a_run(tmp_path: Path, attack: Attack) -> None:
    tag = "!!python/object/apply:os.mkdir"
    run = write_run(tmp_path, f"data: {tag} [{attack.canary}]\nseed: 0\n")
    for read in (data_of_run, partial(seed_of_run, default=0)):
        with pytest.raises(ConfigError, match=r"config\.yaml is damaged: could not determine a constructor"):
            read(run)
    yaml.unsafe_load(f"{tag} [{attack.would}]")
    assert attack.would.exists()


@pytest.mark.parametrize("text", ["", "[]", "data: 3\nseed: 0", "data: {}\nseed: x", "data: {}", "a: b: c", "\x00"])
def test_damaged_config_of_a_run(text: str, tmp_path: Path) -> None:
    for read in (data_of_run, partial(seed_of_run, default=0)):
        with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
            read(write_run(tmp_path, text))


def test_reference_to_the_environment_in_the_config_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, 'data: {dataset: {name: table, path: "https://h/${oc.env:HF_TOKEN}"}}\nseed: 0')
    with pytest.raises(ConfigError, match="data holds a reference"):
        data_of_run(run)


def test_cache_that_the_config_of_a_run_names(tmp_path: Path) -> None:
    run = write_run(tmp_path, "data: {dataset: {name: people}, cache_dir: /somewhere}\nseed: 0")
    assert data_of_run(run).cache_dir is None


# Everywhere


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Every call in ftframe: where, of what, and with which constant keywords."""
    for path in sorted((ROOT / "ftframe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), keywords


FORBIDDEN = re.compile(
    r"^(eval|exec|__import__|.*\bos\.(system|popen)|(cloud)?pickle\.loads?|dill\.loads?|joblib\.load|shelve\.open"
    r"|marshal\.loads?|yaml\.(load|unsafe_load|full_load)|.*\.load_from_checkpoint|pd\.read_pickle)$"
)


def test_nothing_that_is_read_is_run() -> None:
    found = list(calls())
    assert len(found) > 1000
    assert [call for call in found if FORBIDDEN.match(call[1])] == []
    loads = [call for call in found if call[1] in ("torch.load", "trainer.fit")]
    assert loads
    for where, _, keywords in loads:
        assert any(keyword.startswith("weights_only=True") for keyword in keywords), where
    for where, _, keywords in (call for call in found if call[1] == "np.load"):
        assert not any(keyword.startswith("allow_pickle") for keyword in keywords), where
    models = [call for call in found if re.fullmatch(r"Auto\w+\.from_(pretrained|config)", call[1])]
    assert len(models) >= 5
    for where, _, keywords in models:
        assert any(keyword.startswith("trust_remote_code=") for keyword in keywords), where
    for where, name, keywords in models:
        if name == "AutoModelForCausalLM.from_pretrained":
            assert "use_safetensors=True" in keywords, where


FLOORS = {
    "lightning": "2.6.6",  # 2.6.2 and 2.6.3 were malware; CVE-2026-58659
    "transformers": "5.5",  # CVE-2026-4372, CVE-2026-5241
    "torch": "2.10",  # CVE-2026-24747
    "hydra-core": "1.3.6",  # GHSA-37p2
    "jinja2": "3.1.6",  # CVE-2025-27516
}


def test_floors_of_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    for name, floor in FLOORS.items():
        lowest = [Version(part.version) for part in needed[name] if part.operator == ">="]
        assert lowest, name
        assert lowest[0] >= Version(floor), name
    for name, bad, _ in KNOWN_BAD:
        named = [part.version for part in Requirement(f"{name}{bad}").specifier if part.operator == "=="]
        assert not any(needed[name].contains(version) for version in named), name
    pinned = dict(
        line.strip().lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
        and not line.startswith("#")
    )  # fmt: skip
    for name, specifier in needed.items():
        assert specifier.contains(pinned[name.lower()]), name


def test_tests_that_security_md_names_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", text)
    assert len(named) >= 10
    for file, test in named:
        content = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in content, f"{file}::{test}"
