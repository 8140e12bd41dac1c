"""What ``import lio_handover`` offers: one host, its service, or two hosts, as Python objects.

Each method is a verb of the command line (verb_table.py) and runs the same function
(local/verbs.py).  Targets are named FABRIC/WWN, as `lio-handover show` prints them.  ``rename`` has
the pairs of --map, ``{"root:/srv/a": "/srv/b"}``; ``allow`` the names of findings in spite of which
to go on.  Errors are those of errors.py.
"""
from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import errors, model
from .client import ssh
from .document import document as documents
from .document.document import Document
from .drivers.move import Move
from .errors import Finding
from .host.looked_at import Ready
from .kernel.facts import no_modules
from .local import restoring, results, verbs
from .local.ours import Ours
from .model.objects import State
from .plan.plan import Step, writes
from .protocol.table import Mode
from .records.journal import Handover
from .settings import Settings, load as load_settings
from .system import document_file

__all__ = ["Document", "Finding", "Host", "MoveResult", "Plan", "Service", "State", "connect",
           "errors", "load", "model", "move"]

_NO_NAMES: Mapping[str, str] = {}
#: Called with a line about what is being done.
Tell = Callable[[str], None]


def load(path: str, limit: int = documents.MAX_BYTES) -> Document:
    """The document in a file of at most ``limit`` bytes.  Raises BadFile, DocumentError."""
    return documents.loads(document_file.read(path, limit), limit)


class Plan:
    """The steps that an import takes on this host, in their order, and what speaks against it.

    An iterable of Step, each of which prints as a line.  It is for the host as it was looked at:
    ``Host.apply`` refuses it once that has changed.
    """

    def __init__(self, ready: Ready) -> None:
        self._ready = ready

    def __iter__(self) -> Iterator[Step]:
        return iter(self._ready.plan.steps)

    def __len__(self) -> int:
        return len(self._ready.plan.steps)

    @property
    def findings(self) -> Tuple[Finding, ...]:
        """What speaks against it; ``override`` of one is what ``allow`` takes, "" for nothing."""
        return self._ready.findings

    @property
    def notes(self) -> Tuple[str, ...]:
        """What is not quite as it was on the source."""
        return self._ready.plan.notes

    @property
    def document(self) -> Document:
        """The document with the names that its targets and storage have here."""
        return self._ready.document

    @property
    def writes(self) -> int:
        """How many steps write to the kernel."""
        return writes(self._ready.plan.steps)

    def __repr__(self) -> str:
        return f"<Plan of {len(self)} steps, {len(self.findings)} findings>"


