"""What Lightning and a run's callbacks add to a step.

Trains as `ftframe fit` would, without validation, then goes on with the same model, loss, batches and optimizer in a
loop of a few lines, and prints a line of JSON with the median step of both. In the loop as in the run, the figures of a
step are read from the device when the next one has been queued.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from ftframe import assembly, compose
from ftframe.resumption import find_resumption
from ftframe.run_plan import Plan, plan_run

WARMUP, STEPS = 5, 25


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of ftframe fit, such as model=llama2")
    given = parser.parse_args()
    steps = f"trainer.max_steps={WARMUP + STEPS}"
    cfg = compose.check(compose.compose("fit", [*given.overrides, steps, "trainer.limit_val_batches=0"]))
    plan = plan_run(cfg, find_resumption(None, cfg.output_dir))
    module = plan.build_module(cfg)
    plan.trainer.fit(module, plan.inputs.datamodule)
    run = statistics.median(plan.throughput.step_seconds[-STEPS:])
    module.to(plan.trainer.strategy.root_device)  # from where Lightning puts it aside
    bare = statistics.median(bare_steps(cfg, plan, module)[-STEPS:])
    figures = {"run": round(run, 5), "bare loop": round(bare, 5), "Lightning adds": round(run / bare - 1, 4)}
    print(json.dumps({**figures, "memory": plan.engine.memory, "compiled": plan.engine.compiles}), flush=True)


def bare_steps(cfg: Any, plan: Plan, module: Any) -> list[float]:
    """Seconds of each optimizer step."""
    device = plan.trainer.strategy.root_device
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = assembly.build_optimizer(cfg.optim, weights)
    seconds, norm = [], None
    batches = plan.inputs.datamodule.train_dataloader()
    module.train()
    while len(seconds) < WARMUP + STEPS:
        for batch in batches:
            begun = time.perf_counter()
            moved = plan.inputs.datamodule.transfer_batch_to_device(batch, device, 0)
            module._loss(moved).backward()
            before, norm = norm, torch.nn.utils.get_total_norm([weight.grad for weight in weights])
            torch._foreach_mul_([weight.grad for weight in weights], 1 / batch["supervised_tokens"])
            torch.nn.utils.clip_grad_norm_(weights, cfg.trainer.gradient_clip_val)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if before is not None:
                float(before)
            seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main()
