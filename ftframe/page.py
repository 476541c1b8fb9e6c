"""`preview.html`: the examples and figures of `ftframe preview` as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ftframe.data.spelling import Token

STYLE = """
:root { color-scheme: light dark; --learnt: #b7efc5; --masked: #8888; --edge: #8884; --bar: #4c9f70; }
@media (prefers-color-scheme: dark) { :root { --learnt: #1f5c36; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0 0 1.5rem; } caption { text-align: left; font-weight: 600; }
td, th { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid var(--edge); }
td:first-child, th:first-child { text-align: left; }
.text { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; border: 1px solid var(--edge); padding: .7rem; }
.text span { outline: 1px solid var(--edge); } .text .s { background: var(--learnt); } .text .m { opacity: .65; }
.bar { display: inline-block; height: .8em; background: var(--bar); }
"""


def render_page(title: str, parts: Iterable[str]) -> str:
    """The whole page around its parts."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def render_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption>{head}{body}</table>"


def render_histogram(title: str, bars: Sequence[tuple[int, int, int]]) -> str:
    """Bars of how many examples have a length from ... to ..."""
    most = max(count for _, _, count in bars)
    rows = "".join(
        f"<tr><td>{low:,} to {high:,}</td><td>{count:,}</td>"
        f'<td style="text-align:left"><span class="bar" style="width:{20 * count / most:.2f}rem"></span></td></tr>'
        for low, high, count in bars
    )
    return f"<table><caption>{escape(title)}</caption><tr><th>tokens</th><th>examples</th><th></th></tr>{rows}</table>"


def render_example(title: str, tokens: Sequence[Token]) -> str:
    """One example, its learnt tokens on a coloured ground; the token's id shows under the pointer."""
    spans = "".join(
        f'<span class="{"s" if token.supervised else "m"}" title="{token.id}">{escape(token.text)}</span>'
        for token in tokens
    )
    return f'<h3>{escape(title)}</h3><div class="text">{spans}</div>'
