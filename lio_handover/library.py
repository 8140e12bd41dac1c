"""The API of ``import lio_handover``: a host, its service, or two hosts, as Python objects.

Each method is a verb of the command line (verb_table.py) and runs the same function
(local/verbs.py).  Targets are named FABRIC/WWN, as `lio-handover show` prints them.  ``rename`` has
the pairs of --map, ``{"root:/srv/a": "/srv/b"}``; ``allow`` has overrides of findings, as --allow
takes them.  Every error is a HandoverError of errors.py.
"""
from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import errors, model
from .client import ssh
from .document import document as documents
from .document.document import Document
from .drivers import moves
from .errors import Finding
from .host.looked_at import Ready
from .kernel.facts import no_modules
from .local import restoring, results, verbs
from .local.ours import Ours
from .manage import schema
from .manage.settable import SECRETS
from .model.objects import Secret, State
from .plan.plan import Step, writes
from .protocol.table import Mode
from .records.journal import Handover
from .settings import Settings, load as load_settings
from .system import document_file
from .verb_table import MEMBERS

__all__ = ["Document", "Finding", "Host", "MoveResult", "Plan", "Service", "State", "connect",
           "errors", "load", "model", "move"]

_NO_NAMES: Mapping[str, str] = {}
#: Called with a line about what is being done.
Tell = Callable[[str], None]


def load(path: str, limit: int = documents.MAX_BYTES) -> Document:
    """The document in a file of at most ``limit`` bytes.  Raises BadFile, DocumentError."""
    return documents.loads(document_file.read(path, limit), limit)


class Plan:
    """The steps that an import takes on this host, in their order, and the import's findings.

    A plan is an iterable of Step, and str(step) is a line.  ``Host.apply`` refuses the plan once
    the host has changed since the plan was made.
    """

    def __init__(self, ready: Ready) -> None:
        self._ready = ready

    def __iter__(self) -> Iterator[Step]:
        return iter(self._ready.plan.steps)

    def __len__(self) -> int:
        return len(self._ready.plan.steps)

    @property
    def findings(self) -> Tuple[Finding, ...]:
        """The reasons against the import; ``allow`` takes a finding's ``override``, unless it is
        ""."""
        return self._ready.findings

    @property
    def notes(self) -> Tuple[str, ...]:
        """The differences to the source that the import will leave, a line each."""
        return self._ready.plan.notes

    @property
    def document(self) -> Document:
        """The document with the names that its targets and storage have here."""
        return self._ready.document

    @property
    def writes(self) -> int:
        """The number of steps that write to the kernel."""
        return writes(self._ready.plan.steps)

    def __repr__(self) -> str:
        return f"<Plan of {len(self)} steps, {len(self.findings)} findings>"


