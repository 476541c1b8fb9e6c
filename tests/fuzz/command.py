"""The command in this process, and what must hold of it whatever it was given."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ftframe import cli, runs

FACTOR = float(os.environ.get("FTFRAME_FUZZ", "1"))
"""How many times as many cases as usual; other than 1, they are new ones each time."""

FOREIGN = ("Traceback", "HYDRA_FULL_ERROR", "Error executing job", "Set the environment variable")
"""What our own messages never say."""


class Outcome(NamedTuple):
    """What a command left: its exit code, and what it printed."""

    code: Any
    out: str
    err: str


def run(*arguments: str, cwd: Path) -> Outcome:
    """`ftframe <arguments>` in a folder; what it changes in this process is taken back."""
    return _outcome(cli.main, arguments, cwd)


def as_task(task: Callable[[Any], object], cfg: Any, cwd: Path) -> Outcome:
    """The command, but with a config that is composed and checked already."""

    def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "_dispatch", lambda _: task(cfg) and 0)
            cli.main()

    return _outcome(main, (), cwd)


def _outcome(main: Callable[[], object], arguments: tuple[str, ...], cwd: Path) -> Outcome:
    """What a function leaves that ends as the command does; an exception that leaves it has code -1."""
    out, err = io.StringIO(), io.StringIO()
    before, environment, argv = Path.cwd(), dict(os.environ), list(sys.argv)
    handlers, typed, code = list(logging.root.handlers), runs._typed, None
    os.chdir(cwd)
    sys.argv[:] = ["ftframe", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            main()
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        code = -1
        err.write(traceback.format_exc())
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = argv
        logging.root.handlers[:] = handlers
        runs.set_typed(typed)
    return Outcome(code, out.getvalue(), err.getvalue())


def check(outcome: Outcome, folder: Path) -> int:
    """Hold an outcome to what every outcome must be; its exit code.

    Args:
        outcome: Of a command that ran in `folder`.
        folder: Where it may have written;.
    """
    said = outcome.out + outcome.err
    assert not any(words in said for words in FOREIGN), said
    assert outcome.code in (0, 2), outcome
    finished = list(folder.glob("outputs/*/*"))
    if outcome.code == 0:
        return 0
    message = re.search(r"^error: (.+)", outcome.err, re.MULTILINE)
    assert message, outcome
    assert len(message[1].strip()) > 10, outcome
    assert not finished, (outcome, finished)
    return 2


def explore(count: int, strategy: st.SearchStrategy[Any], case: Callable[[Any], Any]) -> Counter[Any]:
    """Try many cases, and count what came of them.

    Args:
        count: How many, before `FACTOR`.
        strategy: Draws one.
        case: Checks one; returns what came of it.
    """
    tally: Counter[Any] = Counter()

    @settings(
        max_examples=math.ceil(count * FACTOR),
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to shrink a case takes minutes where each runs the command
    )
    @given(strategy)
    def one(drawn: Any) -> None:
        tally[case(drawn)] += 1

    one()
    print(f"{sum(tally.values())} cases: {dict(tally)}")
    return tally
