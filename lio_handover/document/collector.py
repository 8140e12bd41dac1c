"""Python's collector of cyclic garbage, paused while very many objects are made that all stay."""
from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def paused() -> Iterator[None]:
    """The collector runs again and again as objects are made, and looks at all of them each time:
    so that the time grows faster than their number.  As a decorator: while the function runs."""
    runs = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if runs:
            gc.enable()
