"""A training run before its model is built: everything is checked, the data is ready, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import RichProgressBar

from ftframe import assembly, choices, console, nodes, preparation, runs
from ftframe.data.datamodule import SFTDataModule
from ftframe.engine import Engine, can_compile
from ftframe.errors import ConfigError
from ftframe.models.module import CausalLMModule
from ftframe.models.precision import Precision
from ftframe.resumption import Resumption, refuse_changes
from ftframe.train.checkpoint_io import WholeCheckpointIO, read_checkpoint, refuse_damaged
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.guards import let_loggers_fail
from ftframe.train.planned_peak import PlannedPeak
from ftframe.train.randomness import Randomness
from ftframe.train.schedule import total_optimizer_steps
from ftframe.train.throughput import Throughput

_DECISIVE = (("world_size", "trainer.devices and trainer.num_nodes"), ("data", "data"), ("base", "model.path"))
"""What must not change where a run goes on, and the keys that decide it."""


@dataclass(frozen=True)
class Plan:
    """What is known of a training run before its model is built.

    Attributes:
        precision: Number types.
        engine: How the model computes.
        attention: Its attention.
        trainer: Lightning's.
        throughput: Counts tokens and seconds.
        inputs: Tokenizer and data.
        total_steps: Optimizer steps of the whole run.
        resumption: What the run begins with.
        checkpoint: The file that its state is taken from; None for a fresh start.
        facts: What must stay the same where the run goes on.
    """

    precision: Precision
    engine: Engine
    attention: str
    trainer: Any
    throughput: Throughput
    inputs: preparation.Inputs
    total_steps: int
    resumption: Resumption
    checkpoint: Path | None
    facts: dict[str, Any]

    def build_module(self, cfg: Any) -> CausalLMModule:
        """The LightningModule; its model is built when Lightning says on which device."""
        return assembly.build_module(
            cfg,
            self.precision,
            self.engine,
            self.attention,
            total_steps=self.total_steps,
            tokens_per_batch=self.inputs.datamodule.tokens_per_batch(self.trainer.world_size),
            validation_tasks=self.inputs.data.names,
        )


def plan_run(cfg: Any, resumption: Resumption) -> Plan:
    """Check everything that can be checked without the model, and prepare the data.

    Raises:
        ConfigError: If the config cannot be run, or the run that goes on is not the same any more.
        DataError: If the data cannot be trained on.
    """
    throughput = Throughput()
    assembly.check_nodes(cfg)
    on_gpu = choices.on_gpu(cfg.trainer.accelerator)
    choices.check_engine(cfg, on_gpu=on_gpu, possible=can_compile(on_gpu=on_gpu))
    precision = choices.precision_of(cfg)
    assembly.check_cell(cfg, precision)
    if resumption.run is not None:
        refuse_changes(resumption.run, cfg)
    checkpoint = _find_checkpoint(resumption)
    trainer = _build_trainer(cfg, precision, callbacks=[Randomness(cfg.seed), throughput])
    tokenizer, model_config = preparation.load_tokenizer_of(cfg)
    assembly.check_length(cfg, model_config)
    attention = choices.choose_attention(cfg, model_config, precision)
    base_fingerprint = assembly.base_fingerprint(cfg, precision)
    inputs = preparation.prepare_inputs(cfg, tokenizer, attention)
    shapes = inputs.datamodule.batch_shapes() if on_gpu else None
    lengths = {length for _, length in shapes} if shapes is not None else None
    attention = choices.sharpen_attention(cfg, attention, model_config, precision, lengths=lengths)
    facts = _facts(cfg, trainer, inputs, base_fingerprint)
    if resumption.run is not None and checkpoint is not None:
        _check_facts(CheckpointStore(checkpoint.parent).facts(), facts)
    total_steps = _total_steps(cfg, inputs.datamodule, trainer)
    full = cfg.data.batch_size * assembly.longest(cfg.data)  # the most that a stream may have
    tokens = max((rows * length for rows, length in shapes), default=0) if shapes is not None else full
    engine = choices.engine_of(cfg, precision, model_config, tokens=tokens)
    if engine.size is not None:
        gpu = choices.gpu_of_device()
        throughput.operations = engine.size.operations
        throughput.peak_flops = gpu.tflops * 1e12 if gpu is not None else None
    if engine.planned is not None:
        trainer.callbacks.append(PlannedPeak(engine.planned.total))
    return Plan(precision, engine, attention, trainer, throughput, inputs, total_steps, resumption, checkpoint, facts)


def _find_checkpoint(resumption: Resumption) -> Path | None:
    """The file that the state is taken from; None where nothing was saved yet.

    Raises:
        ConfigError: If it is damaged, or a new run is to begin with a state that there is not.
    """
    source = resumption.source
    if source is None or source.is_file():
        if source is not None:
            read_checkpoint(source, mmap=True)
            refuse_damaged(source)
        return source
    store = CheckpointStore(source / "checkpoints")
    entry = store.newest()
    if entry is not None:
        console.print_line(f"going on behind step {entry.step} of {runs.shown(source)}")
        return store.folder / entry.file
    if resumption.run is None:
        raise ConfigError(f"ckpt_path={source}: nothing was saved there yet.")
    console.print_line(f"{runs.shown(source)} was interrupted before its first checkpoint, and begins anew")
    return None


def _facts(cfg: Any, trainer: L.Trainer, inputs: preparation.Inputs, base_fingerprint: str) -> dict[str, Any]:
    """What must be the same where the run goes on."""
    return {
        "world_size": trainer.world_size,
        "data": inputs.data.fingerprints,
        "base": base_fingerprint,
        "device": choices.device_name(cfg.trainer.accelerator),
        **runs.versions(),
    }


def _check_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Hold the surroundings of a run that goes on against those that it began in.

    Raises:
        ConfigError: If it has other data, another base model or another number of processes.
    """
    for fact, key in _DECISIVE:
        if fact in before and before[fact] != now[fact]:
            raise ConfigError(
                f"The run was begun with another {fact}: {before[fact]} -> {now[fact]}. What was trained on and what "
                f"comes next would not fit together. See {key}, or name a new folder: output_dir=<folder>."
            )
    for fact in ("device", "python", "packages"):
        if before.get(fact) != now[fact]:
            console.print_line(
                f"warning: the run was begun with another {fact}, so it may differ in the last bits from one that was "
                f"never interrupted: {before.get(fact)} -> {now[fact]}"
            )


