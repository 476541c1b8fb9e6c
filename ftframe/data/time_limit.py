"""Calls of untrusted Python-like code, such as a chat template, that may never end."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What `call` returns, if it does so in time.

    It runs in a thread of its own, which is told to end at its next step of Python; a single step of C is not cut off.

    Raises:
        TimeoutError: If it takes longer.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # whatever it raises is raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise TimeoutError(f"it did not end within {seconds:g} seconds")
    if errors:
        raise errors[0]
    return results[0]