class Host:
    """This host.  Raises NotRoot, NoTargetModules, BadSettings.

    ``settings``: a lio_handover.settings.Settings; by default those of /etc/lio-handover.
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
        """The state of these targets, or (without targets) of the whole host.  Raises
        NoSuchTarget."""
        return self._ours().show([name.strip("/") for name in targets])

    def check(self, *targets: str, probe: bool = False) -> Tuple[Finding, ...]:
        """The findings against a handover of these targets; changes nothing.

        ``probe``: ask the devices, through a temporary nexus, for the facts about registrations
        that configfs does not show.
        """
        return verbs.prepare(self._ours(), self._call(targets, probe=probe)).findings

    def handovers(self) -> Tuple[Handover, ...]:
        """The handovers that this host takes or took part in."""
        return tuple(self._ours().handovers().list())

    # ---- the source ---
    def freeze(self, *targets: str, allow: Sequence[str] = (), probe: bool = False
               ) -> results.Frozen:
        """Shut the gates, wait until no command executes, flush all data.  Raises the first
        finding that is not allowed."""
        return verbs.freeze(self._ours(), self._call(targets, allow=allow, probe=probe))

    @contextmanager
    def frozen(self, *targets: str, allow: Sequence[str] = (), probe: bool = False
               ) -> Iterator[results.Frozen]:
        """Freeze these targets, and thaw them when the block ends.

        An exported target stays frozen: another host may serve it by then, and two hosts that
        serve it destroy its data.  ``thaw(target, allow=["exported"])`` asserts that no other host
        serves it.
        """
        result = self.freeze(*targets, allow=allow, probe=probe)
        try:
            yield result
        finally:
            ours = self._ours()
            kept = [name for handover in ours.source_handovers(result.targets)
                    if handover.state != "released" for name in handover.targets]
            if kept:
                self.thaw(*kept)

    def export(self, *targets: str, allow: Sequence[str] = (), probe: bool = False) -> Document:
        """The document of these targets.  The export of a frozen target is recorded, as another
        host may serve the target from now on."""
        call = self._call(targets, allow=allow, probe=probe)
        ours = self._ours()
        return ours.export(call.chosen(ours), call.allow, call.probe)

    def thaw(self, *targets: str, allow: Sequence[str] = ()) -> results.Thawed:
        """Open the gates that freeze has shut."""
        return verbs.thaw(self._ours(), self._call(targets, allow=allow))

    def remove(self, *targets: str, allow: Sequence[str] = ()) -> results.Removed:
        """Remove targets, and their backstores that no other target exports."""
        return verbs.remove(self._ours(), self._call(targets, allow=allow))

    # ---- the destination ---
    def plan(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> Plan:
        """The steps that an import of a document takes here; changes nothing."""
        return Plan(self._ours().ready(document, _maps(rename)))

    def apply(self, plan: Plan, allow: Sequence[str] = ()) -> results.Imported:
        """Serve the plan's document, or leave this host as it was.  From now on lio-handover
        restores the targets at a boot.  Raises the first finding that is not allowed."""
        ours = self._ours()
        result = verbs.imported(ours, plan._ready, verbs.Call(allow=allow))
        restoring.start_units(ours, ours.begun)
        return result

    def verify(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> None:
        """Raises VerifyFailed where this host's state is not the document's."""
        self._ours().verify(document, _maps(rename))

    # ---- what this host serves ---
    def create(self, node: str, *words: object, allow: Sequence[str] = (), dry_run: bool = False,
               **values: object) -> results.Managed:
        """Make an object in a node of targetcli's tree (docs/usage/managing.md).  ``dry_run``: only
        tell what would be done.  Raises the first finding that is not allowed."""
        return verbs.create(self._ours(), _change(node, words, values, allow, dry_run))

    def set(self, node: str, *words: object, allow: Sequence[str] = (),  # noqa: A003
            dry_run: bool = False, **values: object) -> results.Managed:
        """Set values of an object: ``set("/iscsi/iqn.../tpg1", "auth", userid="me")``."""
        return verbs.set_(self._ours(), _change(node, words, values, allow, dry_run))

    def delete(self, node: str, *words: object, allow: Sequence[str] = (), dry_run: bool = False,
               **values: object) -> results.Managed:
        """Delete an object, and what belongs to it."""
        return verbs.delete(self._ours(), _change(node, words, values, allow, dry_run))

    def serve(self, wishes: Mapping[str, Any], prune: bool = False, allow: Sequence[str] = (),
              dry_run: bool = False) -> results.Managed:
        """Serve what a file of `apply` says, whose data ``wishes`` is; with ``prune`` nothing else.
        Needs python3-jsonschema.  Raises a DocumentError where the data is wrong."""
        schema.check(wishes)
        return verbs.apply(self._ours(), verbs.Call(tree=wishes, prune=prune, allow=allow,
                                                    dry_run=dry_run))


class Service:
    """The verbs of `Host`, run by a host's lio-handoverd; see ``connect``.

    ``show`` and ``plan`` return plain data, as `--json` of the command line has it
    (docs/usage/command-line.md).
    """

    def __init__(self, host: str = "") -> None:
        self._service = ssh.RemoteService(host)
        self.name = self._service.name

    def close(self) -> None:
        self._service.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run(self, verb: str, targets: Sequence[str], **options: Any) -> Tuple[results.Result, Any]:
        answer, data = self._service.run(verb.capitalize(), [name.strip("/") for name in targets],
                                         _given(options))
        return results.from_answer(verb, answer), data

    def _run_document(self, verb: str, document: Document, rename: Mapping[str, str],
                      **options: Any) -> Tuple[results.Result, Any]:
        answer, data = self._service.run_document(
            verb.capitalize(), documents.dumps(document),
            _given({"maps": _maps(rename), **options}))
        return results.from_answer(verb, answer), data

    def show(self, *targets: str) -> Mapping[str, Any]:
        """The host's state, as `show --json` has it."""
        return _tree(self._run("show", targets)[1])

    def check(self, *targets: str, probe: bool = False) -> Tuple[Finding, ...]:
        """The findings against a handover of these targets; changes nothing."""
        every = {error.__name__: error for error in errors.classes()}
        try:
            _result, data = self._run("prepare", targets, probe=probe)
        except errors.HandoverError as error:
            if not error.findings:
                raise
            return tuple(error.findings)
        return tuple(Finding(every.get(tree["error"], errors.Refusal), tree["subject"],
                             tree["sentence"], tree["override"], tree["do"])
                     for tree in json.loads(data))

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
        """Serve the document's targets, or leave the host as it was."""
        return self._run_document("import", document, rename, allow=allow)[0]

    def verify(self, document: Document, rename: Mapping[str, str] = _NO_NAMES) -> None:
        """Raises VerifyFailed where the host's state is not the document's."""
        self._run_document("verify", document, rename)

    def create(self, node: str, *words: object, allow: Sequence[str] = (), dry_run: bool = False,
               **values: object) -> results.Result:
        """As `Host.create`; a secret is ``@/PATH``, a file of that host's root."""
        return self._change("create", node, words, values, allow, dry_run)

    def set(self, node: str, *words: object, allow: Sequence[str] = (),  # noqa: A003
            dry_run: bool = False, **values: object) -> results.Result:
        return self._change("set", node, words, values, allow, dry_run)

    def delete(self, node: str, *words: object, allow: Sequence[str] = (), dry_run: bool = False,
               **values: object) -> results.Result:
        return self._change("delete", node, words, values, allow, dry_run)

    def _change(self, verb: str, node: str, words: Sequence[object], values: Mapping[str, object],
                allow: Sequence[str], dry_run: bool) -> results.Result:
        call = _change(node, words, values, allow, dry_run)
        answer, _data = self._service.run_change(MEMBERS[verb], node, call.values, _given({
            "words": list(call.words), "allow": allow, "dry-run": dry_run}))
        return results.from_answer(verb, answer)

    def move(self, targets: Sequence[str], to: str, *, progress: Tell = lambda text: None,
             stop: Callable[[], bool] = lambda: False, mode: str = "", here: str = "",
             rename: Mapping[str, str] = _NO_NAMES, allow: Sequence[str] = (), probe: bool = False,
             monitors: Sequence[Tuple[socket.socket, socket.socket]] = ()) -> MoveResult:
        """As `move`, from the host of this service, which goes where its [service] peers lets it.

        ``monitors``: of each guest that moves along, the connections to the monitors (QMP) of its
        QEMU and of the one that waits for it on the destination; UNIX stream sockets, which nobody
        else uses until the move has ended.  Only a service of this machine takes them.
        """
        if monitors and self._service.where:
            raise errors.BadCall("connections to monitors do not travel by ssh",
                                 do="connect() to the service of the machine they are on")
        options = {"to": to, "mode": mode, "here": here, "maps": _maps(rename), "allow": allow,
                   "probe": probe, "guest-fds": [here for here, _there in monitors],
                   "guest-there-fds": [there for _here, there in monitors]}
        answer, _data = self._service.run(
            "Move", [name.strip("/") for name in targets], _given(options),
            lambda number, total, what: progress(f"{number}/{total} {what}"), stop)
        return MoveResult(answer["handover"], tuple(answer["targets"]), answer["seconds"],
                          answer["window"], tuple(answer["notes"]))


