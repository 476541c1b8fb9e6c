"""`ftframe preview`: what a training run would learn from, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftframe import accounting, assembly, console, page, preparation, runs
from ftframe.data.examples import Examples
from ftframe.data.packing import pack_best_fit, packing_efficiency
from ftframe.data.spelling import Token, spell, stretches
from ftframe.data.streaming import Stream
from ftframe.data.task_data import PreparedTask
from ftframe.durable_files import write_json

SHOWN_REJECTED = 20
"""Rows that were left out which the page lists; `rejected_rows.jsonl` has all."""

LEGEND = "What is learnt {marked}; everything else is context that the loss does not count."


def preview(cfg: Any) -> Path:
    """Prepare the data as `fit` would, show it, and return the folder with `preview.html` and `preview.json`.

    Raises:
        ConfigError: If the config cannot be run.
        DataError: If the data cannot be trained on.
    """
    assembly.check_nodes(cfg)
    tokenizer, _ = preparation.load_tokenizer_of(cfg)
    inputs = preparation.prepare_inputs(cfg, tokenizer, cfg.model.attn_implementation)
    data, datamodule = inputs.data, inputs.datamodule
    layout = None if datamodule.streams else accounting.account_layout(datamodule.train_sampler(world_size=1))

    with runs.new_run_folder(cfg.output_dir) as folder:
        console.write_logs_to(folder / "log.txt")
        runs.write_config(folder, cfg)
        runs.write_rejected(folder, data.rejected)
        write_json(folder / "preview.json", accounting.figures(data, layout))

        examples = [
            (title, tokens) for task in data.trained for title, tokens in first_examples(task, cfg.examples, tokenizer)
        ]
        tables = list(figure_tables(data, layout))
        bars = [] if isinstance(data.train, Stream) else accounting.histogram(data.train.lengths)
        show(examples, tables, bars)
        accounting.warn_of_duplicates(data)
        (folder / "preview.html").write_text(as_page(examples, tables, bars, data.rejected), encoding="utf-8")
        console.print_facts([("preview", runs.shown(folder / "preview.html"))], title="Done")
        return folder


def first_examples(task: PreparedTask, count: int, tokenizer: Any) -> Iterator[tuple[str, list[Token]]]:
    """The first training examples of a task, each with a title."""
    examples = task.train if isinstance(task.train, Examples) else task.train.first(count)
    for index in range(min(count, len(examples))):
        tokens = spell(examples[index], tokenizer)
        learnt = sum(token.supervised for token in tokens)
        rows = task.rows.get("train")
        where = rows[examples.rows[index] - 1].where if rows else f"{task.source.label('train')} row {index + 1}"
        yield f"{where}: {len(tokens)} tokens, {learnt} learnt", tokens


Figures = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table: title, header and rows."""


def figure_tables(data: preparation.PreparedData, layout: accounting.Layout | None) -> Iterator[Figures]:
    """The figures of the data as tables."""
    yield "Rows", ("split", "read", "kept", "left out or changed"), list(row_figures(data))
    header = ("split", "examples", "tokens", "mean", "longest", "learnt", "share learnt")
    yield "Tokens", header, list(token_figures(data))
    if data.mixture is not None:
        yield "Mixture", accounting.MIXTURE_HEADER, accounting.mixture_rows(data)
    if layout is not None:
        yield "Batches of an epoch", ("", ""), list(layout_figures(data, layout))


def row_figures(data: preparation.PreparedData) -> Iterator[tuple[str, ...]]:
    """What became of the rows of each split."""
    for task in data.tasks:
        for split, kept in task.kept.items():
            prefix = f"{split}_"
            counts = {name.removeprefix(prefix): n for name, n in task.counts.items() if name.startswith(prefix)}
            read = counts.pop("rows")
            changes = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items())
            yield task.source.label(split), f"{read:,}", f"{len(kept):,}", changes or "-"


def token_figures(data: preparation.PreparedData) -> Iterator[tuple[str, ...]]:
    """How many tokens each split has, and how many of them are learnt."""
    for task in data.tasks:
        for split, examples in (("train", task.train), ("validation", task.validation)):
            if not isinstance(examples, Examples) or not len(examples):
                continue
            tokens, learnt, longest = examples.lengths.sum(), examples.targets.sum(), examples.lengths.max()
            yield (
                task.source.label(split),
                f"{len(examples):,}",
                f"{tokens:,}",
                f"{tokens / len(examples):,.1f}",
                f"{longest:,}",
                f"{learnt:,}",
                f"{learnt / tokens:.1%}",
            )


def layout_figures(data: preparation.PreparedData, layout: accounting.Layout) -> Iterator[tuple[str, str]]:
    """How an epoch lies in batches, and what packing would change."""
    yield "micro-batches", f"{layout.batches:,}"
    yield "rows", f"{layout.rows:,}"
    yield "padding", f"{layout.padding:.1%}"
    if layout.packing_efficiency is not None:
        yield "packing efficiency", f"{layout.packing_efficiency:.2%}"
    elif isinstance(data.train, Examples):
        capacity = data.tasks[0].source.limit.max_length
        packs = pack_best_fit(data.train.lengths, capacity)
        efficiency = packing_efficiency(data.train.lengths, packs, capacity)
        yield "with data.packing=true", f"{len(packs):,} rows of {capacity:,} tokens, {efficiency:.2%} full"


def show(examples: Sequence[tuple[str, list[Token]]], tables: Sequence[Figures], bars: Sequence[Any]) -> None:
    """The examples and figures in the terminal."""
    for title, tokens in examples:
        console.print_marked(title, stretches(tokens))
    marked = "is coloured" if console.console.is_terminal else "stands in \u27e6 \u27e7"
    console.print_line(LEGEND.format(marked=marked))
    for title, header, rows in tables:
        console.print_table(header, rows, title=title)
    if bars:
        most = max(count for _, _, count in bars)
        rows = [(f"{low:,} to {high:,}", f"{n:,}", "\u2588" * round(30 * n / most)) for low, high, n in bars]
        console.print_table(("tokens", "examples", ""), rows, title="Lengths")


def as_page(
    examples: Sequence[tuple[str, list[Token]]],
    tables: Sequence[Figures],
    bars: Sequence[Any],
    rejected: Sequence[dict[str, str]],
) -> str:
    """The same as a page."""
    parts = [f"<p>{LEGEND.format(marked='is coloured')}</p>", *(page.render_example(*example) for example in examples)]
    parts += [page.render_table(*table) for table in tables]
    if bars:
        parts.append(page.render_histogram("Lengths of the training examples", bars))
    if rejected:
        rows = [tuple(row.values()) for row in rejected[:SHOWN_REJECTED]]
        title = f"Rows left out ({len(rejected):,}; the first {len(rows)})"
        parts.append(page.render_table(title, tuple(rejected[0]), rows))
    return page.render_page("ftframe preview", parts)
