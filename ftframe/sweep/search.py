"""Trials that Optuna chooses, one by one, from what became of those before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from optuna.trial import Trial as Asked
from optuna.trial import TrialState

from ftframe import console
from ftframe.errors import ConfigError
from ftframe.schema import Pruner
from ftframe.sweep import outcomes
from ftframe.sweep.cells import Cell
from ftframe.sweep.multirun import Plan
from ftframe.sweep.names import find_problems
from ftframe.sweep.processes import is_run_elsewhere
from ftframe.sweep.progress import described
from ftframe.sweep.records import State, SweepFolder, Trial
from ftframe.sweep.reports import REPORTS, VERDICTS, append_line, read_lines
from ftframe.sweep.scheduler import Running
from ftframe.sweep.space import Parameter, spell
from ftframe.sweep.study import SharedStudy

_LOOK_AGAIN_SECONDS = 1.0
CALLBACK = "ftframe_pruning"
"""The name of the pruning callback in a trial's config."""


class Search:
    """The trials of a study that this sweep asks for."""

    def __init__(self, plan: Plan, space: Sequence[Parameter], study: SharedStudy, trials: dict[int, Trial]) -> None:
        """Begin with the trials that an earlier process of this sweep left unfinished."""
        self._plan = plan
        self._space = space
        self._study = study
        self._trials = trials
        self._folder = SweepFolder(plan.folder)
        self._asked: dict[int, Asked] = {}
        self._heard: dict[int, int] = {}
        self._sound: dict[str, str] = {}
        self._again = deque(self._unfinished())
        self._look_again = self._next_beat = 0.0
        self._queue_failed()
        study.take_over_silent()

    def _unfinished(self) -> list[Asked]:
        """The trials to go on with; those that others have taken over are over here."""
        found = []
        for trial in self._trials.values():
            if trial.state not in (State.WAITING, State.RUNNING, State.INTERRUPTED):
                continue
            if is_run_elsewhere(self._folder.lock(trial.number)):
                continue
            asked = self._study.find(trial.number)
            if asked is None:
                trial.state, trial.reason = State.FAILED, "another sweep took its values over"
            elif (self._folder.run(trial.number) / "manifest.json").is_file():  # it ended, and no one wrote it down
                outcomes.settle(trial, 0, self._folder, needs_manifest=True)
                self._tell(asked, trial)
            else:
                self._study.beat(asked)
                found.append(asked)
            self._folder.save(trial)
        return found

    def take(self) -> Cell | None:
        """As `Source`."""
        while True:
            asked = self._again.popleft() if self._again else self._ask()
            if asked is None:
                return None
            cell = self._plan.settle(asked.number, spell(self._space, asked.params))
            cell.problem = cell.problem or self._problem_of_names(cell)
            if not cell.problem:
                self._asked[asked.number] = asked
                return self._with_reports(cell)
            self._refuse(asked, cell)

    def is_exhausted(self) -> bool:
        """As `Source`; a study can grow again where a sweep has died."""
        return not self._again and time.monotonic() < self._look_again

    def watch(self, running: Sequence[Running]) -> None:
        """As `Source`: say that the trials live, and answer their reports."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._plan.settings.heartbeat_seconds / 2
            for item in running:
                self._study.beat(self._asked[item.trial.number])
            self._study.take_over_silent()
        if self._plan.settings.pruner is not Pruner.none:
            for item in running:
                self._answer(item.trial.number)

    def ended(self, trial: Trial) -> None:
        """As `Source`."""
        asked = self._asked.pop(trial.number)
        if trial.state is State.INTERRUPTED:
            return  # it is asked for still, and goes on with the next start
        if trial.state is State.DONE:
            self._tell(asked, trial)
        else:
            self._study.study.tell(asked, state=TrialState.FAIL, skip_if_finished=True)

    def _queue_failed(self) -> None:
        """Queue the values of trials that a signal killed, or of all that failed as they ran if that is asked for.

        Their numbers stay failed: a study tells no trial twice.
        """
        for trial in self._trials.values():
            killed = (trial.exit_code or 0) < 0
            is_due = trial.state is State.FAILED and trial.attempts and (killed or self._plan.settings.retry_failed)
            if is_due and self._study.queue_again(trial.number):
                trial.reason = f"{trial.reason}; its values are tried again"
                self._folder.save(trial)

    def _ask(self) -> Asked | None:
        if time.monotonic() < self._look_again:
            return None
        asked = self._study.ask()
        if asked is None:
            self._look_again = time.monotonic() + _LOOK_AGAIN_SECONDS
        return asked

    def _problem_of_names(self, cell: Cell) -> str:
        """What is wrong with the names in a cell; each distinct choice of them is checked once."""
        config = cell.config or {}
        key = repr([config.get(name) for name in ("data", "metrics", "template")])
        if key not in self._sound:
            self._sound[key] = find_problems([config])[0]
        return self._sound[key]

    def _refuse(self, asked: Asked, cell: Cell) -> None:
        reason = cell.problem.splitlines()[0]
        trial = Trial(cell.number, cell.varied, State.FAILED, exit_code=ConfigError.exit_code, reason=reason)
        self._trials[cell.number] = trial
        self._folder.save(trial)
        self._study.study.tell(asked, state=TrialState.FAIL)
        console.print_line(f"trial {cell.number:04} cannot run: {described(cell.varied)}: {reason}")

    def _with_reports(self, cell: Cell) -> Cell:
        if self._plan.settings.pruner is not Pruner.none and cell.config is not None:
            node = {
                "_target_": "ftframe.sweep.pruning.ReportValidation",
                "metric": self._plan.settings.objectives[0].metric,
                "folder": str(self._folder.run(cell.number)),
            }
            cell.config["callbacks"] = {**cell.config["callbacks"], CALLBACK: node}
        return cell

    def _answer(self, number: int) -> None:
        """Tell the study what a trial has measured, and the trial whether to go on."""
        run, asked = self._folder.run(number), self._asked[number]
        reports = read_lines(run / REPORTS)
        for report in reports[self._heard.get(number, 0) :]:
            step = int(report["step"])
            asked.report(report["value"], step)  # a step that an earlier attempt reported is kept as it was
            stop = bool(asked.should_prune())  # it may be numpy's
            append_line(run / VERDICTS, {"step": step, "stop": stop})
        self._heard[number] = len(reports)

    def _tell(self, asked: Asked, trial: Trial) -> None:
        """Tell the study of a trial that came to its end."""
        if any(verdict["stop"] for verdict in read_lines(self._folder.run(trial.number) / VERDICTS)):
            trial.state = State.PRUNED
            self._study.study.tell(asked, state=TrialState.PRUNED, skip_if_finished=True)
            return
        metrics = [objective.metric for objective in self._plan.settings.objectives]
        values: dict[str, Any] = trial.values or {}
        missing = [metric for metric in metrics if metric not in values]
        if missing:
            trial.state = State.FAILED
            found = ", ".join(sorted(values)) or "nothing"
            trial.reason = f"metrics.json has no {', '.join(missing)}, but {found}"
            self._study.study.tell(asked, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.study.tell(asked, [values[metric] for metric in metrics], skip_if_finished=True)
