"""A worker process: it runs a verb for a request, and writes lines of JSON.

    lio_handover.service.worker            a request, then the end; or the next one, see `serve`
    lio_handover.service.worker --surveys  a line in: this host's state out
    lio_handover.service.worker --follows  a line in: the copies follow the APTPL files
    lio_handover.service.worker --guards   see guards.py

Standard input is a socket.  A request is one byte with descriptors: the request itself, a file for
the verb's data, and the documents, messages or sockets that the verb takes.

Lines: {"progress": [number, total, step], "details": {…}}, {"about": handover, "targets": […]},
{"alarm": why}, {"data": bytes, "secret": …} before the data is written, {"stands": …} (how the
handover and its targets stand now), and at the end {"result": …} or {"error": name, …}; of a worker
that stays {"ended": exit code} after that; for --surveys {"survey": …} or {"failed": why, "error":
name}, and unasked {"changed": true} where an object came or went.  No line has a secret.
"""
from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, replace
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from .. import errors, settings
from ..actions.aptpl_copies import Follower
from ..client import asking
from ..document import document as documents
from ..document.document import Document
from ..execute.step_runner import Describable
from ..handover.engine import HandoverEngine, Reply, reply_from_json, reply_to_json
from ..host.memory import Memory
from ..local import asked_changes, restoring, verbs
from ..local.ours import Ours
from ..local.survey import folders, listing, of_handover, survey
from ..local.tree_watches import EVERYBODY, MOST as MOST_WATCHED, TreeWatches
from ..protocol import messages
from ..protocol.authentication import Authentication
from ..records.journal import Handover, Journal, ids
from ..storage import policy
from ..system import document_file
from ..verb_table import (A_DOCUMENT, A_LINE, A_NODE, HANDOVER_VERBS, HOST_VERBS, PAIR_VERBS, READ,
                          TARGETS, VERBS)
from ..views import json_view
from . import moves
from .guards import guards

#: Descriptors of the largest request: those that a D-Bus message may have, and two.
MOST = 18
#: Seconds between two lines about progress in steps of one slot.
OFTEN = 0.05
#: The time is taken at one of so many steps of a slot.
SELDOM = 16

#: Bytes of memory that a worker may have for somebody who may only look; and that one may have had
#: which stays.
SMALL_MEMORY, SESSION_MEMORY = 256 << 20, 512 << 20

#: (a verb's result, its data, whether the data is secret).
JobResult = Tuple[Dict[str, Any], bytes, bool]


class Stopped(BaseException):
    """SIGTERM came while nothing was being changed."""


class Work:
    """A request that is being run."""

    def __init__(self, request: Mapping[str, Any], answer: int, documents: Sequence[int],
                 memory: Optional[Memory] = None) -> None:
        self.request, self.answer, self.documents = request, answer, documents
        self.verb: str = request["verb"]
        self.core = Ours(replace(
            settings.load(request["config"]) if request["config"] else settings.load(),
            limited=bool(request["limited"])), memory.fs if memory is not None else None)
        self.core.read_only = request["small"]
        row = HANDOVER_VERBS[self.verb] if request["role"] else VERBS[self.verb]
        self.core.blind = "secrets" in row.options and not request["secrets"]
        self.document_bytes = self.core.settings.document_bytes
        if request["small"]:
            self.document_bytes = min(self.document_bytes, document_file.SMALL)
            resource.setrlimit(resource.RLIMIT_DATA, (SMALL_MEMORY, SMALL_MEMORY))
        self.stopping = False
        self.writes = row.action != READ
        self.deferred = bool(request["role"]) or self.writes or bool(request["probe"])
        #: for how many seconds the process waits for the next verb of the handover
        self.stays = 0
        if memory is not None and request["role"] and self.writes \
                and not (request["limited"] or request["small"]):
            self.core.memory = memory
            memory.begin(self.verb)
        elif memory is not None and row.takes in (A_LINE, A_NODE) \
                and not (request["limited"] or request["small"]):
            self.stays = self.core.settings.session_seconds
            memory.begin_change()
        self._last, self._slot = 0.0, ""

    def signalled(self, _number: int, _frame: object) -> None:
        self.stopping = True
        if not self.deferred:
            raise Stopped

    def stop(self) -> bool:
        return self.stopping

    def progress(self, number: int, total: int, step: Describable) -> None:
        if step.slot == self._slot and number % SELDOM:
            return
        now = time.monotonic()
        if now - self._last >= OFTEN or step.slot != self._slot:
            self._last, self._slot = now, step.slot
            say({"progress": [number + 1, total, step.description]})

    def inside(self, targets: Sequence[Tuple[str, str]]) -> None:
        """Raises StorageNotAllowed for (fabric, WWN) targets outside the configured storage, where
        only membership of the group authorizes the caller."""
        if self.request["limited"] and targets:
            state = self.core.show([f"{fabric}/{wwn}" for fabric, wwn in targets])
            errors.refuse([finding for store in state.backstores
                           for finding in policy.findings(store, {}, self.core.settings)
                           if finding.error is errors.StorageNotAllowed])

    def may_touch(self, name: str) -> None:
        """As `inside`, for a handover's targets, which this host may know by other names.  Raises
        StorageNotAllowed."""
        if not self.request["limited"]:
            return
        wanted, folder = {*self.request["targets"]}, self.core.settings.state_directory
        if name in ids(folder):
            journal = Journal(folder, name, tolerate_damage=True)
            wanted |= {*journal.handover.targets, *journal.facts.local}
        self.inside([name for name in self.core.names((), True) if "/".join(name) in wanted])

    def document(self) -> Document:
        limit = self.document_bytes
        return documents.loads(document_file.read_descriptor(self.documents[0], limit), limit)


