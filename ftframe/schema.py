"""Types and defaults of the keys that ftframe itself owns.

A node with `_target_` belongs to a library and is held against that library's own signature instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Init(Enum):
    """Where the base model's weights come from."""

    pretrained = "pretrained"
    random = "random"


class TooLong(Enum):
    """What becomes of an example that is longer than `data.max_length`."""

    error = "error"
    drop = "drop"
    truncate = "truncate"
    chunk = "chunk"
    """For documents, of which every token is learnt: several examples."""


class Memory(Enum):
    """What becomes of activations between the forward and the backward pass."""

    auto = "auto"
    """The fastest of the others that fits the GPU at hand."""
    ample = "ample"
    """They are kept, and weights of 4 bits or FP8 as they are multiplied, too: unpacked, or transposed."""
    none = "none"
    """They are kept."""
    budget = "budget"
    """The compiler chooses which to compute twice: `activation_budget` of them are kept."""
    checkpoint = "checkpoint"
    """Each layer's input is kept, and the rest computed twice."""
    offload = "offload"
    """As `checkpoint`, and the inputs wait on the host."""


class BadRows(Enum):
    """What becomes of rows that are no conversation."""

    error = "error"
    skip = "skip"


class MixingStrategy(Enum):
    """How often the tasks of `data.tasks` are seen."""

    all_once = "all_once"
    weights = "weights"
    temperature = "temperature"


@dataclass
class ModelConfig:
    """The base model."""

    path: str = MISSING
    """Hub id, local folder, or `pkg://package/folder` inside an installed package."""
    tokenizer: str | None = None
    """Hub id or local folder; `null` takes it from `path`."""
    revision: str | None = None
    template: str = MISSING
    """Prompt template that this model's users expect; `data.template.name` follows it."""
    init: Init = Init.pretrained
    config: dict[str, Any] = field(default_factory=dict)
    """Shape for `init=random`, in the words of the library's own model config."""
    dtype: str = "auto"
    """Type of the base weights: float32, bfloat16, float16, or `auto` to follow the precision."""
    attn_implementation: str = "auto"
    """`auto` is varlen for packed rows where that can run, and sdpa otherwise."""
    compile: str = "auto"
    """Compile each layer: true, false, or `auto`, which does on a GPU where the model is large enough to gain."""
    trust_remote_code: bool = False
    """Run the Python code that a model or tokenizer brings along."""
    learning_rate: float = MISSING
    """What suits this model's adapters; `optim.lr` follows it."""


@dataclass
class TaskConfig:
    """One of several tasks; what is `null` follows the key of that name in `data`."""

    dataset: dict[str, Any] = MISSING
    template: dict[str, Any] | None = None
    weight: float = 1.0
    """Share with `data.mixing.strategy=weights`; 0, with any strategy, measures the task and never trains it."""
    max_length: int | None = None
    on_too_long: TooLong | None = None
    validation_fraction: float | None = None
    generate_examples: int | None = None


@dataclass
class MixingConfig:
    """How the tasks of `data.tasks` share an epoch."""

    strategy: MixingStrategy = MixingStrategy.all_once
    temperature: float = 2.0
    """A task's share is its size to the power of 1 / temperature."""
    epoch_size: int | None = None
    """Examples of an epoch; `null` takes as many as all tasks have together."""


