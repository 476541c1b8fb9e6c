"""`ftframe fit`: train, and measure before and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import RichProgressBar

from ftframe import accounting, assembly, console, extensions, preparation, runs, templates
from ftframe.data.datamodule import SFTDataModule
from ftframe.errors import ConfigError
from ftframe.metrics.generation import GenerationMetrics, Sampling
from ftframe.models.artifact import save_artifact, write_card
from ftframe.models.precision import Precision
from ftframe.models.record import Record
from ftframe.resumption import Resumption, find_resumption, refuse_changes
from ftframe.train.checkpoint_io import WholeCheckpointIO, read_checkpoint
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.checkpointing import Checkpoints
from ftframe.train.guards import NonFiniteReport, let_loggers_fail
from ftframe.train.interruption import Interruption
from ftframe.train.metrics_log import NAME as METRICS
from ftframe.train.randomness import Randomness
from ftframe.train.schedule import total_optimizer_steps
from ftframe.train.throughput import Throughput

BASELINE = "baseline.json"

_DECISIVE = (("world_size", "trainer.devices and trainer.num_nodes"), ("data", "data"), ("base", "model.path"))
"""What must not change where a run goes on, and the keys that decide it."""


@dataclass(frozen=True)
class Plan:
    """What is known of a training run before its model is built.

    Attributes:
        precision: Number types.
        trainer: Lightning's.
        throughput: Counts tokens and seconds.
        inputs: Tokenizer and data.
        total_steps: Optimizer steps of the whole run.
        resumption: What the run begins with.
        checkpoint: The file that its state is taken from; None for a fresh start.
        facts: What must stay the same where the run goes on.
    """

    precision: Precision
    trainer: Any
    throughput: Throughput
    inputs: preparation.Inputs
    total_steps: int
    resumption: Resumption
    checkpoint: Path | None
    facts: dict[str, Any]


def fit(cfg: Any) -> Path:
    """Train as the config says, or go on with a run, and return the run folder.

    Raises:
        ConfigError: If the config cannot be run; no model has been loaded then, and no run folder made.
        DataError: If the data cannot be trained on; likewise.
        Interrupted: If a signal came; the state is saved if a step was trained.
        NonFiniteError: If the loss or a gradient is not a number.
    """
    resumption = find_resumption(cfg.ckpt_path, cfg.output_dir)
    if resumption.complete:
        assert resumption.run is not None
        console.print_line(f"{runs.shown(resumption.run)} is complete: there is nothing to go on with.")
        return resumption.run
    with Interruption(console.print_line).installed() as interruption:
        plan = _plan(cfg, resumption)
        accounting.warn_of_duplicates(plan.inputs.data)
        accounting.print_mixture(plan.inputs.data)
        folder = resumption.run or runs.create_run_folder(cfg.output_dir)
        with runs.claimed(folder):
            return _train(cfg, plan, folder, interruption)


def _plan(cfg: Any, resumption: Resumption) -> Plan:
    """Check everything that can be checked without the model, and prepare the data."""
    throughput = Throughput()
    assembly.check_nodes(cfg)
    assembly.check_cell(cfg)
    precision = assembly.precision_of(cfg)
    if resumption.run is not None:
        refuse_changes(resumption.run, cfg)
    checkpoint = _find_checkpoint(resumption)
    trainer = _build_trainer(cfg, precision, callbacks=[Randomness(cfg.seed), throughput])
    tokenizer, model_config = preparation.load_tokenizer_of(cfg)
    assembly.check_attention(cfg, model_config, precision)
    base_fingerprint = assembly.base_fingerprint(cfg, precision)
    inputs = preparation.prepare_inputs(cfg, tokenizer)
    facts = _facts(cfg, trainer, inputs, base_fingerprint)
    if resumption.run is not None and checkpoint is not None:
        _check_facts(CheckpointStore(checkpoint.parent).facts(), facts)
    total_steps = _total_steps(cfg, inputs.datamodule, trainer)
    return Plan(precision, trainer, throughput, inputs, total_steps, resumption, checkpoint, facts)


def _train(cfg: Any, plan: Plan, folder: Path, interruption: Interruption) -> Path:
    """Train in a folder that belongs to this run alone."""
    trainer, inputs, data = plan.trainer, plan.inputs, plan.inputs.data
    _begin_folder(folder, cfg, plan)
    console.write_logs_to(folder / "log.txt")
    answers = _answers(cfg, data, inputs.tokenizer)
    trainer.callbacks += [
        answers,
        NonFiniteReport(folder, data.where),
        interruption,
        Checkpoints(
            CheckpointStore(folder / "checkpoints", keep=cfg.checkpoint.keep),
            interruption,
            every_n_steps=cfg.checkpoint.every_n_steps,
            total_steps=plan.total_steps,
            save_best=cfg.checkpoint.save_best,
            facts=plan.facts,
        ),
    ]
    module = assembly.build_module(
        cfg,
        plan.precision,
        total_steps=plan.total_steps,
        tokens_per_batch=inputs.datamodule.tokens_per_batch(trainer.world_size),
        validation_tasks=data.names,
    )
    baseline = _baseline(cfg, folder, answers, measure=partial(assembly.validate, trainer, module, inputs.datamodule))
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = str(plan.checkpoint) if plan.checkpoint is not None else None
    trainer.fit(module, inputs.datamodule, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    final = assembly.validate(trainer, module, inputs.datamodule)
    samples = {"baseline": baseline["answers"], "final": dict(answers.answers)}
    if not trainer.is_global_zero:
        return folder
    runs.write_rejected(folder, data.rejected)  # of a stream, they are known now
    results = {
        "baseline": baseline["metrics"],
        "final": final,
        "optimizer_steps": trainer.global_step,
        "parameters": _count_parameters(module.model),
        **plan.throughput.summary(trainer.world_size),
        "data": data.counts,
        "seconds": round(plan.throughput.wall_seconds, 1),
    }
    runs.write_samples(folder / "predictions.jsonl", [prompt.conversation for prompt in data.prompts], answers=samples)
    artifact = _save(folder, cfg, _record(cfg, plan), module.model, inputs=inputs, results=results)
    _report(folder, artifact, results, data=data, samples=samples)
    return folder


def _begin_folder(folder: Path, cfg: Any, plan: Plan) -> None:
    """Write what is known at the start; where a run goes on without a checkpoint, it starts anew."""
    if not runs.is_first_rank():
        return
    for stray in folder.glob(f"{runs.PARTIAL}*"):
        stray.unlink()
    if plan.resumption.run is None:
        runs.write_config(folder, cfg)
    elif plan.checkpoint is None:
        for name in (BASELINE, METRICS):
            (folder / name).unlink(missing_ok=True)
    runs.write_rejected(folder, plan.inputs.data.rejected)


def _baseline(
    cfg: Any, folder: Path, answers: GenerationMetrics, *, measure: Callable[[], dict[str, float]]
) -> dict[str, Any]:
    """Metrics and answers of the untouched base; a run that goes on has measured them."""
    path = folder / BASELINE
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {**saved, "answers": {int(number): text for number, text in saved["answers"].items()}}
    if not cfg.baseline:
        return {"metrics": None, "answers": {}}
    measured = {"metrics": measure(), "answers": dict(answers.answers)}
    if runs.is_first_rank():
        runs.write_json(path, measured)
    return measured


def _find_checkpoint(resumption: Resumption) -> Path | None:
    """The file that the state is taken from; None where nothing was saved yet.

    Raises:
        ConfigError: If it is damaged, or a new run is to begin with a state that there is not.
    """
    source = resumption.source
    if source is None or source.is_file():
        if source is not None:
            read_checkpoint(source, mmap=True)
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
    environment = runs.environment()
    return {
        "world_size": trainer.world_size,
        "data": inputs.data.fingerprints,
        "base": base_fingerprint,
        "device": assembly.device_name(cfg.trainer.accelerator),
        "python": environment["python"],
        "packages": environment["packages"],
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


def _save(
    folder: Path, cfg: Any, record: Record, model: Any, *, inputs: preparation.Inputs, results: dict[str, Any]
) -> Path:
    """Write the artifact, the metrics and, last, the manifest; the artifact's folder."""
    artifact = folder / record.kind
    save_artifact(model, inputs.tokenizer, record=record, folder=artifact)
    write_card(artifact, record, results=results["final"], data=", ".join(assembly.dataset_names(cfg.data)))
    runs.write_json(folder / "metrics.json", results)
    base = {"base": record.base["path"], "base_fingerprint": record.base_fingerprint}
    facts = {"template": record.template, **base, "data": inputs.data.fingerprints}
    runs.write_manifest(folder, {**facts, **extensions.manifest(assembly.plain(cfg))})
    return artifact


