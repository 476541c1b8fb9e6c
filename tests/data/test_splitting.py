from __future__ import annotations

import pytest

from ftframe.data.splitting import hold_out
from ftframe.errors import ConfigError


def test_the_split_is_seeded_and_keeps_order_and_rows() -> None:
    rows = list(range(50))
    train, validation = hold_out(rows, fraction=0.1, seed=3)
    assert (len(train), len(validation)) == (45, 5)
    assert sorted(train + validation) == rows
    assert (train, validation) == (sorted(train), sorted(validation))
    assert hold_out(rows, fraction=0.1, seed=3) == (train, validation)
    assert hold_out(rows, fraction=0.1, seed=4) != (train, validation)


@pytest.mark.parametrize("fraction", [0.01, 0.99], ids=["no-validation", "no-train"])
def test_an_empty_side_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation_fraction=.* of 10 rows.*validation_path"):
        hold_out([0] * 10, fraction=fraction, seed=0)
