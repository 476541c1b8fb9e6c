"""From nodes of the config to objects. Beside `tasks/`, the only place that sees `cfg` and calls `instantiate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ftframe.compose import targets
from ftframe.console import progress
from ftframe.data.datamodule import SFTDataModule
from ftframe.errors import ConfigError, did_you_mean
from ftframe.metrics.generation import Answer, Generate, Sampling, generate_answers
from ftframe.models.adapter import attach_adapter, check_adapter
from ftframe.models.base import BaseSpec, build_base_model, resolve_path
from ftframe.models.base_fingerprint import fingerprint_base
from ftframe.models.isolation import check_isolation
from ftframe.models.module import CausalLMModule
from ftframe.models.precision import Precision, resolve_precision
from ftframe.models.varlen_attention import VARLEN, check_varlen
from ftframe.registry import metrics
from ftframe.signatures import check_arguments
from ftframe.train.schedule import build_scheduler, check_scheduler

LOSS_METRICS = ("val/loss", "val/perplexity", "val/token_accuracy")


def plain(node: Any) -> Any:
    """A node as dicts, lists and plain values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def check_nodes(cfg: Any) -> None:
    """Hold every library's node against that library's own signature, before anything heavy loads.

    Raises:
        ConfigError: Naming the key that the library would not take.
    """
    # `auto` is ours, and resolve_precision has a better message for the others.
    check_node({k: v for k, v in plain(cfg.trainer).items() if k != "precision"}, "trainer")
    if "optim" in cfg:
        for key in ("quant", "peft", "optim", "logger"):
            check_node(cfg[key], key)
        for name, node in cfg.callbacks.items():
            check_node(node, f"callbacks.{name}")
        check_scheduler(cfg.scheduler.name, cfg.scheduler.warmup_ratio)


def check_node(node: Any, key: str) -> None:
    """Hold one node with a `_target_` against its target's signature.

    Raises:
        ConfigError: As `check_nodes`, or if the target cannot be imported.
    """
    if node is None:
        return
    arguments = plain(node)
    name = arguments.pop("_target_", None)
    if name is None:
        raise ConfigError(f"{key}._target_ is missing: it names the class that {key} builds.")
    target = locate(name, f"{key}._target_")
    is_partial = arguments.pop("_partial_", False)
    check_arguments(target, arguments, key=key, partial=is_partial)


def locate(name: str, key: str) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        ConfigError: If it cannot be imported, or its package only borrows it: `ftframe.cli.os.system` has an allowed
            beginning, and would still run anything.
    """
    try:
        target = get_object(name)
    except Exception as error:  # whatever the import raises
        raise ConfigError(f"{key}={name} cannot be imported: {error}") from error
    package = name.partition(".")[0]
    home = f"{package}.optim." if package in ("torch", "bitsandbytes") else f"{package}."
    if not f"{getattr(target, '__module__', None)}.".startswith(home):
        raise ConfigError(f"{key}={name} is not allowed: {package} does not define it.")
    return target


def check_cell(cfg: Any, precision: Precision) -> None:
    """Build the small config objects of the libraries, which have checks of their own, before anything heavy loads.

    Raises:
        ConfigError: If they refuse, or the two do not train together on this device.
    """
    build_optimizer(cfg.optim, [torch.nn.Parameter(torch.zeros(1, 1))])
    quant = quant_node(cfg, precision)
    quantization_config = build(quant, "quant") if quant is not None else None
    if cfg.peft is not None:
        check_adapter(build(cfg.peft, "peft"), quantization_config, on_gpu=on_gpu(cfg.trainer.accelerator))


def build(node: Any, key: str, **further: Any) -> Any:
    """The object of a node with a `_target_`.

    Raises:
        ConfigError: If its class refuses the arguments or a package of its own is missing.
    """
    for target_key, name in targets(node, key):
        locate(name, target_key)
    try:
        return instantiate(node, _convert_="all", **further)
    except Exception as error:
        cause = error.__cause__ or error
        hint = f"\nInstall what it needs: pip install 'ftframe[{_extra(node)}]'" if _is_import(cause) else ""
        raise ConfigError(f"{key}: {type(cause).__name__}: {cause}{hint}") from error


def _is_import(error: BaseException) -> bool:
    return isinstance(error, ImportError)


def _extra(node: Any) -> str:
    """The optional extra that a logger belongs to."""
    return str(node["_target_"]).rpartition(".")[2].removesuffix("Logger").lower()


def on_gpu(accelerator: str) -> bool:
    """Whether Lightning's `accelerator` flag means a CUDA device on this machine."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def device_name(accelerator: str) -> str:
    """The kind of device that Lightning's `accelerator` flag means on this machine."""
    return torch.cuda.get_device_name() if on_gpu(accelerator) and torch.cuda.is_available() else "cpu"