class Host:
    """This host.  Raises NotRoot, NoTargetModules, BadSettings.

    ``settings``: of lio_handover.settings; those of /etc/lio-handover unless given.
    """

    def __init__(self, settings: Optional[Settings] = None) -> None:
        self.settings = settings if settings is not None else load_settings()
        if os.geteuid() != 0:
            raise errors.NotRoot("only root may see and change all that this host serves",
                                 do="sudo")
        if not self._ours().fs.exists("core"):
            raise no_modules()

    def _ours(self) -> Ours:
        return Ours(self.settings)

    def _call(self, targets: Sequence[str], **more: Any) -> verbs.Call:
        if not targets:
            raise errors.BadCall("no target is named", do="name targets")
        return verbs.Call([name.strip("/") for name in targets], **more)

    # ---- looking ---
    def show(self, *targets: str) -> State:
        """What is served of these targets, or (without any) all of it.  Raises NoSuchTarget."""
        return self._ours().show([name.strip("/") for name in targets])

    def check(self, *targets: str, probe: bool = False) -> Tuple[Finding, ...]:
        """Everything that speaks against handing these targets over; changes nothing.

        ``probe``: ask the devices what configfs does not show of registrations, through a nexus
        that is gone afterwards.
        """
        return verbs.prepare(self._ours(), self._call(targets, probe=probe)).findings

    def handovers(self) -> Tuple[Handover, ...]:
        """The handovers that this host takes or took part in."""
        return tuple(self._ours().handovers().list())

    # ---- the source ---
    def freeze(self, *targets: str, allow: Sequence[str] = (), probe: bool = False
               ) -> results.Frozen:
        """Shut the gates, wait until no command executes, flush all data."""
        return verbs.freeze(self._ours(), self._call(targets, allow=allow, probe=probe))

    @contextmanager
    def frozen(self, *targets: str, allow: Sequence[str] = (), probe: bool = False
               ) -> Iterator[results.Frozen]:
        """These targets frozen, and thawed on the way out.

        What was exported meanwhile stays frozen: another host may serve it by then, and two that
        do destroy its data.  ``thaw(target, allow=["exported"])`` says that none does.
        """
        result = self.freeze(*targets, allow=allow, probe=probe)
        try:
            yield result
        finally:
            ours = self._ours()
            kept = [name for handover in ours.held(result.targets)
                    if handover.state != "released" for name in handover.targets]
            if kept:
                self.thaw(*kept)

    def export(self, *targets: str, allow: Sequence[str] = (), probe: bool = False) -> Document:
        """The document of these targets.  Of frozen ones it is recorded that another host may
        serve them from now on."""
        call = self._call(targets, allow=allow, probe=probe)
        ours = self._ours()
        return ours.export(call.chosen(ours), call.allow, call.probe)

    def thaw(self, *targets: str, allow: Sequence[str] = ()) -> results.Thawed:
        """Open the gates that freeze has shut."""
        return verbs.thaw(self._ours(), self._call(targets, allow=allow))

    def remove(self, *targets: str, allow: Sequence[str] = ()) -> results.Removed:
        """Take targets away, with the backstores that nothing else exports."""
        return verbs.remove(self._ours(), self._call(targets, allow=allow))

    # ---- the destination ---
    def plan(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> Plan:
        """The steps that an import of a document takes here; changes nothing."""
        return Plan(self._ours().ready(document, _maps(rename)))

    def apply(self, plan: Plan, allow: Sequence[str] = ()) -> results.Imported:
        """Serve what a plan is of, or leave this host as it was.  From now on lio-handover
        restores it at a boot.  Raises the first finding that is not allowed."""
        ours = self._ours()
        result = verbs.imported(ours, plan._ready, verbs.Call(allow=allow))
        restoring.start_units(ours, ours.begun)
        return result

    def verify(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> None:
        """Raises VerifyFailed where this host does not serve just what a document says."""
        self._ours().verify(document, _maps(rename))


class Service:
    """The same verbs, carried out by the lio-handoverd of a host; see ``connect``.

    What is shown and planned is plain data, as `--json` of the command line has it
    (docs/usage/command-line.md).
    """

    def __init__(self, host: str = "") -> None:
        self._side = ssh.Side(host)
        self.name = self._side.name

    def close(self) -> None:
        self._side.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run(self, verb: str, targets: Sequence[str], **options: Any) -> Tuple[results.Result, Any]:
        answer, data = self._side.run(verb.capitalize(), [name.strip("/") for name in targets],
                                      _given(options))
        return results.from_answer(verb, answer), data

    def _run_document(self, verb: str, document: Document, rename: Mapping[str, str],
                      **options: Any) -> Tuple[results.Result, Any]:
        answer, data = self._side.run_document(
            verb.capitalize(), documents.dumps(document),
            _given({"maps": _maps(rename), **options}))
        return results.from_answer(verb, answer), data

    def show(self, *targets: str) -> Mapping[str, Any]:
        """What the host serves, as `show --json` has it."""
        return _tree(self._run("show", targets)[1])

    def check(self, *targets: str, probe: bool = False) -> Tuple[Finding, ...]:
        """Everything that speaks against handing these targets over; changes nothing."""
        every = {error.__name__: error for error in errors.classes()}
        try:
            _result, data = self._run("prepare", targets, probe=probe)
        except errors.HandoverError as error:
            if not error.findings:
                raise
            return tuple(error.findings)
        return tuple(Finding(every.get(one["error"], errors.Refusal), one["subject"],
                             one["sentence"], one["override"], one["do"])
                     for one in json.loads(data))

    def freeze(self, *targets: str, allow: Sequence[str] = (), probe: bool = False
               ) -> results.Result:
        return self._run("freeze", targets, allow=allow, probe=probe)[0]

    def export(self, *targets: str, allow: Sequence[str] = (), probe: bool = False) -> Document:
        return documents.loads(self._run("export", targets, allow=allow, probe=probe)[1])

    def thaw(self, *targets: str, allow: Sequence[str] = ()) -> results.Result:
        return self._run("thaw", targets, allow=allow)[0]

    def remove(self, *targets: str, allow: Sequence[str] = ()) -> results.Result:
        return self._run("remove", targets, allow=allow)[0]

    def plan(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> Mapping[str, Any]:
        """The steps that an import takes there, as `plan --json` has them.  Raises the first
        finding."""
        return _tree(self._run_document("plan", document, rename)[1])

    def apply(self, document: Document, rename: Mapping[str, str] = _NO_NAMES,
              allow: Sequence[str] = ()) -> results.Result:
        """Serve what a document says, or leave the host as it was."""
        return self._run_document("import", document, rename, allow=allow)[0]

    def verify(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> None:
        """Raises VerifyFailed where the host does not serve just what a document says."""
        self._run_document("verify", document, rename)


def connect(host: str = "") -> Service:
    """The service of this host, or (by ssh, as root) of another; it connects when it is first
    asked.  Needs dbus-python and PyGObject.  Raises BadCall; its verbs raise PeerUnreachable,
    NoService."""
    return Service(host)


@dataclass(frozen=True)
class MoveResult:
    """``seconds`` by step; ``blackout_seconds``: for how long no host served."""

    handover: str
    targets: Tuple[str, ...]
    seconds: Mapping[str, float]
    blackout_seconds: float
    notes: Tuple[str, ...]


def move(targets: Sequence[str], to: str, *, progress: Tell = lambda text: None,
         stop: Callable[[], bool] = lambda: False, mode: str = Mode.ISCSI.value, here: str = "",
         rename: Mapping[str, str] = _NO_NAMES, allow: Sequence[str] = (), probe: bool = False
         ) -> MoveResult:
    """Hand targets over to another host, from start to end; it survives a crash of either.

    ``to``: how ssh reaches the destination, ``here``: how that reaches this host (its name).
    lio-handoverd has to run on both.  ``progress`` is told what is being done, ``stop`` asked
    while all can be taken back.  Raises what a step failed with; ``next`` leads on.
    """
    run = Move(ssh.Side(), ssh.Side(to), progress, stop)
    try:
        run.run([name.strip("/") for name in targets], mode, here, _maps(rename), allow, probe)
    finally:
        run.source.close()
        run.destination.close()
    return MoveResult(run.id, run.targets, dict(run.seconds), run.window, tuple(run.notes))


def _maps(rename: Mapping[str, str]) -> List[str]:
    return [f"{old}={new}" for old, new in rename.items()]


def _given(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()}


def _tree(data: bytes) -> Mapping[str, Any]:
    tree: Mapping[str, Any] = json.loads(data)
    return tree
