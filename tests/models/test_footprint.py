from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ftframe.models.footprint import Layout, Saved, estimate, largest_micro_batch, with_memory
from ftframe.models.memory import SETTINGS
from ftframe.models.model_size import ModelSize

SEVEN_BILLION = 6_738_415_616
SIZE = ModelSize(
    parameters=SEVEN_BILLION,
    trained=39_976_960,
    trained_bytes=4 * 39_976_960,
    frozen_bytes=2 * SEVEN_BILLION,
    quantised_bytes=0,
    frozen_products=6_607_077_376,
    trained_products=39_976_960,
    largest_matrix=0,
    layers=32,
    hidden=4096,
    attention=4096,
    vocabulary=32000,
    head_is_frozen=True,
)
FULL = replace(
    SIZE, trained=SEVEN_BILLION, trained_bytes=4 * SEVEN_BILLION, frozen_bytes=0, frozen_products=0,
    trained_products=6_607_077_376, head_is_frozen=False,
)  # fmt: skip
LAYOUT = Layout(
    tokens=8192,
    compute_bytes=2,
    compiles=True,
    chunks_loss=True,
    memory="none",
    saved=Saved(210_000),
    saved_by_budget=Saved(100_000),
    state_bytes=8.0,
    feed_forward=11008,
)

settings = st.sampled_from(SETTINGS)
FOUR_BITS = replace(
    SIZE, frozen_bytes=0.52 * SEVEN_BILLION, quantised_bytes=0.52 * SEVEN_BILLION, largest_matrix=4096 * 11008,
    ample_bytes=2 * SEVEN_BILLION,
)  # fmt: skip
sizes = st.sampled_from([SIZE, FULL, FOUR_BITS])
tokens = st.integers(1, 2**18)


def total(size, layout, **changes):
    return estimate(size, replace(layout, **changes)).total


def test_parts_add_up_to_the_peak():
    found = estimate(SIZE, LAYOUT)
    standing = found.weights + found.adapter + found.optimizer
    assert found.total == standing + found.activations + max(found.loss, found.workspace)
    assert found.weights == 2 * SEVEN_BILLION
    assert found.adapter == found.gradients == 4 * 39_976_960
    assert found.optimizer == 8 * 39_976_960


def test_few_activations_leave_the_peak_to_the_gradients():
    found = estimate(FULL, replace(LAYOUT, tokens=64))
    assert found.adapter == 0
    assert found.weights == found.gradients == 4 * SEVEN_BILLION
    assert found.total == found.weights + found.optimizer + found.gradients + found.workspace


def test_accumulated_gradients_stand_beside_the_activations():
    found = estimate(FULL, replace(LAYOUT, accumulates=True))
    standing = found.weights + found.optimizer + found.gradients
    assert found.total == standing + found.activations + max(found.loss, found.workspace)


@given(size=sizes, memory=settings, count=tokens)
def test_the_peak_is_between_the_largest_part_and_the_sum_of_all(size, memory, count):
    found = estimate(size, replace(LAYOUT, memory=memory, tokens=count))
    parts = list(vars(found).values())
    assert max(parts) <= found.total <= sum(parts)


@given(size=sizes, memory=settings, first=tokens, second=tokens)
def test_more_tokens_never_take_less(size, memory, first, second):
    less, more = sorted((first, second))
    assert total(size, LAYOUT, memory=memory, tokens=less) <= total(size, LAYOUT, memory=memory, tokens=more)


@given(count=st.integers(256, 2**18))
def test_each_setting_takes_at_most_what_the_one_before_it_does(count):
    peaks = [total(FOUR_BITS, LAYOUT, memory=memory, tokens=count) for memory in SETTINGS]
    assert peaks == sorted(peaks, reverse=True)


@given(size=sizes, count=tokens)
def test_each_setting_keeps_fewer_activations_than_the_one_before_it(size, count):
    ample, *kept = [estimate(size, replace(LAYOUT, memory=memory, tokens=count)).activations for memory in SETTINGS]
    assert kept == sorted(set(kept), reverse=True)
    assert ample == kept[0]


@given(memory=settings, count=tokens)
def test_logits_in_chunks_take_at_most_what_all_of_them_do(memory, count):
    chunked, whole = (
        estimate(SIZE, replace(LAYOUT, memory=memory, tokens=count, chunks_loss=chunks)).loss
        for chunks in (True, False)
    )
    assert chunked <= whole


def test_logits_of_a_head_that_trains_are_never_in_chunks():
    both = [estimate(FULL, replace(LAYOUT, chunks_loss=chunks)).loss for chunks in (True, False)]
    assert both[0] == both[1] >= LAYOUT.tokens * FULL.vocabulary * 4


def test_settings_are_ordered_strictly_on_long_rows():
    peaks = [total(FOUR_BITS, LAYOUT, memory=memory) for memory in SETTINGS]
    assert len(set(peaks)) == len(SETTINGS)


def test_where_memory_is_ample_weights_are_there_twice_and_not_unpacked_in_passing():
    ample, none = (estimate(FOUR_BITS, replace(LAYOUT, memory=memory)) for memory in ("ample", "none"))
    assert ample.weights == none.weights + 2 * SEVEN_BILLION
    assert none.workspace - ample.workspace == 2 * 2 * 4096 * 11008  # of the forward and of the backward pass


def test_another_setting_changes_nothing_else():
    assert with_memory(LAYOUT, "offload") == replace(LAYOUT, memory="offload")


@given(
    base=st.integers(0, 10**6),
    slope=st.integers(1, 10**5),
    capacity=st.integers(0, 10**7),
    step=st.sampled_from([1, 2, 8]),
)
def test_the_largest_micro_batch_fits_and_the_next_does_not(base, slope, capacity, step):
    def footprint(rows):
        return base + slope * rows

    found = largest_micro_batch(footprint, capacity, step=step)
    assert found % step == 0
    assert found == 0 or footprint(found) <= capacity or found >= 2**19
    assert footprint(found + step) > capacity or found // step == 2**20 - 1


def test_a_footprint_that_does_not_grow_ends_too():
    assert largest_micro_batch(lambda rows: 0.0, 1.0) == 2**20 - 1
