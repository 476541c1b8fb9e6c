"""What a person sees: one rich console. What the libraries say goes into the run's log.txt instead."""

from __future__ import annotations

import logging
import logging.handlers
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ftframe.redaction import RedactingFormatter, redact
from ftframe.runs import is_first_rank

console = Console(quiet=not is_first_rank(), highlight=False)
_BUFFER = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
_CHATTY = ("lightning", "pytorch_lightning", "transformers", "bitsandbytes", "datasets", "peft", "huggingface_hub")


def capture_library_logs() -> None:
    """Hold back what libraries log and warn, until there is a file for it. Call before they are imported."""
    # The hub client reads this when it is imported; its bars would break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    root = logging.getLogger()
    if _BUFFER not in root.handlers:
        root.addHandler(_BUFFER)


def quieten_libraries() -> None:
    """Take away the handlers that libraries gave themselves at import, so that only the log hears them."""
    import transformers

    transformers.logging.disable_default_handler()
    transformers.logging.disable_progress_bar()
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in _CHATTY and isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def write_logs_to(path: Path) -> None:
    """Let the held-back log lines, and all that follow, go into a file."""
    if not is_first_rank():
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if _BUFFER.target is not None:
        _BUFFER.target.close()
    _BUFFER.setTarget(handler)
    _BUFFER.flush()
    _BUFFER.capacity = 1  # from here on every record is written at once


def print_config(cfg: DictConfig) -> None:
    """The composed configuration as a tree, one line per group."""
    config = redact(OmegaConf.to_container(cfg, enum_to_str=True))
    tree = Tree(f"[bold]ftframe {config['command']}[/bold]")
    for group in (group for group in config if group not in ("command", "sweep")):
        node = config[group]
        if node not in (None, {}, []):
            tree.add(f"[cyan]{group}[/cyan]  {_flat(node)}")
    console.print(tree)


def _flat(node: Any, *, nested: bool = False) -> str:
    """A node on one line, without what is empty."""
    if isinstance(node, Mapping):
        shown = {k: v for k, v in node.items() if v not in (None, "", {}, []) and k != "_partial_"}
        items = [f"[green]{v}[/green]" if k == "_target_" else f"{k}={_flat(v, nested=True)}" for k, v in shown.items()]
        line = "[dim],[/dim] ".join(items)
        return f"{{{line}}}" if nested else line
    if isinstance(node, list):
        return escape("[") + ", ".join(_flat(item, nested=True) for item in node) + "]"
    return escape(str(node))


@contextmanager
def progress(description: str, *, total: int | None = None, visible: bool = True) -> Iterator[Any]:
    """A progress bar, or a spinner where the total is not known; yields the function that advances it."""
    counted = (BarColumn(), MofNCompleteColumn()) if total is not None else (SpinnerColumn(finished_text="\u2713"),)
    bar = Progress(
        TextColumn("{task.description}"),
        *counted,
        TimeElapsedColumn(),
        console=console,
        disable=not visible or not is_first_rank(),
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda number=1: bar.advance(task, number)
        if total is None:
            bar.update(task, total=1, completed=1)


def print_results(baseline: Mapping[str, float] | None, final: Mapping[str, float], *, title: str) -> None:
    """Metrics side by side: before training and after."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for name in ("before", "after") if baseline is not None else ("value",):
        table.add_column(name, justify="right")
    for name in final:
        before = [f"{baseline[name]:.4f}" if name in baseline else "-"] if baseline is not None else []
        table.add_row(name, *before, f"{final[name]:.4f}")
    console.print(table)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> None:
    """A table, numbers on the right."""
    table = Table(title=escape(title), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="right" if index and name else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_marked(title: str, stretches: Iterable[tuple[bool, str]]) -> None:
    """A text with some stretches marked: by colour in a terminal, by brackets elsewhere."""
    text = Text()
    for marked, part in stretches:
        if not console.is_terminal:
            text.append(f"\u27e6{part}\u27e7" if marked else part)
        else:
            text.append(part, style="bold green" if marked else "dim")
    console.print(Rule(escape(title), align="left", characters="-"))
    console.print(text, soft_wrap=True)


def print_facts(facts: Iterable[tuple[str, Any]], *, title: str) -> None:
    """Two columns of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in facts:
        table.add_row(name, escape(str(value)))
    console.print(table, soft_wrap=True)


def print_turn(prompt: str, answer: str) -> None:
    """One prompt and its answer."""
    console.print(f"[dim]>[/dim] {escape(prompt)}", soft_wrap=True)
    console.print(f"[bold]{escape(answer)}[/bold]\n", soft_wrap=True)


def print_line(text: str) -> None:
    """One line, never broken, so that it can be copied."""
    console.print(escape(text), soft_wrap=True)