def _build_trainer(cfg: Any, precision: Precision, *, callbacks: list[Any]) -> Any:
    logger = nodes.build(cfg.logger, "logger") if cfg.logger is not None else False
    if cfg.trainer.enable_progress_bar:
        callbacks += [RichProgressBar(console_kwargs={"stderr": False})]
    callbacks += [nodes.build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items()]
    trainer = assembly.build_trainer(cfg, precision, callbacks=callbacks, logger=logger, plugins=[WholeCheckpointIO()])
    let_loggers_fail(trainer.loggers, console.print_line)
    return trainer


def _total_steps(cfg: Any, datamodule: SFTDataModule, trainer: L.Trainer) -> int:
    """Optimizer steps of the run.

    Raises:
        ConfigError: If nothing bounds them; for a stream only `trainer.max_steps` does.
    """
    if datamodule.streams:
        if trainer.max_steps < 1 or trainer.max_epochs not in (None, -1):
            raise ConfigError(
                "data.dataset.streaming=true: no one knows how long an epoch is, so steps alone must end the run. Set "
                f"trainer.max_steps=<steps> (it is {trainer.max_steps}) and trainer.max_epochs=-1 (it is "
                f"{trainer.max_epochs})."
            )
        return trainer.max_steps
    return total_optimizer_steps(
        len(datamodule.train_sampler(trainer.world_size)),
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        limit_train_batches=cfg.trainer.limit_train_batches,
    )
