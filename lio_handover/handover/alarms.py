"""Tells of a verb that takes longer than it should, whatever it hangs in: by another thread."""
from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, Optional, Tuple

#: Seconds between two looks at most, and without a verb after which the thread ends.
OFTEN, IDLE = 0.25, 2.0


class Alarms:
    """One thread for all verbs of a process that follow each other: to start one for each takes as
    long as a short verb."""

    def __init__(self) -> None:
        self._lock, self._numbers = threading.Lock(), itertools.count()
        #: number → (when, by the monotonic clock, what is called then)
        self._due: Dict[int, Tuple[float, Callable[[], None]]] = {}
        self._thread: Optional[threading.Thread] = None

    @contextmanager
    def after(self, seconds: float, late: Callable[[], None]) -> Iterator[None]:
        """Call ``late`` once where this context takes longer than so many seconds."""
        number = next(self._numbers)
        with self._lock:
            self._due[number] = time.monotonic() + seconds, late
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            self._due.pop(number, None)

    def _look(self) -> None:
        idle_since = time.monotonic()
        while True:
            now = time.monotonic()
            for number, (due, late) in list(self._due.items()):
                if now >= due and self._due.pop(number, None) is not None:
                    late()
            idle_since = now if self._due else idle_since
            with self._lock:
                if not self._due and now - idle_since > IDLE:
                    self._thread = None
                    return
            nearest = min((due for due, _late in list(self._due.values())), default=now + OFTEN)
            time.sleep(min(OFTEN, max(0.01, nearest - now)))


ALARMS = Alarms()