def connect(host: str = "") -> Service:
    """The service of this host, or (by ssh, as root) of another; its first verb connects.  Needs
    dbus-python and PyGObject.  Raises BadCall; the verbs raise PeerUnreachable, NoService."""
    return Service(host)


@dataclass(frozen=True)
class MoveResult:
    """``seconds``: step → duration; ``blackout_seconds``: the time in which no host served."""

    handover: str
    targets: Tuple[str, ...]
    seconds: Mapping[str, float]
    blackout_seconds: float
    notes: Tuple[str, ...]


def move(targets: Sequence[str], to: str, *, progress: Tell = lambda text: None,
         stop: Callable[[], bool] = lambda: False, mode: str = Mode.ISCSI.value, here: str = "",
         rename: Mapping[str, str] = _NO_NAMES, allow: Sequence[str] = (), probe: bool = False
         ) -> MoveResult:
    """Hand targets over to another host, from start to end; the handover survives a crash of
    either host.

    ``to``: how ssh reaches the destination; ``here``: how the destination's ssh reaches this host
    (default: its name).  lio-handoverd has to run on both hosts.  ``progress`` is called with a
    line for each step; ``stop`` is called until the commit, and True takes the move back.  Raises
    the error that a step failed with; its ``next`` has the next command.
    """
    order = moves.Order(to, [name.strip("/") for name in targets], here=here, mode=mode,
                        maps=_maps(rename), allow=allow, probe=probe)
    moved = moves.carry_out(order, ssh.RemoteService(), lambda told: progress(told.text), stop)
    return MoveResult(moved.handover, moved.targets, moved.seconds, moved.window, moved.notes)


def _change(node: str, words: Sequence[object], values: Mapping[str, object],
            allow: Sequence[str], dry_run: bool) -> verbs.Call:
    """The call of a change, its values in the words of the command line."""
    def word(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else \
            value if isinstance(value, str) else str(value)
    return verbs.Call(node=node, words=[word(value) for value in words], values={
        name: Secret(word(value)) if name in SECRETS else word(value)
        for name, value in values.items()}, allow=allow, dry_run=dry_run)


def _maps(rename: Mapping[str, str]) -> List[str]:
    return [f"{old}={new}" for old, new in rename.items()]


def _given(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()}


def _tree(data: bytes) -> Mapping[str, Any]:
    tree: Mapping[str, Any] = json.loads(data)
    return tree
