"""What is told of a training run before its data is prepared."""

import pytest

from ftframe import compose, preparation
from ftframe.errors import ConfigError
from ftframe.resumption import find_resumption
from ftframe.run_plan import plan_run

EARLY = {
    "contradiction": (("memory=offload", "gradient_checkpointing=true"), "Leave one out"),
    "budget without a compiler": (("memory=budget", "model.compile=false"), "model.compile is off"),
    "budget on a CPU": (("memory=budget", "trainer.accelerator=cpu"), "model.compile is off"),
    "no compiler": (("model.compile=true", "trainer.accelerator=cpu"), "needs a C.. compiler"),
}


@pytest.mark.parametrize(("overrides", "message"), EARLY.values(), ids=EARLY)
def test_a_config_that_cannot_run_is_refused_before_anything_is_read(overrides, message, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(preparation, "load_tokenizer_of", lambda cfg: pytest.fail("too late"))
    cfg = compose.check(compose.compose("fit", [f"output_dir={tmp_path / 'run'}", *overrides]))
    with pytest.raises(ConfigError, match=message):
        plan_run(cfg, find_resumption(cfg.ckpt_path, cfg.output_dir))
