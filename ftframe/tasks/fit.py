"""`ftframe fit`: train, and measure before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)

from ftframe import accounting, assembly, choices, console, extensions, nodes, preparation, runs, templates
from ftframe.durable_files import PARTIAL, write_json
from ftframe.engine import describe
from ftframe.metrics.generation import GenerationMetrics, Sampling
from ftframe.models.artifact import save_artifact, write_card
from ftframe.models.record import Record
from ftframe.resumption import Resumption, find_resumption, refuse_changes
from ftframe.run_plan import Plan, plan_run
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.checkpointing import Checkpoints
from ftframe.train.guards import NonFiniteReport
from ftframe.train.interruption import Interruption
from ftframe.train.metrics_log import NAME as METRICS
from ftframe.train.progress_file import ProgressFile

BASELINE = "baseline.json"


def fit(cfg: Any) -> Path:
    """Train as the config says, or go on with a run, and return the run folder.

    Raises:
        ConfigError: If the config cannot be run; no model has been loaded then, and no run folder made.
        DataError: If the data cannot be trained on; likewise.
        Interrupted: If a signal came; the state is saved if a step was trained.
        NonFiniteError: If the loss or a gradient is not a number.
    """
    resumption = find_resumption(cfg.ckpt_path, cfg.output_dir)
    with Interruption(console.print_line).installed() as interruption:
        if resumption.run is None:
            plan = _plan(cfg, resumption)
            with runs.new_run_folder(cfg.output_dir) as folder:
                return _train(cfg, plan, folder, interruption)
        if _is_over(cfg, resumption):
            return resumption.run
        with runs.claimed(resumption.run) as folder:
            if _is_over(cfg, resumption):  # by now: another process had the folder
                return folder
            return _train(cfg, _plan(cfg, resumption), folder, interruption)


def _is_over(cfg: Any, resumption: Resumption) -> bool:
    """Whether the run to go on with is complete.

    Raises:
        ConfigError: If something else is asked for than it was, as more steps.
    """
    if not resumption.complete:
        return False
    assert resumption.run is not None
    refuse_changes(resumption.run, cfg)
    console.print_line(f"{runs.shown(resumption.run)} is complete: there is nothing to go on with.")
    return True


def _plan(cfg: Any, resumption: Resumption) -> Plan:
    plan = plan_run(cfg, resumption)
    accounting.warn_of_duplicates(plan.inputs.data)
    accounting.print_mixture(plan.inputs.data)
    return plan


def _train(cfg: Any, plan: Plan, folder: Path, interruption: Interruption) -> Path:
    """Train in a folder that belongs to this run alone."""
    trainer, inputs, data = plan.trainer, plan.inputs, plan.inputs.data
    _begin_folder(folder, cfg, plan)
    if plan.engine.planned is not None:
        console.print_line(describe(plan.engine, choices.memory_of_device()))
    console.write_logs_to(folder / "log.txt")
    answers = _answers(cfg, data, inputs.tokenizer)
    trainer.callbacks += [
        answers,
        NonFiniteReport(folder, data.where),
        ProgressFile(folder, plan.throughput, total_steps=plan.total_steps),
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
    module = plan.build_module(cfg)
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
    for stray in folder.glob(f"{PARTIAL}*"):
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
        write_json(path, measured)
    return measured


def _save(
    folder: Path, cfg: Any, record: Record, model: Any, *, inputs: preparation.Inputs, results: dict[str, Any]
) -> Path:
    """Write the artifact, the metrics and, last, the manifest; the artifact's folder."""
    artifact = folder / record.kind
    save_artifact(model, inputs.tokenizer, record=record, folder=artifact)
    write_card(artifact, record, results=results["final"], data=", ".join(assembly.dataset_names(cfg.data)))
    write_json(folder / "metrics.json", results)
    base = {"base": record.base["path"], "base_fingerprint": record.base_fingerprint}
    facts = {"template": record.template, **base, "data": inputs.data.fingerprints}
    runs.write_manifest(folder, {**facts, **extensions.manifest(nodes.plain(cfg))})
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


def _record(cfg: Any, plan: Plan) -> Record:
    quant = choices.quant_node(cfg, plan.precision)
    return Record(
        kind="model" if cfg.peft is None else "adapter",
        base=asdict(assembly.base_spec(cfg)),
        dtype=str(plan.precision.base_dtype).removeprefix("torch."),
        quant={k: v for k, v in quant.items() if not k.startswith("_")} if quant else None,
        template=nodes.plain(cfg.data.template),
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
