"""The number that ends a solution."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_FINAL = re.compile(r"####\s*\$?\s*(-?[0-9.,]+)")
_ANNOTATION = re.compile(r"<<[^<>]*>>")


def final_number(text: str) -> Decimal | None:
    """The number after the first `####`, its thousands' commas taken out; None if there is none.

    Source: `extract_answer` in https://github.com/openai/grade-school-math
    """
    found = _FINAL.search(text)
    if found is None:
        return None
    try:
        return Decimal(found[1].replace(",", "").rstrip("."))
    except InvalidOperation:
        return None


def without_annotations(solution: str) -> str:
    """A solution without the calculator's annotations, such as `<<48/2=24>>`."""
    return _ANNOTATION.sub("", solution)