def base_spec(cfg: Any) -> BaseSpec:
    """Which base model the config asks for; a local folder becomes absolute, so that it is found again."""
    model = cfg.model
    path = model.path if model.path.startswith("pkg://") else _absolute(model.path, model.init.value)
    return BaseSpec(
        path=path,
        tokenizer=model.tokenizer,
        revision=model.revision,
        init=model.init.value,
        config=plain(model.config),
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
        seed=cfg.seed,
    )


def _absolute(path: str, init: str) -> str:
    return path if init == "random" else resolve_path(path)


def base_fingerprint(cfg: Any, precision: Precision) -> str:
    """Which weights the run starts from.

    Raises:
        ConfigError: If they are not found, or are pickles.
    """
    device_type = "cuda" if on_gpu(cfg.trainer.accelerator) else "cpu"
    return fingerprint_base(base_spec(cfg), dtype=precision.base_dtype, device_type=device_type)


def precision_of(cfg: Any) -> Precision:
    """The number types of a run."""
    return resolve_precision(
        str(cfg.trainer.precision),
        cfg.model.dtype,
        trains_base=cfg.peft is None,
        on_gpu=on_gpu(cfg.trainer.accelerator),
    )


def quant_node(cfg: Any, precision: Precision) -> dict[str, Any] | None:
    """The `quant` node; 4-bit weights are multiplied in the type of the run's precision where theirs is `auto`.

    Few CPUs multiply bfloat16 in hardware: elsewhere it is six times slower there than float32.
    """
    node: dict[str, Any] | None = plain(cfg.quant)
    if node is not None and node.get("bnb_4bit_compute_dtype") == "auto":
        node["bnb_4bit_compute_dtype"] = str(precision.compute_dtype).removeprefix("torch.")
    return node


def check_attention(cfg: Any, config: Any, precision: Precision) -> None:
    """Refuse an attention that this machine or model cannot run, before weights load.

    Args:
        cfg: The run's config.
        config: The base model's, of transformers.
        precision: The run's number types.

    Raises:
        ConfigError: Naming what is missing.
    """
    if cfg.model.attn_implementation == "flex_attention" and not on_gpu(cfg.trainer.accelerator):
        raise ConfigError("model.attn_implementation=flex_attention cannot train on a CPU. Use sdpa or eager.")
    name, known = cfg.model.attn_implementation, sorted({*ALL_ATTENTION_FUNCTIONS.valid_keys(), "eager", VARLEN})
    if name not in known and "/" not in name:  # with a slash it is a kernel of the hub
        hint = did_you_mean(name, known)
        raise ConfigError(f"model.attn_implementation={name}: there is none.{hint}\nAllowed: {', '.join(known)}.")
    if cfg.model.attn_implementation == VARLEN:
        device = torch.device("cuda" if on_gpu(cfg.trainer.accelerator) else "cpu")
        check_varlen(config, device, precision.compute_dtype)


def pad_token_id(tokenizer: Any) -> int:
    """What fills up rows: any id will do, since padding is masked by length and never by id."""
    return int(next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None))