def _answers(cfg: Any, data: preparation.PreparedData, tokenizer: Any) -> GenerationMetrics:
    sampling = Sampling(
        stop_token_ids=data.stop_token_ids,
        pad_token_id=assembly.pad_token_id(tokenizer),
        max_new_tokens=cfg.data.max_new_tokens,
    )
    return preparation.generation_metrics(
        data, cfg.metrics, tokenizer=tokenizer, sampling=sampling, batch_size=cfg.data.eval_batch_size
    )


def _build_trainer(cfg: Any, precision: Precision, *, callbacks: list[Any]) -> Any:
    logger = assembly.build(cfg.logger, "logger") if cfg.logger is not None else False
    if cfg.trainer.enable_progress_bar:
        callbacks += [RichProgressBar(console_kwargs={"stderr": False})]
    callbacks += [assembly.build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items()]
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


def _record(cfg: Any, plan: Plan) -> Record:
    quant = assembly.plain(cfg.quant)
    return Record(
        kind="model" if cfg.peft is None else "adapter",
        base=asdict(assembly.base_spec(cfg)),
        dtype=str(plan.precision.base_dtype).removeprefix("torch."),
        quant={k: v for k, v in quant.items() if not k.startswith("_")} if quant else None,
        template=assembly.plain(cfg.data.template),
        stop_token_ids=plan.inputs.data.stop_token_ids,
        max_new_tokens=cfg.data.max_new_tokens,
        tasks=templates.task_templates(cfg.data),
        template_sha256=templates.template_sha256(cfg.data.template, plan.inputs.template),
        base_fingerprint=plan.facts["base"],
    )