# ---- the verbs of one host ---
def host_verb(work: Work) -> JobResult:
    """Run a verb of HOST_VERBS.  The data has all findings, also where the verb fails with the
    first of them."""
    asked, row = work.request, HOST_VERBS[work.verb]
    if row.takes == TARGETS and not asked["targets"] and not asked["all"]:
        raise errors.BadCall("no target is named", do='name targets, or set the option "all"')
    result = verbs.VERBS[work.verb](work.core, verbs.Call(
        asked["targets"], asked["all"], asked["allow"], asked["maps"], asked["probe"],
        work.document() if row.takes == A_DOCUMENT else None, work.progress, work.stop,
        may=work.inside if asked["limited"] else None, **asked_changes.arguments(
            work.core, asked, work.documents, row.takes)))
    if asked_changes.same_objects(result):
        say({"same-objects": True})
    report = json_view.report(result, asked["allow"])
    try:
        errors.refuse(result.findings, asked["allow"])
    except errors.HandoverError:
        _answer(work, report.data, report.secret)
        raise
    return report.summary, report.data, report.secret


# ---- the verbs of drivers ---
def move(work: Work) -> JobResult:
    """Run a move between this host and another."""
    work.may_touch(work.request["handover"])
    return moves.carry_out(work.request, work.core.settings, work.documents, say,
                           work.stop), b"", False


# ---- the verbs of handovers ---
def handover(work: Work) -> JobResult:
    """Run a verb of HANDOVER_VERBS: the handover's state, and the whole reply as data."""
    asked, limit = work.request, work.document_bytes
    given = [message for fd in work.documents
             for message in _messages(document_file.read_descriptor(fd, 2 * limit), 2 * limit)]
    if asked["document-version"] not in (0, documents.VERSION):
        raise errors.VersionsDiffer(f"documents of version {asked['document-version']} are not "
                                    "written here")
    every = HandoverEngine(work.core, asking.asker(work.core.settings), alarm)
    name = asked["handover"]
    if not name and given:
        say({"about": given[0].handover, "targets": list(given[0].targets)})
    if not name and work.verb in ("status", "recover"):
        return _of_all(work, every)
    role = every.known(name).role if asked["role"] == "both" else asked["role"]
    work.may_touch(name)
    answer = _do(work, every, role, name, given)
    if work.writes:
        say({"stands": of_handover(work.core, answer.handover.id)})
        if work.core.memory is not None and not answer.handover.over:
            work.stays = work.core.settings.session_seconds
    return _answer_tree(answer), reply_to_json(
        answer, Authentication.to_say(work.core.settings), asked["question"]), any(
            message.document for message in answer.messages)


def _messages(data: bytes, limit: int) -> Sequence[messages.Message]:
    """The messages of a list of messages, or of a whole reply, whose other members are ignored."""
    if data.lstrip()[:1] == b"{":
        return reply_from_json(data).messages
    return messages.from_json(data, limit)


def _do(work: Work, every: HandoverEngine, role: str, name: str,
        given: Sequence[messages.Message]) -> Reply:
    asked = work.request
    return every.do(work.verb, role, name, targets=asked["targets"], mode=asked["mode"],
                    messages=given, assertions=frozenset(asked["assertions"]),
                    asserted_by=asked["asserted_by"],
                    allow=asked["allow"], maps=asked["maps"], peer=asked["peer"],
                    probe=asked["probe"], progress=work.progress, stop=work.stop,
                    export=asked["export"])


def _of_all(work: Work, every: HandoverEngine) -> JobResult:
    """The status or the recovery of every handover; a handover that fails does not stop others."""
    asked = work.request
    for known in every.list():
        work.may_touch(known.id)
    replies = every.status() if work.verb == "status" else every.recover(
        "", frozenset(asked["assertions"]), asked["asserted_by"], asked["allow"])
    return {"handovers": [reply.handover.id for reply in replies],
            "failed": [reply.handover.id for reply in replies if reply.error_code],
            "stay": [reply.handover.id for reply in replies if reply.undecided]}, _json(
                [_answer_tree(reply) for reply in replies]), False


def _answer_tree(answer: Reply) -> Dict[str, Any]:
    facts = asdict(answer.handover)
    return {"handover": facts.pop("id"), **facts,
            "messages": [message.type.name.lower() for message in answer.messages],
            "notes": list(answer.notes), "next": answer.next, "stays": answer.undecided}


def alarm(late: Handover, verb: str) -> None:
    say({"alarm": f"{verb} of handover {late.id} takes longer than it should"})