@dataclass
class DataConfig:
    """The data and how it becomes batches."""

    dataset: dict[str, Any] = field(default_factory=dict)
    """`name` is looked up in `ftframe.datasets`; the other keys are its arguments."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Several tasks by name, each a `TaskConfig`, in place of `dataset`. OmegaConf would not let an override make one
    out of nothing, so their types are checked in the composed config only."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    template: dict[str, Any] = field(default_factory=lambda: {"name": "${oc.select:model.template,null}"})
    """`name` is looked up in `ftframe.prompt_templates`; the other keys are its arguments."""
    max_length: int = 1024
    """Tokens of one example, prompt and answer together; of one row where examples are packed."""
    on_too_long: TooLong = TooLong.error
    on_bad_row: BadRows = BadRows.error
    max_bad_fraction: float = 0.05
    """With `on_bad_row=skip`, the largest share of rows that may be skipped."""
    packing: bool = False
    """Put several examples into one row of `max_length` tokens; none sees another."""
    batch_size: int = 4
    """Rows of one micro-batch on one device."""
    eval_batch_size: int = 8
    group_by_length: bool = True
    num_workers: int = 0
    shuffle_buffer: int = 1000
    """Rows of a stream among which the next one is drawn, and examples among which a pack is filled."""
    validation_fraction: float = 0.1
    """Share held out where the dataset brings no validation split."""
    generate_examples: int = 200
    """Validation examples that are answered by generation, for the text metrics; 0 for none."""
    max_new_tokens: int = 128
    cache: bool = True
    """Keep tokenised data for the next run."""
    cache_dir: str | None = None
    """`null` is `$FTFRAME_CACHE`, or `~/.cache/ftframe`."""


@dataclass
class SchedulerConfig:
    """`transformers.get_scheduler`, per optimizer step."""

    name: str = MISSING
    warmup_ratio: float = 0.0
    """Share of all optimizer steps over which the learning rate rises from 0."""
    specific: dict[str, Any] = field(default_factory=dict)
    """`scheduler_specific_kwargs` of `transformers.get_scheduler`."""


@dataclass
class CheckpointConfig:
    """What is kept for resuming: trained weights, optimizer and position."""

    every_n_steps: int = 100
    """Optimizer steps between two saves; 0 for none at all. Before each validation and at the end there is one, too."""
    keep: int = 2
    """How many of the newest are kept."""
    save_best: bool = True
    """Also keep the step with the lowest `val/loss`."""


class Direction(Enum):
    """Which values of an objective are better."""

    minimize = "minimize"
    maximize = "maximize"


class Sampler(Enum):
    """How the next values are chosen."""

    tpe = "tpe"
    random = "random"
    gp = "gp"
    cmaes = "cmaes"
    grid = "grid"


class Pruner(Enum):
    """Which trials are ended early."""

    none = "none"
    median = "median"
    asha = "asha"
    hyperband = "hyperband"


@dataclass
class ObjectiveConfig:
    """What makes one trial better than another."""

    metric: str = "val/loss"
    """A name that `metrics.json` has in `final`, or a number beside it: tokens_per_second, peak_gpu_gib, seconds."""
    direction: Direction = Direction.minimize


@dataclass
class SweepConfig:
    """Several trials: what `-m` starts."""

    dir: str = "outputs/multirun/${ftframe.run_id:}"
    """Folder of the sweep. An existing one is gone on with: finished trials are skipped, interrupted ones resumed."""
    max_parallel: int | None = None
    """Trials at a time; `null` is as many as the GPUs are enough for, and one without GPUs."""
    gpus_per_trial: int = 1
    """GPUs of one trial; those with `trainer.accelerator=cpu`, and all where there are no GPUs, get none."""
    grace_seconds: float = 30.0
    """How long a trial that was told to stop may take to save its state."""
    retry_failed: bool = False
    """When going on with a sweep, start failed trials anew."""
    objectives: list[ObjectiveConfig] = field(default_factory=lambda: [ObjectiveConfig()])
    n_trials: int = 20
    """With `hydra/sweeper=optuna`, as all keys below: trials of the study, whoever runs them."""
    seed: int = 0
    """Of the sampler."""
    sampler: Sampler = Sampler.tpe
    sampler_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's own sampler class."""
    pruner: Pruner = Pruner.none
    """Whether, by the first objective as it is measured while training, a trial goes on after each validation."""
    pruner_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's own pruner class; their steps are optimizer steps."""
    storage: str | None = None
    """URL of the database that holds the study; `null` is an SQLite file in the sweep's folder."""
    study_name: str = "ftframe"
    """Sweeps that name the same storage and study share its trials."""
    heartbeat_seconds: int = 60
    """How often a sweep says that its trials live; those of one that was silent twice as long are given to others."""