def _count_parameters(model: Any) -> dict[str, int]:
    """Parameters that train, and bytes that all of them take in memory."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"trained": trained, "stored_bytes": stored}


def _report(
    folder: Path, artifact: Path, results: dict[str, Any], *, data: preparation.PreparedData, samples: Any
) -> None:
    """The end of the run on the console: what changed, an example, and where everything is."""
    if data.prompts:
        console.print_facts(
            [
                ("prompt", data.prompts[0].conversation[-2].content),
                ("right answer", data.prompts[0].reference),
                ("before", samples["baseline"].get(0, "-")),
                ("after", samples["final"].get(0, "-")),
            ],
            title="A prompt it never saw",
        )
    console.print_results(results["baseline"], results["final"], title="Validation")
    speed = results["tokens_per_second"]
    console.print_facts(
        [
            *((name.replace("_", " "), count) for name, count in data.counts.items()),
            ("optimizer steps", results["optimizer_steps"]),
            ("tokens per second", f"{speed:,.0f}" if speed else "-"),
            ("peak memory, GiB", results.get("peak_gpu_gib", results["peak_host_gib"])),
            ("seconds", results["seconds"]),
            ("run folder", runs.shown(folder)),
            (artifact.name, runs.shown(artifact)),
        ],
        title="Done",
    )
    console.print_line(f'Ask it: ftframe predict run={runs.shown(folder)} prompt="..."')
