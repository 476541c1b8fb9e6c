"""A base in FP8 through the commands: trained on, saved, gone on with, evaluated."""

import json

import pytest

FP8 = ("peft=lora", "quant=fp8", "metrics=none", "data.generate_examples=0", "baseline=false", "trainer.max_epochs=-1")


@pytest.mark.slow
def test_it_learns_goes_on_and_is_evaluated(tmp_path, ftframe, quick):
    steps = ("checkpoint.every_n_steps=4", "output_dir=run", *FP8)
    first = ftframe("fit", *quick, *steps, "trainer.max_steps=4", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*.ckpt")
    on = ftframe("fit", *quick, *FP8, "trainer.max_steps=12", "output_dir=on", f"ckpt_path={checkpoint}", cwd=tmp_path)
    assert on.returncode == 0, on.stderr
    before, after = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "on"))
    assert after["optimizer_steps"] == 12
    assert after["final"]["val/loss"] < before["final"]["val/loss"]
    record = json.loads((tmp_path / "on" / "adapter" / "ftframe.json").read_text())
    assert record["quant"] == {"load_in_fp8": True}
    evaluated = ftframe("evaluate", "run=on", "metrics=none", "output_dir=measured", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads((tmp_path / "measured" / "metrics.json").read_text())["final"]
    assert found == pytest.approx(after["final"], rel=1e-5)