@dataclass
class FitConfig:
    """`ftframe fit`."""

    command: str = "fit"
    seed: int = 0
    deterministic: bool = False
    output_dir: str = MISSING
    ckpt_path: str | None = None
    """`last` or a run folder to go on with; with another `output_dir`, or a checkpoint file, a new run begins there."""
    baseline: bool = True
    """Measure the untouched base first."""
    memory: Memory = Memory.auto
    """What becomes of activations between the forward and the backward pass; `ftframe plan` says what each takes."""
    activation_budget: float = 0.5
    """With `memory=budget`, the share of the activations that is kept: above 0 and below 1."""
    gradient_checkpointing: bool = False
    """The plain word for `memory=checkpoint`: less memory, about a third more time."""
    require_quant: bool = False
    """Refuse a base that is not quantised; `peft=qlora` sets it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    quant: Any = None
    peft: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: Any = MISSING
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    trainer: Any = MISSING
    logger: Any = None
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Further Lightning callbacks, each under a name of its own, by `_target_`."""
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass
class PreviewConfig(FitConfig):
    """`ftframe preview`: takes whatever `ftframe fit` takes, and looks at the data only."""

    command: str = "preview"
    examples: int = 3
    """Training examples of each task that are shown."""


@dataclass
class PlanConfig(FitConfig):
    """`ftframe plan`: takes whatever `ftframe fit` takes, and only reckons."""

    command: str = "plan"
    gpu: str | None = None
    """The GPU to plan for; `null` is this machine's, or else an H100."""


@dataclass
class EvaluateConfig:
    """`ftframe evaluate`."""

    command: str = "evaluate"
    run: str = MISSING
    """Run folder of a finished fit, or an adapter or model folder."""
    base: str | None = None
    """Where the base model is now, if not where it was in training."""
    allow_base_mismatch: bool = False
    """Put the adapter on another base than it was trained on."""
    template: dict[str, Any] = field(default_factory=lambda: {"name": None})
    """`name` is the run's prompt template where that is a local file: an artifact does not decide which code runs."""
    trust_remote_code: bool = False
    seed: int = 0
    deterministic: bool = False
    output_dir: str = MISSING
    data: DataConfig | None = None
    """`null` takes the validation data of the run."""
    batch_size: int | None = None
    """Examples of one batch; `null` takes `data.eval_batch_size`."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    trainer: Any = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass
class PredictConfig:
    """`ftframe predict`."""

    command: str = "predict"
    run: str = MISSING
    """Run folder of a finished fit, or an adapter or model folder."""
    base: str | None = None
    """Where the base model is now, if not where it was in training."""
    allow_base_mismatch: bool = False
    """Put the adapter on another base than it was trained on."""
    template: dict[str, Any] = field(default_factory=lambda: {"name": None})
    """`name` is the run's prompt template where that is a local file: an artifact does not decide which code runs."""
    trust_remote_code: bool = False
    task: str | None = None
    """Whose prompt template to use, of a run whose tasks have their own."""
    prompt: str | None = None
    """One user message."""
    system: str | None = None
    """System message in front of `prompt`."""
    input: str | None = None
    """JSON Lines file with one conversation a row, in any format that `data=jsonl` reads."""
    columns: dict[str, Any] = field(default_factory=dict)
    """As `data.dataset.columns`."""
    batch_size: int = 8
    max_new_tokens: int | None = None
    """Tokens of the longest answer; `null` takes what the run was validated with."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    seed: int = 0
    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    output_dir: str = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)


SCHEMAS: dict[str, type] = {
    "fit": FitConfig,
    "preview": PreviewConfig,
    "plan": PlanConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
}
