"""`ftframe evaluate`: measure a finished run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import OmegaConf

from ftframe import assembly, choices, console, extensions, finished_run, nodes, preparation, runs, templates
from ftframe.durable_files import sha256_of_files, write_json
from ftframe.errors import ConfigError
from ftframe.local_files import is_local
from ftframe.metrics.generation import Sampling
from ftframe.models.adapter_compute import is_plain_lora
from ftframe.models.adapter_config import read_adapter_config
from ftframe.models.artifact import load_artifact, load_artifact_tokenizer, open_artifact
from ftframe.models.module import CausalLMModule
from ftframe.models.precision import resolve_precision
from ftframe.models.record import Record
from ftframe.schema import DataConfig


def evaluate(cfg: Any) -> Path:
    """Measure a run on its own validation data or on `data=...`, and return the folder with `metrics.json`.

    Raises:
        ConfigError: If `run` is no finished run, its base model is another than in training, or there is no data to
            measure on.
        DataError: If the data cannot be read.
    """
    assembly.check_nodes(cfg)
    artifact, record = open_artifact(cfg.run)
    base = finished_run.base_of(cfg, record, accelerator=cfg.trainer.accelerator)
    trainer = _build_trainer(cfg, record, artifact)
    data_config = cfg.data if cfg.data is not None else data_of_run(artifact.parent)
    tokenizer = load_artifact_tokenizer(artifact, trust_remote_code=cfg.trust_remote_code and record.kind == "model")
    template = templates.artifact_template(record, cfg.template, tokenizer)
    data_config.template = dict(record.template)  # other data is written as the run's was
    seed = seed_of_run(artifact.parent, default=cfg.seed)
    data = preparation.prepare_data(
        data_config, template, tokenizer=tokenizer, seed=seed, train=False, whole=cfg.data is not None
    )
    batch_size = cfg.batch_size or data_config.eval_batch_size

    with runs.new_run_folder(cfg.output_dir) as folder:
        console.write_logs_to(folder / "log.txt")
        runs.write_config(folder, cfg)
        sampling = Sampling(record.stop_token_ids, assembly.pad_token_id(tokenizer), data_config.max_new_tokens)
        answers = preparation.generation_metrics(
            data, cfg.metrics, tokenizer=tokenizer, sampling=sampling, batch_size=batch_size
        )
        load = partial(load_artifact, artifact, record, base=base, allow_base_mismatch=cfg.allow_base_mismatch)
        module = CausalLMModule(lambda device: load(device=device), validation_tasks=data.names)
        trainer.callbacks.append(answers)
        data_config.eval_batch_size = batch_size
        datamodule = preparation.build_datamodule(data_config, data, pad_token_id=sampling.pad_token_id, seed=seed)
        results = assembly.validate(trainer, module, datamodule)
        if trainer.is_global_zero:
            write_json(folder / "metrics.json", {"final": results, "data": data.counts, "artifact": str(artifact)})
            prompts = [prompt.conversation for prompt in data.prompts]
            runs.write_samples(folder / "predictions.jsonl", prompts, answers={"final": answers.answers})
            runs.write_rejected(folder, data.rejected)
            named = {"data": nodes.plain(data_config), "metrics": nodes.plain(cfg.metrics)}
            template_node = nodes.plain(cfg.template) if cfg.template["name"] is not None else record.template
            used = extensions.manifest(named, {"template": template_node})
            runs.write_manifest(
                folder, {"artifact": str(artifact), "artifact_sha256": sha256_of_files(artifact), **used}
            )
            console.print_results(None, results, title="Validation")
            console.print_facts([("run folder", runs.shown(folder)), ("artifact", runs.shown(artifact))], title="Done")
        return folder


def data_of_run(run: Path) -> Any:
    """The `data` node that a run was trained with.

    Raises:
        ConfigError: If the folder has no config, as beside an adapter that was copied away from its run, or a damaged
            one; or its data is built by a local file, which is not run because a folder names it.
    """
    saved = _saved_config(run)
    if saved is None:
        raise ConfigError(
            f"There is no {run / 'config.yaml'}, so the data is not known. Choose it by data=..., such as data=jsonl."
        )
    for _, _, node in extensions.named_nodes({"data": saved["data"]}):
        if is_local(node["name"]):
            raise ConfigError(
                f"This run's config.yaml names the local file {node['name']}, and code is not run because a folder "
                f"names it. If you trust that file, say so: data=local data.dataset.name={node['name']}"
            )
    data = OmegaConf.merge(OmegaConf.structured(DataConfig), saved["data"])
    data.cache_dir = None  # where this machine writes is not for the run folder to say
    return data


def seed_of_run(run: Path, *, default: int) -> int:
    """The run's seed, which decides the rows that were held out; `default` where there is no run folder.

    Raises:
        ConfigError: If the run's config is damaged.
    """
    saved = _saved_config(run)
    return default if saved is None else int(saved["seed"])


def _saved_config(run: Path) -> dict[str, Any] | None:
    """What stands in a run folder's config.yaml, which may be somebody else's; None where there is none.

    Raises:
        ConfigError: If it is damaged, or refers to something outside of itself: a run's config is written resolved.
    """
    path = run / "config.yaml"
    if not path.is_file():
        return None
    try:
        saved: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        usable = isinstance(saved, dict) and isinstance(saved["data"], dict) and isinstance(saved["seed"], int)
    except (ValueError, KeyError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not usable:
        raise ConfigError(f"{path} is damaged: it has no `data` and `seed` as ftframe writes them.")
    if "${" in str(saved["data"]):
        raise ConfigError(
            f"{path}: data holds a reference, ${{...}}, which could read this machine's environment into the run. "
            "Choose the data by data=..."
        )
    return dict(saved)


def _build_trainer(cfg: Any, record: Record, artifact: Path) -> Any:
    precision = resolve_precision(
        str(cfg.trainer.precision),
        record.dtype,
        trains_base=record.kind == "model",
        on_gpu=choices.on_gpu(cfg.trainer.accelerator),
        plain_lora=record.kind == "adapter" and is_plain_lora(read_adapter_config(artifact)),
    )
    callbacks = [RichProgressBar()] if cfg.trainer.enable_progress_bar else []
    return assembly.build_trainer(cfg, precision, callbacks=callbacks, logger=False)
