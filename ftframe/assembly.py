"""From the config to the objects of a run. Beside `tasks/`, the only place that sees `cfg` as a whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ftframe.choices import AUTO, device_of, on_gpu, quant_node
from ftframe.console import print_line, progress
from ftframe.data.datamodule import SFTDataModule
from ftframe.engine import Engine
from ftframe.errors import ConfigError
from ftframe.metrics.generation import Answer, Generate, Sampling, generate_answers
from ftframe.models.adapter import attach_adapter, check_adapter
from ftframe.models.base import BaseSpec, build_base_model, resolve_path
from ftframe.models.base_fingerprint import fingerprint_base
from ftframe.models.compilable_4bit import let_compiler_see
from ftframe.models.compiling import COMPILER_ERRORS, give_up_compiling
from ftframe.models.fp8 import compiles_rightly
from ftframe.models.isolation import check_isolation
from ftframe.models.lora_stacks import stack_lora_layers
from ftframe.models.memory import arrange_memory
from ftframe.models.module import CausalLMModule
from ftframe.models.positions import beyond_positions
from ftframe.models.precision import Precision
from ftframe.models.probing import eagerly
from ftframe.models.quantisation import is_fp8
from ftframe.models.varlen_attention import VARLEN
from ftframe.nodes import build, check_node, plain
from ftframe.registry import metrics
from ftframe.train.schedule import build_scheduler, check_scheduler

log = logging.getLogger(__name__)

FUSED = ("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD")
LOSS_METRICS = ("val/loss", "val/perplexity", "val/token_accuracy")


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


def longest(data: Any) -> int:
    """The most tokens that an example may have, of a `data` node: a task may have a limit of its own."""
    return int(max((task.max_length or data.max_length for task in data.tasks.values()), default=data.max_length))


def check_length(cfg: Any, config: Any) -> None:
    """Warn where examples may be longer than what the model was made for.

    Args:
        cfg: The run's config.
        config: The base model's, of transformers.

    Raises:
        ConfigError: If it cannot take them.
    """
    warning = beyond_positions(config, longest(cfg.data), packed=cfg.data.packing)
    if warning is not None:
        print_line(f"warning: {warning}")


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
        attn_implementation="sdpa" if model.attn_implementation == AUTO else model.attn_implementation,
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
    device_type = device_of(cfg.trainer.accelerator).type
    return fingerprint_base(base_spec(cfg), dtype=precision.base_dtype, device_type=device_type)


def pad_token_id(tokenizer: Any) -> int:
    """What fills up rows: any id will do, since padding is masked by length and never by id."""
    return int(next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None))


def build_module(
    cfg: Any,
    precision: Precision,
    engine: Engine,
    attention: str,
    *,
    total_steps: int,
    tokens_per_batch: float,
    validation_tasks: Sequence[str] = (),
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
        partial(build_model, cfg, precision, engine, attention),
        partial(build_optimizer, cfg.optim, autocasts=precision.trainer.endswith("mixed")),
        build_scheduler=schedule,
        tokens_per_batch=tokens_per_batch,
        validation_tasks=validation_tasks,
        chunks_loss=engine.chunks_loss,
        compiles=engine.compiles,
        may_give_up_compiling=cfg.model.compile == AUTO,
    )


def build_model(cfg: Any, precision: Precision, engine: Engine, attention: str, device: torch.device) -> Any:
    """The model ready to train: base, quantised or not, and adapter, if any."""
    spec = replace(base_spec(cfg), attn_implementation=attention)
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
    if cfg.data.packing:
        with precision.forward_context(device):
            _check_isolation(model, automatic=cfg.model.attn_implementation == AUTO)
    if engine.compiles:
        let_compiler_see(model)
        stack_lora_layers(model)
        _check_compiler(cfg, quantization_config, device)
    arrange_memory(model, engine.memory, compiles=engine.compiles, share=engine.share)
    return model.train()  # from_pretrained leaves dropout and checkpointing off


def _check_compiler(cfg: Any, quantization_config: Any, device: torch.device) -> None:
    """Give up compiling a base in FP8 where that is known to go wrong without an error.

    Raises:
        ConfigError: If it was asked for by `model.compile=true`.
    """
    try:
        if not is_fp8(quantization_config) or device.type == "cpu" or compiles_rightly(device):
            return
    except COMPILER_ERRORS:
        return  # the first step says so of the whole model
    message = f"layers in FP8 give wrong gradients when they are compiled by torch {torch.__version__} on this GPU"
    if cfg.model.compile != AUTO:
        raise ConfigError(f"model.compile={cfg.model.compile}: {message}. Set model.compile=false or quant=4bit.")
    print_line(f"warning: {message}; they run uncompiled, and more slowly")
    give_up_compiling()


def _check_isolation(model: Any, *, automatic: bool) -> None:
    """As `check_isolation`; where the attention is ours to choose, another is tried before the model is refused."""
    try:
        check_isolation(model)
    except ConfigError as error:
        if not automatic or model.config._attn_implementation != VARLEN:
            raise
        log.warning("packed examples are kept apart by a mask: %s", error)
        model.set_attn_implementation("sdpa")
        check_isolation(model)


def build_optimizer(node: Any, parameters: Sequence[torch.nn.Parameter], *, autocasts: bool = False) -> Any:
    """The optimizer; weight decay reaches matrices only, not norms and biases, as is usual.

    torch's own ones are fused on a GPU, unless `optim.fused` says otherwise: one pass over all weights, no waiting.

    Args:
        node: The `optim` node.
        parameters: What trains.
        autocasts: Whether the trainer does. Lightning then takes every fused optimizer for one that undoes a loss's
            scale itself, and refuses to clip gradients.

    Raises:
        ConfigError: If its class refuses the arguments.
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    on_cuda = bool(parameters) and all(parameter.is_cuda for parameter in parameters)
    is_free = on_cuda and not autocasts and node.get("_target_") in FUSED and "fused" not in node
    fused = {"fused": True} if is_free else {}
    try:
        return build(node, "optim", **fused)(groups)
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
        with progress("generate answers", total=len(prompts)) as advance, eagerly():
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