def build_module(
    cfg: Any, precision: Precision, *, total_steps: int, tokens_per_batch: float, validation_tasks: Sequence[str] = ()
) -> CausalLMModule:
    """The LightningModule of a training run; its model is built when Lightning says on which device."""
    schedule = partial(
        build_scheduler,
        name=cfg.scheduler.name,
        warmup_ratio=cfg.scheduler.warmup_ratio,
        total_steps=total_steps,
        specific=plain(cfg.scheduler.specific),
    )
    return CausalLMModule(
        partial(build_model, cfg, precision),
        partial(build_optimizer, cfg.optim),
        build_scheduler=schedule,
        tokens_per_batch=tokens_per_batch,
        validation_tasks=validation_tasks,
    )


def build_model(cfg: Any, precision: Precision, device: torch.device) -> Any:
    """The model ready to train: base, quantised or not, and adapter, if any."""
    spec = base_spec(cfg)
    quant = quant_node(cfg, precision)
    quantization_config = build(quant, "quant") if quant is not None else None
    with progress(f"load {spec.path}", visible=device.type != "cpu" or spec.init == "random"):
        model = build_base_model(
            spec, dtype=precision.base_dtype, quantization_config=quantization_config, device=device
        )
    if cfg.peft is not None:
        path = spec.path if spec.init == "random" else resolve_path(spec.path)
        torch.manual_seed(cfg.seed)  # the adapter's first weights do not depend on how the base was built
        model = attach_adapter(model, build(cfg.peft, "peft"), base_path=path, in_float32=precision.adapters_in_float32)
    if cfg.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if cfg.data.packing:
        with precision.forward_context(device):
            check_isolation(model)
    return model.train()  # from_pretrained leaves dropout and checkpointing off


def build_optimizer(node: Any, parameters: Sequence[torch.nn.Parameter]) -> Any:
    """The optimizer; weight decay reaches matrices only, not norms and biases, as is usual.

    Raises:
        ConfigError: If its class refuses the arguments.
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    try:
        return build(node, "optim")(groups)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim: {type(error).__name__}: {error}") from error


def build_metrics(nodes: Sequence[Any]) -> dict[str, Any]:
    """Text metrics by the name they are logged under: their own, or that of the class in a local file."""
    built = [metrics.build(plain(node), key=f"metrics[{i}]") for i, node in enumerate(nodes)]
    return {node["name"].rpartition(":")[2]: metric for node, metric in zip(nodes, built, strict=True)}


def answerer(tokenizer: Any, sampling: Sampling, *, batch_size: int) -> Generate:
    """A function from a model and prompts to answers, with a progress bar."""
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def generate(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Answer]:
        with progress("generate answers", total=len(prompts)) as advance:
            for answer in generate_answers(model, prompts, decode=decode, sampling=sampling, batch_size=batch_size):
                advance()
                yield answer

    return generate


def build_trainer(
    cfg: Any, precision: Precision, *, callbacks: list[Any], logger: Any, plugins: Sequence[Any] = ()
) -> Any:
    """Lightning's Trainer with the flags of `cfg.trainer`."""
    return build(
        cfg.trainer,
        "trainer",
        precision=precision.trainer,
        callbacks=callbacks,
        logger=logger,
        plugins=list(plugins),
        default_root_dir=cfg.output_dir,
        enable_checkpointing=False,  # Lightning's default one; ours are added when the number of steps is known
        deterministic=cfg.deterministic,
    )


def dataset_names(data: Any) -> list[str]:
    """The registered name of each dataset of a `data` node."""
    nodes = [data.dataset] if data.dataset else [task.dataset for task in data.tasks.values()]
    return [node["name"] for node in nodes]


def validate(trainer: Any, module: CausalLMModule, datamodule: SFTDataModule) -> dict[str, float]:
    """One pass over the validation data: loss, perplexity, token accuracy, and metrics of generated answers."""
    results = trainer.validate(module, datamodule=datamodule, verbose=False)
    values = {name: float(value) for name, value in results[0].items()}
    return dict(sorted(values.items(), key=lambda item: (item[0] not in LOSS_METRICS, item[0])))
