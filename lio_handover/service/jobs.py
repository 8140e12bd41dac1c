"""Jobs: verbs that run in worker processes, and their results for as long as clients may read
them.

Root's jobs have places of their own, so nobody holds root up; what others may only look at ends
after a minute.
"""
from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from gi.repository import GLib

from .. import dbus_names, errors
from ..client.worker_process import WorkerProcess
from ..protocol import table
from ..system.external_program import where
from ..system.journald import ERR, NOTICE, Log
from ..verb_table import A_LINE, A_NODE, DOCUMENT, HANDOVER_VERBS, PAIR_VERBS, VERBS, WRITE
from .bus.dispatcher import DEFERRED, BusObject, Call, ObjectTree, unknown
from .workers import KEPT_SECONDS, PLACES, Workers

RUNNING, CANCELLING, DONE, FAILED, CANCELLED = "running", "cancelling", "done", "failed", \
    "cancelled"
#: Seconds that a job of somebody else than root may take which only looks, and seconds until a
#: worker that was told to end is killed.
READ_SECONDS, ENDS = 60, 5
#: Seconds between two signals about progress.
OFTEN = 0.2
#: Bytes of the largest request, and the most that Read and Finish return.
REQUEST, CHUNK, PIECE = 1 << 22, 1 << 22, 1 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Job(BusObject):
    """A verb that runs, or its result."""

    interfaces = (dbus_names.JOB,)

    def __init__(self, jobs: Jobs, number: int, request: Mapping[str, Any], user: int) -> None:
        super().__init__(f"{dbus_names.ROOT}/{dbus_names.JOBS}/{number}")
        self.jobs, self.number, self.user = jobs, number, user
        self.operation: str = request["verb"]
        self.handover: str = request["handover"]
        self.targets: List[str] = list(request["targets"] or jobs.targets_of(self.handover))
        self.deadline = table.deadline(request["role"], self.operation) if request["role"] else \
            VERBS[self.operation].deadline
        self.state = RUNNING
        self.step = (0, 0, "")
        self.details: Mapping[str, Any] = {}
        self.alarm = ""
        self.error = ("", "")
        self.result: Mapping[str, Any] = {}
        #: bytes of data, and whether they are secret, as the worker has announced; all that was not
        #: announced is nobody's
        self.size, self.secret = 0, True
        self.looks = bool(user) and not request["writes"]
        self.overtime = False
        self.started, self.ended = _now(), 0
        self.begun = self.last_message = self.last_signal = self.kept_since = time.monotonic()
        self._data = os.memfd_create("lio-handover", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.child: Optional[WorkerProcess] = None
        self.process = 0
        self.waiting: Dict[Call, Callable[[], None]] = {}
        self._pending = 0
        self._outcome = ""
        self._stands: Optional[Mapping[str, Any]] = None
        self._same_objects = False  # whether no object on the bus has come or gone by it
        #: whether it changes a handover, or an object of this host's, and so may be run by a worker
        #: that stays for others
        self.stays = not request["limited"] and not request["small"] and (
            HANDOVER_VERBS[self.operation].action == WRITE if request["role"]
            else VERBS[self.operation].takes in (A_LINE, A_NODE))

    @property
    def session(self) -> Tuple[str, int]:
        """A handover, "" for changes of objects, and a user: the worker that stays for these may
        have it in memory."""
        return self.handover, self.user

    @property
    def about(self) -> str:
        return " ".join(self.targets)

    @property
    def data(self) -> int:
        """The descriptor of its data.  Raises UnknownObject once the job is forgotten: by then
        another file may have that number."""
        if self._data < 0:
            raise unknown(self.path)
        return self._data

    def close(self) -> None:
        data, self._data = self._data, -1
        if data >= 0:
            os.close(data)

    @property
    def drives(self) -> bool:
        """Whether its own work is jobs, of both hosts' services."""
        return self.operation in PAIR_VERBS

    @property
    def cancelled(self) -> bool:
        """Whether its worker was told to end, or the service ends."""
        return self.state == CANCELLING or self.jobs.ending

    @property
    def running(self) -> bool:
        return self.state in (RUNNING, CANCELLING)

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.JOB:
            return {}
        number, total, _ = self.step
        return {"Id": self.number, "Operation": self.operation, "Handover": self.handover,
                "Targets": self.targets, "State": self.state, "Step": self.step,
                "Progress": 1.0 if self.state == DONE else number / total if total else 0.0,
                "Details": self.details, "Alarm": self.alarm, "Started": self.started,
                "Ended": self.ended, "User": self.user, "Process": self.process,
                "Error": self.error, "Result": self.result,
                "Size": 0 if self.running else self.size,
                "Secret": bool(self.secret and self.size)}

    # ---- messages of the worker ---
    def on_message(self, words: Mapping[str, Any]) -> None:
        if "alarm" in words:  # the worker's timer goes on while its work hangs
            self._alarm(words["alarm"])
            return
        self.last_message = time.monotonic()
        if self.alarm:
            self.alarm = ""
            self._changed("Alarm")
        if "progress" in words:
            number, total, what = words["progress"]
            self.step, self.details = (number, total, what), words.get("details", {})
            if not self._pending:
                wait = max(0.0, OFTEN - (self.last_message - self.last_signal))
                self._pending = GLib.timeout_add(int(wait * 1000), self._tell)
        elif "about" in words:
            self.handover, self.targets = words["about"], words["targets"]
            self._changed("Handover", "Targets")
        elif "data" in words:
            self.size, self.secret = int(words["data"]), bool(words["secret"])
        elif "result" in words:
            self.result = words["result"]
            self.targets = list(self.result.get("targets") or self.targets)
            self.handover = self.result.get("handover", self.handover)
            self._outcome = DONE
        elif "error" in words:
            self.error = (dbus_names.ERROR + words["error"], words["line"])
            self.result = {"findings": words["findings"]}
            self._outcome = CANCELLED if words["error"] == "Interrupted" else FAILED
        elif "stands" in words:
            self._stands = words["stands"]
        elif "same-objects" in words:
            self._same_objects = True
        elif "ended" in words:  # the worker stays
            self.jobs.workers.leave(self)
            self.exited(int(words["ended"]))

    def _tell(self) -> bool:
        self._pending, self.last_signal = 0, time.monotonic()
        self._changed("Step", "Progress", *(["Details"] if self.details else []))
        return False

    def exited(self, code: int) -> None:
        """The worker has exited, or has ended the verb and stays.  The objects are brought up to
        date before the job ends: by what the worker has told, or by a look at the host."""
        if not self._outcome and self.state == CANCELLING and code == -signal.SIGTERM:
            self._outcome = CANCELLED
            self.error = (dbus_names.ERROR + "Interrupted",
                          str(errors.Interrupted("cancelled before it began")))
        if not self._outcome:
            died = errors.WorkerDied(f"{self.operation} ended without a word (exit {code})",
                                     "whether anything was changed is not known")
            self.error, self._outcome = (dbus_names.ERROR + "WorkerDied", str(died)), FAILED
            self.size = 0
        if self._outcome == CANCELLED:
            self.size = 0  # in the middle of it
        if self.overtime and self._outcome != DONE:
            self._outcome, self.error = FAILED, (dbus_names.ERROR + "TooMany", str(errors.TooMany(
                f"{self.operation} took longer than a minute, which is what somebody has who may "
                "only look", do="name fewer targets, or ask root")))
        self.size = min(self.size, os.fstat(self.data).st_size)
        os.truncate(self.data, self.size)
        fcntl.fcntl(self.data, fcntl.F_ADD_SEALS, _SEALS)
        if self._stands is None and not self._same_objects:
            self.jobs.tree.refresh(self._end)
        else:
            if self._stands is not None:
                self.jobs.stands(self._stands)
            self._end()

    def _end(self) -> None:
        self.state, self.ended, self.child = self._outcome, _now(), None
        self.kept_since = time.monotonic()  # monotonic, as clocks may be set
        if self._pending:
            GLib.source_remove(self._pending)
            self._pending = 0
        if self.alarm:
            self.alarm = ""
        self._changed("State", "Step", "Progress", "Details", "Ended", "Alarm", "Error", "Result",
                      "Size", "Secret", "Targets", "Handover")
        self.jobs.tree.signal(self, dbus_names.JOB, "Completed", self.state, "")
        self._log(f"job {self.number}: {self.operation} {self.state}"
                  + (f": {self.error[1]}" if self.error[1] else ""),
                  ERR if self.state == FAILED else NOTICE)
        waiting, self.waiting = self.waiting, {}
        for resume in waiting.values():
            resume()
        self.jobs.ended()

    def check_alive(self) -> None:
        """Raise the alarm where the worker has not written a line for ``deadline`` seconds."""
        silent = time.monotonic() - self.last_message
        if self.running and not self.alarm and silent > self.deadline:
            self._alarm(f"{self.operation}: no sign of life for {silent:.0f} s")
        late = time.monotonic() - self.begun - READ_SECONDS
        if self.running and self.looks and late > 0 and self.child:
            self.overtime = True
            self.child.signal(signal.SIGTERM if late < ENDS else signal.SIGKILL)

    def _alarm(self, why: str) -> None:
        """Raise an alarm with the job's step; the first alarm stays."""
        if self.alarm:
            return
        number, total, what = self.step
        self.alarm = (why + (f" in step {number} of {total} ({what})" if total else "")
                      + f"; process {self.process} {where(self.process)}")
        self._changed("Alarm")
        self._log(f"job {self.number}: {self.alarm}", ERR)

    def _changed(self, *which: str) -> None:
        self.jobs.tree.changed(self, dbus_names.JOB, which)

    def _log(self, text: str, priority: int) -> None:
        self.jobs.log.say(text, priority, handover=self.handover, target=" ".join(self.targets),
                          step=self.step[2], job=str(self.number))

    def when_ended(self, call: Call, then: Callable[[], None]) -> None:
        """Answer a call by ``then`` once this has ended."""
        if self.running:
            self.waiting[call] = then
        else:
            then()

    # ---- methods ---
    def wait(self, call: Call, timeout: int, options: Mapping[str, Any]) -> Any:
        call.options(options)
        if not self.running:
            return self.state
        source = 0

        def ended() -> None:
            if source:
                GLib.source_remove(source)
            call.reply(self.state)

        def over() -> bool:
            if self.waiting.pop(call, None):
                call.reply(self.state)
            return False

        self.waiting[call] = ended
        if timeout:
            source = GLib.timeout_add(min(timeout // 1000 + 1, 1 << 31), over)
        return DEFERRED

    def gone(self, sender: str) -> None:
        """The sender has left the bus, and waits no more."""
        for call in [call for call in self.waiting if call.caller.sender == sender]:
            del self.waiting[call]

    def _own(self, call: Call, then: Callable[[], None], answers: bool = True) -> Any:
        def work() -> None:
            then()
            if answers:
                call.reply()

        call.allowed(() if call.caller.uid in (0, self.user) else (WRITE,), work)
        return DEFERRED

    def cancel(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)

        def work() -> None:
            if self.state == RUNNING and self.child:
                self.state = CANCELLING
                self.child.signal(signal.SIGTERM)
                self._changed("State")
        return self._own(call, work)

    def release(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)

        def work() -> None:
            if self.running:
                raise errors.NotEnded(f"job {self.number} is {self.state}",
                                      do="Wait for it, or Cancel it")
            self.jobs.forget(self)
        return self._own(call, work)

    def finish(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)

        def told() -> None:
            whole = self.size <= PIECE
            call.reply(self.state, self.error, self.result, self.size, os.pread(
                self.data, self.size, 0) if whole else b"")
            if whole and self.state == DONE:
                self.jobs.forget(self)

        def ended() -> None:
            call.allowed((DOCUMENT,) if self.secret and self.size else (), told)

        return self._own(call, lambda: self.when_ended(call, ended), False)

    def open(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self._with_data(call, lambda: call.reply(
            os.open(f"/proc/self/fd/{self.data}", os.O_RDONLY | os.O_CLOEXEC)))

    def read(self, call: Call, offset: int, length: int, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self._with_data(call, lambda: call.reply(
            os.pread(self.data, min(length, CHUNK, max(0, self.size - offset)), offset)
            if offset < self.size else b""))

    def _with_data(self, call: Call, then: Callable[[], None]) -> Any:
        if self.running:
            raise errors.NotEnded(f"job {self.number} is {self.state}", do="Wait for it")
        call.allowed((DOCUMENT,) if self.secret and self.size else (), then)
        return DEFERRED


class Jobs:
    """Starts jobs, keeps them, and watches them."""

    def __init__(self, tree: ObjectTree, log: Log) -> None:
        self.tree, self.log = tree, log
        self.workers = Workers()
        #: Is told how a handover and its targets stand after a verb.
        self.stands: Callable[[Mapping[str, Any]], None] = lambda facts: None
        # Job numbers are never reused: a client that waits across a restart cannot get another
        # job's result.  They are not times, as clocks are set back, and jobs may start at once.
        self._next = 1 + secrets.randbelow(1 << 31)
        self._kept: Dict[int, Job] = {}
        #: Whether the service ends: then no move is begun.
        self.ending = False
        tree.left.append(self._gone)
        GLib.timeout_add(1000, self._look)

    def _gone(self, sender: str) -> None:
        for job in self.running():
            job.gone(sender)

    def targets_of(self, handover: str) -> Sequence[str]:
        """The targets of a handover; none where this host does not know the handover."""
        node = self.tree.nodes.get(dbus_names.path(dbus_names.HANDOVERS, handover))
        targets: Sequence[str] = node.properties(dbus_names.HANDOVER)["Targets"] if node else ()
        return targets

    def start(self, request: Mapping[str, Any], documents: Sequence[int], user: int) -> Job:
        """Start a verb.  ``documents``: descriptors, which are closed here.  Raises TooMany,
        BadCall, NoService."""
        try:
            drives = request["verb"] in PAIR_VERBS
            self._have_place(drives, user)
            if drives and self.ending:
                raise errors.NoService("lio-handoverd ends", do="call again once it has started")
            data = json.dumps(request).encode()
            if len(data) > REQUEST:
                raise errors.BadCall(f"a request of {len(data)} bytes is too large",
                                     do="name fewer targets or maps at once")
            job = Job(self, self._next, request, user)
            self.workers.begin(job, data, documents)
        finally:
            for fd in documents:
                os.close(fd)
        self._next += 1
        self._kept[job.number] = job
        self.tree.add(job)
        job._log(f"job {job.number}: {job.operation} for user {user}", NOTICE)
        self.log.given(request["assertions"], request["asserted_by"],
                       job.handover, " ".join(job.targets))
        return job

    def _have_place(self, drives: bool, user: int) -> None:
        """Raises TooMany."""
        places = PLACES["others" if user else "root"]
        beside = [job for job in self.running() if bool(job.user) == bool(user)]
        running = len([job for job in beside if job.drives == drives])
        of_one = len([job for job in beside if job.user == user])
        if running >= (places.moves if drives else places.jobs) or user and (
                of_one >= places.jobs_of_one):
            raise errors.TooMany(f"{running} {'moves' if drives else 'jobs'} of "
                                 f"{'others than root' if user else 'root'} are running, "
                                 f"{of_one} jobs of user {user}")

    def forget(self, job: Job) -> None:
        if self._kept.pop(job.number, None):
            job.close()
            self.tree.remove(job.path)

    def ended(self) -> None:
        """A job has ended: forget the oldest of too many, root's for root's and others' for
        others'."""
        for who, of_root in (("root", True), ("others", False)):
            ended_jobs = [job for job in self._kept.values()
                          if not job.running and (job.user == 0) == of_root]
            for user in {job.user for job in ended_jobs}:
                mine = [job for job in ended_jobs if job.user == user]
                for job in mine[:max(0, len(mine) - PLACES[who].kept_of_one)]:
                    ended_jobs.remove(job)
                    self.forget(job)
            for job in ended_jobs[:max(0, len(ended_jobs) - PLACES[who].kept)]:
                self.forget(job)

    def _look(self) -> bool:
        old = time.monotonic() - KEPT_SECONDS
        for job in list(self._kept.values()):
            if job.running:
                job.check_alive()
            elif job.kept_since < old:
                self.forget(job)
        return True

    def running(self) -> List[Job]:
        return [job for job in self._kept.values() if job.running]

    def moves(self) -> List[Job]:
        """The moves that run."""
        return [job for job in self.running() if job.drives]


def _now() -> int:
    return time.time_ns() // 1000
