"""Calls that are ended where they do not end by themselves."""

import threading
import time

import pytest

from ftframe.data.time_limit import within


def test_result_and_error_of_the_call_are_its_own():
    assert within(5, lambda: [1]) == [1]
    assert within(5, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_call_that_does_not_end_is_ended():
    running, ended = threading.Event(), threading.Event()

    def loop():
        running.set()
        try:
            while True:
                pass
        finally:
            ended.set()

    started = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"^it did not end within 0\.2 seconds$"):
        within(0.2, loop)
    assert 0.2 <= time.perf_counter() - started < 5
    assert running.is_set()
    assert ended.wait(5)  # the thread is gone too
