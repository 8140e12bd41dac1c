"""The workers of jobs: a verb of a handover is run by the process that ran the last one, which has
it in memory, where that has stayed; any other by the spare one."""
from __future__ import annotations

import os
from typing import (Any, Callable, Dict, Hashable, List, Mapping, NamedTuple, Optional, Protocol,
                    Sequence, Tuple)

from ..client.worker_process import WorkerPool, WorkerProcess

#: Workers that stay at most; those that were used last do.
MOST = 8


class Places(NamedTuple):
    """Jobs that may run at once, but for moves; moves; ended jobs that are kept; and of these
    what one user may have.  A move has one of root's jobs at a time, whoever began it."""

    jobs: int
    moves: int
    kept: int
    jobs_of_one: int
    kept_of_one: int


#: Ended jobs that are kept, and the seconds that each of them is kept.
KEPT, KEPT_SECONDS = 64, 3600
PLACES: Mapping[str, Places] = {"root": Places(24, 8, KEPT, 24, KEPT),
                                "others": Places(16, 8, KEPT, 8, 16)}


class Sessions:
    """Workers that stay between two verbs of a handover, with what they have in memory of it: at
    most `MOST`, of which those that were used last stay."""

    def __init__(self) -> None:
        self._idle: Dict[Hashable, WorkerProcess] = {}

    def keep(self, whose: Hashable, child: WorkerProcess) -> None:
        """Have an idle worker wait for the next verb of a handover."""
        def lost(_code: int) -> None:
            if self._idle.get(whose) is child:
                del self._idle[whose]

        child.said, child.ended = lambda words: None, lost
        self._dismiss(whose)
        self._idle[whose] = child
        while len(self._idle) > MOST:
            self._dismiss(next(iter(self._idle)))

    def take(self, whose: Hashable) -> Optional[WorkerProcess]:
        """The worker of a handover, where there is one and it is idle."""
        child = self._idle.pop(whose, None)
        return None if child is None or child.dead else child

    def dismiss(self) -> None:
        for whose in list(self._idle):
            self._dismiss(whose)

    def _dismiss(self, whose: Hashable) -> None:
        child = self._idle.pop(whose, None)
        if child is not None:
            child.dismiss()


class Job(Protocol):
    """A job (jobs.py), as far as its worker is concerned."""

    child: Optional[WorkerProcess]
    process: int
    stays: bool

    @property
    def data(self) -> int: ...

    @property
    def session(self) -> Tuple[str, int]: ...

    @property
    def cancelled(self) -> bool: ...

    def on_message(self, words: Mapping[str, Any]) -> None: ...

    def exited(self, code: int) -> None: ...


class Workers:
    """Gives each job its worker."""

    def __init__(self) -> None:
        self.spare, self._sessions = WorkerPool(), Sessions()
        #: Is told when a verb of a handover begins, or (True) has ended: another may follow.
        self.hurried: Callable[[bool], None] = lambda ended: None

    def begin(self, job: Job, data: bytes, documents: Sequence[int]) -> None:
        """Have a worker run a job, whose request is ``data``."""
        child = self._sessions.take(job.session) if job.stays else None
        if child is None:
            return self._ask(self.spare.take(), job, data, documents)
        copies = [os.dup(fd) for fd in documents]

        def taken(words: Mapping[str, Any]) -> None:
            _close(copies)
            child.said, child.ended = job.on_message, job.exited
            job.on_message(words)

        def gone(code: int) -> None:
            """It ended while it waited, so nothing was begun."""
            if job.cancelled:
                job.exited(code)
            else:
                self._ask(self.spare.take(), job, data, copies)
            _close(copies)

        self._ask(child, job, data, documents)
        child.said, child.ended = taken, gone

    def _ask(self, child: WorkerProcess, job: Job, data: bytes, documents: Sequence[int]) -> None:
        request = os.memfd_create("request", os.MFD_CLOEXEC)
        try:
            os.pwrite(request, data, 0)
            child.said, child.ended = job.on_message, job.exited
            child.ask([request, job.data, *documents])
            job.child, job.process = child, child.pid
        finally:
            os.close(request)
        if job.stays:
            self.hurried(False)

    def leave(self, job: Job) -> None:
        """The worker of a job has ended it, and stays: for the next verb of the same handover,
        unless a signal may be on its way to it."""
        child = job.child
        assert child is not None
        self.hurried(True)
        if job.cancelled or not job.stays:
            child.said, child.ended = lambda words: None, lambda code: None
            child.dismiss()
        else:
            self._sessions.keep(job.session, child)

    def dismiss(self) -> None:
        """Tell all workers that wait that no request follows."""
        self.spare.dismiss()
        self._sessions.dismiss()


def _close(descriptors: List[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