# ---- this host's state ---
def surveys(config: str) -> None:
    had, watches = False, TreeWatches()
    listed: Optional[Dict[str, Any]] = None  # while all of its folders are watched
    for changed in _asked(watches):
        if changed:
            listed = None
        try:
            core, now = Ours(settings.load(config) if config else settings.load()), listed
            if now is None:
                paths = folders(core)
                settled = not watches.arm({EVERYBODY: paths[:MOST_WATCHED]})
                now = listing(core)
                listed = now if settled and len(paths) <= MOST_WATCHED else None
            host = survey(core, had, now)
            had = bool(host["targets"])
            say({"survey": host})
        except Exception as error:  # noqa: B902 - a target may go while it is looked at
            failure = as_handover_error(error)
            say({"failed": failure.what, "error": type(failure).__name__})


def _asked(watches: TreeWatches) -> Iterator[bool]:
    """Once for each line of input: whether an object was made or removed since the last one;
    meanwhile it says so."""
    poll, changed = select.poll(), False
    for fd in (0, watches.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _event in poll.poll()}
        if watches.fileno() in ready:
            time.sleep(OFTEN)  # what comes together is told once
            if watches.told():
                changed = True
                say({"changed": True})
        if 0 in ready:
            if not os.read(0, 4096):
                return
            changed |= bool(watches.told())
            yield changed
            changed = False


def follows(config: str) -> None:
    """Writes {"watch": [folders]}, and where it cannot look {"failed": why}."""
    follower = Follower(Ours(settings.load(config) if config else settings.load()))
    for _line in sys.stdin:
        try:
            follower.look()
            say({"watch": follower.folders})
        except Exception as error:  # noqa: B902 - another look may tell
            say({"watch": [], "failed": as_handover_error(error).what})
    follower.end()


# ---- from start to end ---
def say(words: Mapping[str, Any]) -> None:
    """Write a line to the service.  Where the service is gone, the work goes on."""
    try:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")


def _json(tree: Any) -> bytes:
    return json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"


def _answer(work: Work, data: bytes, secret: bool) -> None:
    say({"data": len(data), "secret": secret})
    with open(work.answer, "wb", closefd=False) as file:
        file.write(data)


def as_handover_error(error: BaseException) -> errors.HandoverError:
    """The error itself, or a HandoverError for an error of another kind."""
    if isinstance(error, errors.HandoverError):
        return error
    if isinstance(error, Stopped):
        return errors.Interrupted("interrupted")
    if isinstance(error, MemoryError):
        return errors.TooLarge("the work for the document takes more memory than it may have")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        kind = errors.KernelRefused if str(error.filename or "").startswith("/sys/") else \
            errors.HandoverError
        return kind(f"{where}{error.strerror}", "whether anything was changed is not known",
                    "lio-handover show, dmesg")
    print("".join(traceback.format_tb(error.__traceback__)), file=sys.stderr)
    return errors.unforeseen(error)


def run(request: Mapping[str, Any], answer: int, documents: Sequence[int],
        memory: Memory) -> Tuple[int, int]:
    """Run a request: (the exit code, which is the command line's; for how many seconds the process
    stays)."""
    try:
        work = Work(request, answer, documents, memory)
        signal.signal(signal.SIGTERM, work.signalled)
        verb = handover if request["role"] else \
            move if request["verb"] in PAIR_VERBS else host_verb
        result, data, secret = verb(work)
        if data:
            _answer(work, data, secret)
        say({"result": result})
        restoring.start_units(work.core, work.core.begun)
        return errors.SAME, work.stays
    except BaseException as error:  # noqa: B902 - whatever it is, the service is told
        failure = as_handover_error(error)
        say({"error": type(failure).__name__, "line": str(failure),
             "findings": [json_view.finding_tree(finding) for finding in failure.findings]})
        return failure.code, 0


def serve(line: socket.socket) -> int:
    """Run requests until none follows; the exit code.

    After a verb by which a handover has come further the process stays for the next one, until it
    was idle for a while, or has come to have more memory than a session may.
    """
    memory = Memory()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(line, 1, MOST)
        if not asked:
            return 0  # nothing is wanted any more
        say({"taken": True})
        with open(descriptors[0]) as file:
            request = json.load(file)
        code, stays = run(request, descriptors[1], descriptors[2:], memory)
        if not stays or _memory() > SESSION_MEMORY:
            return code
        for fd in descriptors[1:]:
            os.close(fd)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say({"ended": code})
        poll = select.poll()
        poll.register(line, select.POLLIN)
        if not poll.poll(stays * 1000):
            return 0


def _memory() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    os.umask(0o077)
    if sys.argv[1:2] == ["--surveys"]:
        surveys(sys.argv[2] if len(sys.argv) > 2 else "")
        return 0
    if sys.argv[1:2] == ["--follows"]:
        follows(sys.argv[2] if len(sys.argv) > 2 else "")
        return 0
    if sys.argv[1:2] == ["--guards"]:
        guards(sys.argv[2] if len(sys.argv) > 2 else "", say)
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as line:
        return serve(line)
