"""Every file under `conf/`, composed; and what `check` refuses."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ftframe import compose
from ftframe.assembly import check_cell, check_nodes
from ftframe.choices import precision_of
from ftframe.config_folders import BUILT_IN
from ftframe.errors import ConfigError
from ftframe.runs import FolderTakenError, new_run_folder
from ftframe.schema import SCHEMAS

CONF = Path(str(files(BUILT_IN)))
GROUPS = compose.groups()
NEEDED = {
    **dict.fromkeys(("csv", "jsonl", "table", "text"), ("data.dataset.path=somewhere",)),
    "local": ("data.dataset.name=table", "+data.dataset.path=somewhere"),
}
QUANT = ("none", "4bit", "8bit")
LAUNCHERS = ("local", "ray", "submitit_local", "submitit_slurm")
"""Each has a test in tests/sweep."""


@pytest.fixture(autouse=True)
def initialized() -> Iterator[None]:
    """Hydra, pointed at the package's configuration and taken back afterwards."""
    compose._register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(BUILT_IN, version_base="1.3"):
        yield


def composed(command: str, *overrides: str) -> DictConfig:
    return hydra.compose(command, overrides=list(overrides))


def checked(command: str, *overrides: str) -> DictConfig:
    return compose.check(composed(command, *overrides))


def cells() -> list[tuple[str, tuple[str, ...]]]:
    """Each command alone, and with each option of each group it has."""
    found: list[tuple[str, tuple[str, ...]]] = [
        ("fit", ()),
        ("preview", ()),
        ("evaluate", ("run=somewhere",)),
        ("predict", ("run=somewhere",)),
    ]
    for group, options in GROUPS.items():
        for option in options:
            more = NEEDED.get(option, ()) if group == "data" else ()
            if (group, option) == ("quant", "none"):
                more = ("peft=lora",)
            if (group, option) == ("peft", "none"):
                more = ("quant=none",)
            found.append(("fit", (f"{group}={option}", *more)))
            if group in ("data", "metrics", "trainer"):
                found.append(("evaluate", ("run=somewhere", f"{group}={option}", *more)))
    return found


CELLS = cells()


def test_every_file_is_covered() -> None:
    """The table below is built from `groups()`: it must have found every file on disk."""
    on_disk = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml")}
    options = {f"{group}/{option}" for group, names in GROUPS.items() for option in names}
    of_sweeps = {f"hydra/launcher/{name}" for name in LAUNCHERS} | {"hydra/sweeper/grid", "hydra/sweeper/optuna"}
    assert on_disk == options | of_sweeps | {*SCHEMAS, "hydra_settings", "training"}
    assert len(options) >= 34
    evaluated = sum(len(GROUPS[group]) for group in ("data", "metrics", "trainer"))
    assert len(CELLS) == 4 + len(options) + evaluated


@pytest.mark.parametrize(("command", "overrides"), CELLS, ids=[f"{c} {' '.join(o)}".strip() for c, o in CELLS])
def test_it_composes_and_its_libraries_take_it(command: str, overrides: tuple[str, ...]) -> None:
    cfg = checked(command, *overrides)
    assert cfg.command == command
    assert not OmegaConf.missing_keys(cfg)
    assert re.fullmatch(rf"outputs/{command}/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z]{{4}}", cfg.output_dir)
    if command == "fit":
        compose.check_names(cfg)
        check_nodes(cfg)
        check_cell(cfg, precision_of(cfg))


TYPOS = {
    "top": ("fit", ("+modle=x",), "Unknown key 'modle'. Did you mean 'model'?"),
    "model": ("fit", ("+model.pathh=x",), "Unknown key 'model.pathh'. Did you mean 'path'?"),
    "data": ("fit", ("+data.max_lenght=9",), "Unknown key 'data.max_lenght'. Did you mean 'max_length'?"),
    "scheduler": ("fit", ("+scheduler.warmup=0",), "Unknown key 'scheduler.warmup'. Did you mean 'warmup_ratio'?"),
    "checkpoint": (
        "fit",
        ("+checkpoint.every_n_step=1",),
        "Unknown key 'checkpoint.every_n_step'. Did you mean 'every_n_steps'?",
    ),
    "evaluate": ("evaluate", ("run=x", "+batch_siez=1"), "Unknown key 'batch_siez'. Did you mean 'batch_size'?"),
    "evaluate, key of fit": ("evaluate", ("run=x", "+baseline=true"), "Unknown key 'baseline'."),
    "predict": ("predict", ("run=x", "+promt=hello"), "Unknown key 'promt'. Did you mean 'prompt'?"),
}


