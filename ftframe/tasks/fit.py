"""`ftframe fit`: train, and measure before and after."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import RichProgressBar

from ftframe import accounting, assembly, console, extensions, preparation, runs, templates
from ftframe.data.datamodule import SFTDataModule
from ftframe.errors import ConfigError
from ftframe.local_files import expanded
from ftframe.metrics.generation import GenerationMetrics, Sampling
from ftframe.models.artifact import Record, save_artifact, write_card
from ftframe.models.precision import Precision
from ftframe.train.checkpointing import build_checkpoints
from ftframe.train.schedule import total_optimizer_steps
from ftframe.train.throughput import Throughput


def fit(cfg: Any) -> Path:
    """Train as the config says, and return the run folder.

    Raises:
        ConfigError: If the config cannot be run; no model has been loaded then, and no run folder made.
        DataError: If the data cannot be trained on; likewise.
    """
    started = time.perf_counter()
    assembly.check_nodes(cfg)
    assembly.check_cell(cfg)
    precision = assembly.precision_of(cfg)
    ckpt_path = find_checkpoint(cfg.ckpt_path)
    throughput = Throughput()
    trainer = _build_trainer(cfg, precision, callbacks=[throughput])
    tokenizer, model_config = preparation.load_tokenizer_of(cfg)
    assembly.check_attention(cfg, model_config, precision)
    inputs = preparation.prepare_inputs(cfg, tokenizer)
    data, datamodule = inputs.data, inputs.datamodule
    total_steps = _total_steps(cfg, datamodule, trainer)
    accounting.warn_of_duplicates(data)
    accounting.print_mixture(data)

    folder = runs.create_run_folder(cfg.output_dir)
    console.write_logs_to(folder / "log.txt")
    runs.write_config(folder, cfg)
    runs.write_rejected(folder, data.rejected)

    answers = _answers(cfg, data, tokenizer)
    checkpoints = build_checkpoints(folder / "checkpoints", total_steps=total_steps, **cfg.checkpoint)
    trainer.callbacks += [answers, *checkpoints]
    tokens_per_batch = datamodule.tokens_per_batch(trainer.world_size)
    module = assembly.build_module(
        cfg, precision, total_steps=total_steps, tokens_per_batch=tokens_per_batch, validation_tasks=data.names
    )

    baseline = assembly.validate(trainer, module, datamodule) if cfg.baseline else None
    samples = {"baseline": dict(answers.answers)}
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    final = assembly.validate(trainer, module, datamodule)
    samples["final"] = dict(answers.answers)

    if not trainer.is_global_zero:
        return folder
    runs.write_rejected(folder, data.rejected)  # of a stream, they are known now
    results = {
        "baseline": baseline,
        "final": final,
        "optimizer_steps": trainer.global_step,
        "parameters": _count_parameters(module.model),
        **throughput.summary(trainer.world_size),
        "data": data.counts,
        "seconds": round(time.perf_counter() - started, 1),
    }
    runs.write_samples(folder / "predictions.jsonl", [prompt.conversation for prompt in data.prompts], answers=samples)
    artifact = _save(folder, cfg, _record(cfg, precision, inputs), module.model, inputs=inputs, results=results)
    _report(folder, artifact, results, data=data, samples=samples)
    return folder


def _save(
    folder: Path, cfg: Any, record: Record, model: Any, *, inputs: preparation.Inputs, results: dict[str, Any]
) -> Path:
    """Write the artifact, the metrics and, last, the manifest; the artifact's folder."""
    artifact = folder / record.kind
    save_artifact(model, inputs.tokenizer, record=record, folder=artifact)
    write_card(artifact, record, results=results["final"], data=", ".join(assembly.dataset_names(cfg.data)))
    runs.write_json(folder / "metrics.json", results)
    facts = {"template": record.template, "base": record.base["path"], "data": inputs.data.fingerprints}
    runs.write_manifest(folder, {**facts, **extensions.manifest(assembly.plain(cfg))})
    return artifact


def find_checkpoint(ckpt_path: str | None) -> str | None:
    """The file to resume from.

    Raises:
        ConfigError: If it does not exist.
    """
    if ckpt_path is None:
        return None
    path = expanded(ckpt_path, key="ckpt_path")
    if ckpt_path == "last":
        found = sorted(Path("outputs/fit").glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
        path = found[-1] if found else Path("outputs/fit/*/checkpoints/last.ckpt")
    elif path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"ckpt_path={ckpt_path}: there is no checkpoint {path}.")
    return str(path)


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
    return assembly.build_trainer(cfg, precision, callbacks=callbacks, logger=logger)


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


def _record(cfg: Any, precision: Precision, inputs: preparation.Inputs) -> Record:
    quant = assembly.plain(cfg.quant)
    return Record(
        kind="model" if cfg.peft is None else "adapter",
        base=asdict(assembly.base_spec(cfg)),
        dtype=str(precision.base_dtype).removeprefix("torch."),
        quant={k: v for k, v in quant.items() if not k.startswith("_")} if quant else None,
        template=assembly.plain(cfg.data.template),
        stop_token_ids=inputs.data.stop_token_ids,
        max_new_tokens=cfg.data.max_new_tokens,
        tasks=templates.task_templates(cfg.data),
        template_sha256=templates.template_sha256(cfg.data.template, inputs.template),
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
