"""How fast data is prepared: `python benchmarks/data.py`, from the root of the checkout.

Tokenising: rows to examples through ftframe (rendered, tokenised, masked, checked for length) against the bare
`tokenizers.Tokenizer.encode_batch` of the same texts, in turns, on the same cores; the median of the rounds. Start: the
whole of `prepare_data` with an empty cache and with a warm one, imports not counted.

GSM8K and the Llama 2 tokenizer are looked for in `../shared/data`, or where `FTFRAME_SHARED_DATA` says; else the
embedded dataset and tokenizer are taken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from omegaconf import OmegaConf
from transformers import AutoTokenizer

from ftframe.api import Row, Segment
from ftframe.data.conversations import as_row
from ftframe.data.datasets import table
from ftframe.data.prompt_templates import Llama2
from ftframe.data.segments import SegmentEncoder
from ftframe.data.tokenizing import Limit, tokenize_rows
from ftframe.embedded.people import people
from ftframe.models.base import resolve_path
from ftframe.preparation import prepare_data
from ftframe.schema import DataConfig

SHARED = Path(os.environ.get("FTFRAME_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def load() -> tuple[Any, dict[str, Any], list[Row]]:
    """A tokenizer, the config node of a dataset, and its rows."""
    if not SHARED.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("pkg://ftframe.embedded/tiny"))
        rows = [as_row(row, "row") for row in people(size=1000)["train"] for _ in range(8)]
        return tokenizer, {"name": "people"}, [row for row in rows if isinstance(row, Row)]
    columns = {"prompt": "question", "completion": "answer"}
    path = str(SHARED / "gsm8k" / "train.jsonl")
    rows = [row for row in table(path=path, columns=columns)["train"] if isinstance(row, Row)]
    node = {"name": "table", "path": path, "columns": columns}
    return AutoTokenizer.from_pretrained(SHARED / "llama2_tokenizer"), node, rows


def seconds(run: Callable[[], Any]) -> float:
    """How long it takes once."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare_tokenising(tokenizer: Any, rows: list[Row], rounds: int) -> None:
    """Ftframe against the bare library on the same texts."""
    template, encoder = Llama2(), SegmentEncoder(tokenizer)
    segments: list[Segment] = [segment for row in rows for segment in template.render(row.messages)]
    texts = [piece.content for piece in encoder.pieces(segments) if isinstance(piece.content, str)]
    backend = tokenizer.backend_tokenizer
    limit = Limit(10**9)

    def bare() -> Any:
        return backend.encode_batch(texts, add_special_tokens=False)

    def ours() -> Any:
        return tokenize_rows(rows, template=template, tokenizer=tokenizer, limit=limit)

    tokens = len(ours().examples.input_ids)
    bare()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(rounds)]
    theirs, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"tokenising {len(rows):,} rows, {tokens:,} tokens, {os.cpu_count()} cores, median of {rounds} rounds")
    print(f"  bare encode_batch of {len(texts):,} texts  {theirs:.3f} s  {tokens / theirs:12,.0f} tokens/s")
    print(f"  ftframe, rows to examples            {own:.3f} s  {tokens / own:12,.0f} tokens/s  {theirs / own:.1%}")


def compare_starts(tokenizer: Any, node: dict[str, Any]) -> None:
    """Preparing with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory() as cache:
        data = OmegaConf.structured(DataConfig(dataset=node, template={"name": "llama2"}, cache_dir=cache))
        times = [seconds(lambda: prepare_data(data, Llama2(), tokenizer=tokenizer, seed=0)) for _ in range(3)]
    print(f"prepare_data: empty cache {times[0]:.2f} s, warm {times[1]:.2f} s and {times[2]:.2f} s")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    tokenizer, node, rows = load()
    compare_tokenising(tokenizer, rows, arguments.rounds)
    compare_starts(tokenizer, node)


if __name__ == "__main__":
    main()
