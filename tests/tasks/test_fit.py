"""`ftframe fit` as a user runs it."""

import csv
import json
import shutil

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ftframe.durable_files import sha256
from ftframe.models.artifact import load_artifact
from ftframe.models.record import read_record

PEFTS = ("none", "lora", "qlora", "dora")
QUANTS = ("none", "4bit", "8bit")
REFUSED = {
    ("none", "4bit"): "peft=none trains every weight",
    ("none", "8bit"): "peft=none trains every weight",
    ("qlora", "none"): "peft=qlora is LoRA on a quantised base",
    ("dora", "8bit"): "peft=dora on an 8-bit base fails on a CPU",
}


def train_losses(run):
    """The logged losses of a run, in order."""
    rows = csv.DictReader((run / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.mark.slow
def test_default_learns_its_task(default_run):
    run, done = default_run
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["baseline"]["val/exact_match"] <= 0.10
    assert metrics["final"]["val/exact_match"] >= 0.90
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"] / 10
    assert metrics["tokens_per_second"] > 0
    assert "Ask it: ftframe predict run=outputs/fit/" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr == ""  # what libraries log goes into log.txt


@pytest.mark.slow
def test_run_folder_is_complete(default_run):
    run, _ = default_run
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {
        *(
            "config.yaml",
            "overrides.yaml",
            "manifest.json",
            "metrics.csv",
            "metrics.json",
            "predictions.jsonl",
            "baseline.json",
            "log.txt",
            "progress.json",
        ),
        *("checkpoints/manifest.json", "checkpoints/step-00000300.ckpt", "checkpoints/step-00000384.ckpt"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/ftframe.json"),
        *("adapter/README.md", "adapter/tokenizer.json", "adapter/tokenizer_config.json"),
    }
    assert len(json.loads((run / "adapter" / "ftframe.json").read_text())["template_sha256"]) == 64
    manifest = json.loads((run / "manifest.json").read_text())
    weights = "adapter/adapter_model.safetensors"
    assert manifest["sha256"][weights] == sha256(run / weights)
    assert manifest["packages"]["torch"] == torch.__version__
    assert manifest["plugins"]["dataset people"].startswith("ftframe ")
    assert yaml.safe_load((run / "config.yaml").read_text())["quant"]["load_in_4bit"] is True
    progress = json.loads((run / "progress.json").read_text())
    assert 300 < progress["step"] <= progress["total_steps"] == 384
    assert progress["tokens_per_second"] > 0 < progress["seconds_per_step"]
    losses = train_losses(run)
    assert len(losses) >= 30
    assert losses[-1] < losses[0] / 10
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 128


@pytest.mark.slow
@pytest.mark.parametrize("quantised", [False, True], ids=["float32", "4bit"])
def test_adapter_loads_with_plain_peft_and_gives_our_logits(default_run, quantised):
    adapter = default_run[0] / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    quantization_config = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.float32) if quantised else None
    base = AutoModelForCausalLM.from_pretrained(
        config["base_model_name_or_path"],
        dtype=torch.float32,
        quantization_config=quantization_config,
        device_map={"": "cpu"},
    )
    plain = PeftModel.from_pretrained(base, str(adapter)).train()  # in eval mode bitsandbytes repacks on some CPUs
    record = read_record(adapter)
    if not quantised:
        record = type(record)(**{**{name: getattr(record, name) for name in record.__slots__}, "quant": None})
    ours = load_artifact(
        adapter, record, base=record.base_spec(path=None, trust_remote_code=False), device=torch.device("cpu")
    ).train()
    for module in (*plain.modules(), *ours.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    tokens = AutoTokenizer.from_pretrained(adapter)("Where does Jovin live?\n", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs, found = plain(tokens).logits, ours(tokens).logits
    assert (theirs - found).abs().max() <= 1e-4
    with torch.no_grad(), ours.disable_adapter():
        assert (ours(tokens).logits - found).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("peft", PEFTS)
def test_every_cell_trains_or_is_refused(peft, quant, tmp_path, ftframe, quick):
    done = ftframe("fit", *quick, f"peft={peft}", f"quant={quant}", "trainer=cpu", cwd=tmp_path)
    if (peft, quant) in REFUSED:
        assert done.returncode == 2
        assert REFUSED[peft, quant] in done.stderr
        assert not (tmp_path / "outputs").exists()
        return
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"]
    assert (run / ("model" if peft == "none" else "adapter") / "ftframe.json").is_file()


@pytest.mark.slow
def test_two_ranks_train_like_one(tmp_path, ftframe, quick):
    common = (
        "fit",
        *quick,
        "peft=lora",
        "peft.lora_dropout=0",
        "data.group_by_length=false",
        "trainer.log_every_n_steps=1",
    )
    one = ftframe(*common, "data.batch_size=16", "output_dir=one", cwd=tmp_path)
    two = ftframe(
        *(
            *common,
            "data.batch_size=8",
            "trainer=ddp",
            "trainer.accelerator=cpu",
            "trainer.devices=2",
            "output_dir=two",
        ),
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    for stage in ("baseline", "final"):
        assert results[0][stage] == pytest.approx(results[1][stage], rel=1e-4)
    curves = [
        [
            float(row["train/loss"])
            for row in csv.DictReader((tmp_path / name / "metrics.csv").open())
            if row["train/loss"]
        ]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == 4
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.slow
def test_resumes_from_a_run_folder(tmp_path, ftframe, quick):
    common = ("fit", *quick, "peft.lora_dropout=0", "scheduler=constant", "scheduler.warmup_ratio=0")
    straight = ftframe(*common, "output_dir=straight", cwd=tmp_path)
    first = ftframe(*common, "trainer.max_steps=2", "output_dir=first", cwd=tmp_path)
    assert (straight.returncode, first.returncode) == (0, 0), first.stderr
    second = ftframe(*common, "ckpt_path=first", "output_dir=second", "baseline=false", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    expected, found = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("straight", "second"))
    assert found["optimizer_steps"] == expected["optimizer_steps"] == 4
    assert found["final"] == pytest.approx(expected["final"], rel=1e-6)
    other = ftframe(*common, "ckpt_path=first", "peft=dora", "output_dir=third", cwd=tmp_path)
    assert other.returncode == 1
    assert "does not fit this configuration" in other.stderr


@pytest.mark.slow
def test_nothing_is_overwritten(tmp_path, ftframe, quick):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    done = ftframe("fit", *quick, "output_dir=mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "output_dir=mine exists already" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_full_fine_tuning_on_real_data_with_the_llama_2_tokenizer(shared_data, tmp_path, ftframe):
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    done = ftframe(
        *("fit", "model=llama2", "model.init=random", "peft=none", "data=jsonl", "trainer.max_steps=20"),
        *(f"model.config.{name}={value}" for name, value in {**shape, "num_key_value_heads": 2}.items()),
        f"model.tokenizer={shared_data / 'llama2_tokenizer'}",
        f"data.dataset.path={shared_data / 'gsm8k' / 'train.jsonl'}",
        *("data.dataset.columns.prompt=question", "data.dataset.columns.completion=answer", "data.dataset.limit=100"),
        *("data.batch_size=2", "optim.lr=5e-3", "data.generate_examples=2", "data.max_new_tokens=4"),
        "trainer.enable_progress_bar=false",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["baseline"]["val/loss"] == pytest.approx(10.4, abs=0.2)  # ln 32000, the loss of a uniform guess
    assert metrics["final"]["val/loss"] < 8.5
    again = ftframe("evaluate", f"run={run}", "trainer.enable_progress_bar=false", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (evaluation,) = (tmp_path / "outputs" / "evaluate").iterdir()
    assert json.loads((evaluation / "metrics.json").read_text())["final"] == pytest.approx(metrics["final"], abs=1e-5)
    shutil.rmtree(run)