@pytest.mark.parametrize(("command", "overrides", "first"), TYPOS.values(), ids=TYPOS)
def test_check_refuses_typos(command: str, overrides: tuple[str, ...], first: str) -> None:
    cfg = composed(command, *overrides)
    with pytest.raises(ConfigError) as caught:
        compose.check(cfg)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(first)
    assert lines[1].startswith("Allowed: ")
    assert len(lines) == 2


WRONG_VALUES = {
    "int": (("data.max_length=abc",), "data.max_length: Value 'abc'"),
    "float": (("scheduler.warmup_ratio=much",), "scheduler.warmup_ratio: Value 'much'"),
    "bool": (("baseline=maybe",), "baseline: Value 'maybe' is not a valid bool"),
    "enum": (("data.on_too_long=cut",), "data.on_too_long: Invalid value 'cut'"),
    "list": (("checkpoint.every_n_steps=[1]",), "checkpoint.every_n_steps: "),
    "null": (("data.batch_size=null",), "data.batch_size: "),
}


@pytest.mark.parametrize(("overrides", "beginning"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_check_or_hydra_refuses_wrong_values(overrides: tuple[str, ...], beginning: str) -> None:
    """The schema may refuse at once, while Hydra composes, or in `check`."""
    try:
        cfg = composed("fit", *overrides)
    except HydraException as error:
        assert str(error.__cause__).startswith(beginning.partition(": ")[2])
        return
    with pytest.raises(ConfigError) as caught:
        compose.check(cfg)
    assert str(caught.value).startswith(beginning)


FORBIDDEN = {
    "os.system": ({"logger": {"_target_": "os.system", "command": "true"}}, "logger._target_=os.system"),
    "builtins.eval": ({"optim": {"_target_": "builtins.eval"}}, "optim._target_=builtins.eval"),
    "pickle": ({"quant": {"_target_": "pickle.loads"}}, "quant._target_=pickle.loads"),
    "look-alike package": ({"peft": {"_target_": "peftevil.Config"}}, "peft._target_=peftevil.Config"),
    "torch, not its optimizers": ({"optim": {"_target_": "torch.load"}}, "optim._target_=torch.load"),
    "callback": ({"callbacks": {"x": {"_target_": "subprocess.run"}}}, "callbacks.x._target_=subprocess.run"),
    "nested in a node": (
        {"peft": {"rank_pattern": {"a": {"_target_": "os.system"}}}},
        "peft.rank_pattern.a._target_=os.system",
    ),
    "nested in lists": (
        {"trainer": {"plugins": [{"a": 1}, [{"_target_": "os.system"}]]}},
        "trainer.plugins[1][0]._target_=os.system",
    ),
    "in a dataset": (
        {"data": {"dataset": {"columns": {"_target_": "os.system"}}}},
        "data.dataset.columns._target_=os.system",
    ),
    "in a metric": ({"metrics": [{"name": "a", "b": {"_target_": "os.system"}}]}, "metrics[0].b._target_=os.system"),
}


@pytest.mark.parametrize(("change", "beginning"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_check_refuses_forbidden_targets(change: dict[str, Any], beginning: str) -> None:
    cfg = composed("fit")
    OmegaConf.set_struct(cfg, False)
    cfg = OmegaConf.merge(cfg, change)
    with pytest.raises(ConfigError) as caught:
        compose.check(cfg)  # type: ignore[arg-type]
    assert str(caught.value).startswith(
        f"{beginning} is not allowed: a config may only build objects from torch.optim,"
    )


def test_target_by_interpolation_is_refused_too() -> None:
    cfg = composed("fit", "logger._target_=${model.revision}", "model.revision=os.system")
    with pytest.raises(ConfigError, match=r"^logger\._target_=os\.system is not allowed"):
        compose.check(cfg)


MISSING = {
    "dataset path": ("fit", ("data=jsonl",), "data.dataset.path"),
    "text path": ("fit", ("data=text",), "data.dataset.path"),
    "evaluate": ("evaluate", (), "run"),
    "predict": ("predict", (), "run"),
}


@pytest.mark.parametrize(("command", "overrides", "key"), MISSING.values(), ids=MISSING)
def test_check_names_what_is_missing(command: str, overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(command, *overrides)
    assert str(caught.value) == f"No value for {key}. Set it on the command line: {key}=..."


ALLOWED_CELLS = {(p, q) for p in ("lora", "dora") for q in QUANT} | {("qlora", "4bit"), ("qlora", "8bit")}
ALLOWED_CELLS |= {("none", "none")}


@pytest.mark.parametrize("quant", QUANT)
@pytest.mark.parametrize("peft", ["none", "lora", "qlora", "dora"])
def test_peft_and_quant(peft: str, quant: str) -> None:
    cfg = composed("fit", f"peft={peft}", f"quant={quant}")
    if (peft, quant) in ALLOWED_CELLS:
        typed = compose.check(cfg)
        assert (typed.peft is None) == (peft == "none")
        assert bool(typed.peft and typed.peft.get("use_dora")) == (peft == "dora")
        loaded = {k for k in typed.quant or () if k.startswith("load_in_")}
        assert loaded == ({f"load_in_{quant}"} if quant != "none" else set())
        return
    with pytest.raises(ConfigError) as caught:
        compose.check(cfg)
    reason = "peft=qlora is LoRA on a quantised base" if peft == "qlora" else "peft=none trains every weight"
    assert str(caught.value).startswith(reason)


ADAMW, PAGED = "torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW32bit"
SWITCHES = {
    "default": ((), "load_in_4bit", PAGED),
    "qlora": (("peft=qlora",), "load_in_4bit", PAGED),
    "explicit quant wins": (("peft=qlora", "quant=8bit"), "load_in_8bit", PAGED),
    "explicit quant wins, other order": (("quant=8bit", "peft=qlora"), "load_in_8bit", PAGED),
    "explicit optim wins": (("peft=qlora", "optim=adamw"), "load_in_4bit", ADAMW),
    "both win": (("quant=8bit", "optim=adamw", "peft=qlora"), "load_in_8bit", ADAMW),
    "lora": (("peft=lora",), None, ADAMW),
    "lora on 4 bits": (("peft=lora", "quant=4bit"), "load_in_4bit", ADAMW),
    "dora": (("peft=dora",), None, ADAMW),
    "none": (("peft=none",), None, ADAMW),
}


@pytest.mark.parametrize(("overrides", "loaded", "optimizer"), SWITCHES.values(), ids=SWITCHES)
def test_qlora_switches_quant_and_optim(overrides: tuple[str, ...], loaded: str | None, optimizer: str) -> None:
    cfg = checked("fit", *overrides)
    assert cfg.optim._target_ == optimizer
    assert {k for k in cfg.quant or () if k.startswith("load_in_")} == ({loaded} if loaded else set())


QLORA = {
    "quant._target_": "transformers.BitsAndBytesConfig",
    "quant.load_in_4bit": True,
    "quant.bnb_4bit_quant_type": "nf4",
    "quant.bnb_4bit_use_double_quant": True,
    "quant.bnb_4bit_compute_dtype": "bfloat16",
    "peft._target_": "peft.LoraConfig",
    "peft.r": 64,
    "peft.lora_alpha": 16,
    "peft.lora_dropout": 0.1,
    "peft.target_modules": "all-linear",
    "optim._target_": PAGED,
    "optim.lr": 2e-4,
    "data.batch_size": 4,
    "data.group_by_length": True,
    "trainer.gradient_clip_val": 0.3,
    "gradient_checkpointing": True,
    "require_quant": True,
}
RECIPES: dict[str, dict[str, Any]] = {
    "fine_tune_llama_2": {
        **QLORA,
        "model.path": "NousResearch/Llama-2-7b-chat-hf",
        "model.template": "llama2",
        "data.template.name": "llama2",
        "data.dataset.name": "table",
        "data.dataset.format": "llama2_text",
        "data.dataset.path": "mlabonne/guanaco-llama2-1k",
        "optim.weight_decay": 0.001,
        "scheduler.name": "cosine",
        "scheduler.warmup_ratio": 0.03,
        "trainer.max_epochs": 1,
        "trainer.max_steps": -1,
        "trainer.accumulate_grad_batches": 1,
    },
    "mistral_qlora": {
        **QLORA,
        "model.path": "mistralai/Mistral-7B-v0.1",
        "model.template": "mistral",
        "data.template.name": "mistral",
        "data.dataset.name": "table",
        "data.dataset.format": "alpaca",
        "data.dataset.path": "tatsu-lab/alpaca",
        "data.max_length": 512,
        "optim.betas": [0.9, 0.999],
        "optim.weight_decay": 0.0,
        "scheduler.name": "constant_with_warmup",
        "scheduler.warmup_ratio": 0.0,
        "trainer.max_epochs": -1,
        "trainer.max_steps": 10000,
        "trainer.accumulate_grad_batches": 4,  # 4 times data.batch_size: 16 examples a step
    },
}


@pytest.mark.parametrize("experiment", RECIPES)
def test_numbers_of_the_recipe(experiment: str) -> None:
    cfg = checked("fit", f"experiment={experiment}")
    found = {key: OmegaConf.select(cfg, key, throw_on_missing=True) for key in RECIPES[experiment]}
    plain = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in found.items()}
    assert plain == RECIPES[experiment]
    for key, value in RECIPES[experiment].items():
        assert type(plain[key]) is type(value), key  # "2e-4" is a string in YAML 1.1, and 1 is no true


@pytest.mark.parametrize("experiment", RECIPES)
def test_a_number_of_the_recipe_gives_way_to_the_command_line(experiment: str) -> None:
    cfg = checked("fit", f"experiment={experiment}", "peft.r=8", "optim.lr=1e-5", "quant.bnb_4bit_quant_type=fp4")
    assert (cfg.peft.r, cfg.optim.lr, cfg.quant.bnb_4bit_quant_type) == (8, 1e-5, "fp4")


PARAMETERS = {
    "llama2": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "mistral": 7_241_732_096,
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_shape_has_the_published_number_of_parameters(model: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from ftframe.assembly import base_spec
    from ftframe.models.base import load_config

    spec = base_spec(checked("fit", f"model={model}", "model.init=random"))
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(load_config(spec))
    assert sum(p.numel() for p in built.parameters()) == PARAMETERS[model]


def test_every_model_with_a_shape_is_counted() -> None:
    with_shape = {m for m in GROUPS["model"] if checked("fit", f"model={m}").model.config}
    assert with_shape == set(PARAMETERS)


def test_learning_rate_and_template_follow_the_model() -> None:
    for model in GROUPS["model"]:
        cfg = checked("fit", f"model={model}")
        assert cfg.optim.lr == cfg.model.learning_rate, model
        assert cfg.data.template.name == cfg.model.template, model
    assert checked("fit", "model=llama2", "optim.lr=0.5").optim.lr == 0.5
    assert checked("fit", "model=llama2", "data.template.name=chatml").data.template.name == "chatml"


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("fit", "data.batch_size=0", "data.batch_size=0: a number of at least 1"),
        ("fit", "data.eval_batch_size=-1", "data.eval_batch_size=-1: a number of at least 1"),
        ("fit", "trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: a number of at least 1"),
        ("fit", "data.max_length=1", "data.max_length=1: a number of at least 2"),
        ("fit", "data.validation_fraction=2", "data.validation_fraction=2.0: a share"),
        ("fit", "data.num_workers=-1", "data.num_workers=-1: a number of at least 0"),
        ("fit", "checkpoint.every_n_steps=-5", "checkpoint.every_n_steps=-5: a number of at least 0"),
        ("fit", "data.mixing.temperature=0", "data.mixing.temperature=0.0: a number above 0"),
        ("fit", "data.max_bad_fraction=1.5", "data.max_bad_fraction=1.5: a share from 0 to 1"),
        ("fit", "+data.tasks.a={dataset: {name: people}, max_length: 1}", "data.tasks.a.max_length=1: a number of at"),
        ("fit", "+data.tasks.a={dataset: {name: people}, validation_fraction: 2}", "data.tasks.a.validation_fra"),
        ("fit", "activation_budget=0", "activation_budget=0.0: a share above 0 and below 1 is needed"),
        ("fit", "activation_budget=1", "activation_budget=1.0: a share above 0 and below 1 is needed"),
        ("predict", "temperature=-1", "temperature=-1.0: a number of at least 0"),
        ("predict", "top_p=0", "top_p=0.0: a share"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(command, override, message):
    overrides = [override] if command == "fit" else [override, "run=x"]
    with pytest.raises(ConfigError, match=re.escape(message)):
        checked(command, *overrides)


UNREAD = {
    "another setting": ("memory=checkpoint", "memory=checkpoint does without it"),
    "plain word": ("gradient_checkpointing=true", "gradient_checkpointing=true does without it"),
    "no compiler": ("model.compile=false", "model.compile=false does without it"),
}


@pytest.mark.parametrize(("override", "message"), UNREAD.values(), ids=UNREAD)
def test_a_budget_that_nothing_reads_is_refused(override: str, message: str) -> None:
    checked("fit", override)
    with pytest.raises(
        ConfigError, match=rf"^activation_budget=0\.3 is the share that memory=budget keeps, .*{message}"
    ):
        checked("fit", "activation_budget=0.3", override)


@pytest.mark.parametrize("memory", ["auto", "budget"])
def test_a_budget_that_may_be_read_is_kept(memory: str) -> None:
    assert checked("fit", "activation_budget=0.3", f"memory={memory}").activation_budget == 0.3


class StoppedClock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> StoppedClock:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


def run_that_makes_a_folder(start: Any) -> None:
    """What one process does; its exit code is 0, or 1 with a traceback."""
    cfg = OmegaConf.create({"command": "predict", "run": "x", "output_dir": "outputs/${ftframe.run_id:}"})

    def write_whose(typed: Any) -> None:
        with new_run_folder(typed.output_dir) as folder:
            (folder / "whose").touch(exist_ok=False)

    start.wait()
    compose._run_in_own_folder(write_whose, cfg)


def test_runs_that_draw_one_name_in_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ftframe.runs.datetime", StoppedClock)
    monkeypatch.setattr("ftframe.runs.string", SimpleNamespace(ascii_lowercase="abc"))  # 81 names in all
    processes = multiprocessing.get_context("fork")
    start = processes.Barrier(40)
    started = [processes.Process(target=run_that_makes_a_folder, args=(start,)) for _ in range(40)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * 40
    names = sorted(folder.name for folder in (tmp_path / "outputs").iterdir())
    assert len(names) == 40
    assert all(re.fullmatch("2026-01-02_03-04-05_[abc]{4}", name) for name in names)


@pytest.mark.parametrize(("output_dir", "draws"), [("outputs/${ftframe.run_id:}", compose._DRAWS), ("mine", 1)])
def test_a_folder_that_is_always_taken_is_refused(output_dir: str, draws: int) -> None:
    asked = []

    def taken(cfg: DictConfig) -> None:
        asked.append(cfg.output_dir)
        raise FolderTakenError("taken")

    with pytest.raises(FolderTakenError, match="taken"):
        compose._run_in_own_folder(
            taken, OmegaConf.create({"command": "predict", "run": "x", "output_dir": output_dir})
        )
    assert len(asked) == draws
