"""The command line without a kernel: a façade that answers as it is told, and what it is about."""
from __future__ import annotations

import os
import pty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.cli import main
from lio_handover.document import document
from lio_handover.execute.executor import Outcome
from lio_handover.execute.verify import check
from lio_handover.host.looked_at import Ready, View
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.facts import Facts
from lio_handover.local.by_file import ByFile
from lio_handover.model import diff
from lio_handover.model.objects import State
from lio_handover.plan.planner import plan
from lio_handover.settings import Settings
from tests.support import samples

CHECKOUT = Path(__file__).resolve().parents[2]
LAUNCHER = CHECKOUT / "scripts" / "lio-handover"
FACTS = Facts("7.2.0", "boot", "/etc/target", (), (), True, {})
NAME = f"iscsi/{samples.IQN}"
STATE = samples.both(
    samples.iscsi(luns=6, acls=3, registrants=2, chap=True, portals=samples.PORTALS,
                  groups=("fast",)),
    samples.vhost(wwn="naa.600140500000beef", fabric="loopback"))
FINDINGS = (
    errors.Finding(errors.StorageMissing, "fileio/disk0", "/srv/disk0.img does not exist here",
                   do="name it with --map"),
    errors.Finding(errors.NotFrozen, NAME, "was served meanwhile", "not-frozen", "freeze it"))


def view(state: State = STATE, **more: Any) -> View:
    return View(state, "a.example", "6.1.0", sizes={
        one.key: 1 << 26 for one in state.backstores}, **more)


def ready(state: State = STATE, findings: Sequence[errors.Finding] = ()) -> Ready:
    return Ready(samples.document(state, True), State(), plan(State(), state, FACTS),
                 tuple(findings), FACTS, (("device", "/dev/sdb", "/dev/sdc"),))


class Fake(ByFile):
    """A façade that answers without a kernel, or raises what it is told to."""

    def __init__(self) -> None:
        super().__init__(Settings(), Configfs("/nonexistent"))
        self.error: BaseException | None = None
        self.findings: tuple[errors.Finding, ...] = ()
        self.here = STATE
        self.outcome = Outcome(3, 2, {"stage": 0.1, "activate": 0.02}, ("a note",))

    def _answer(self) -> None:
        if self.error:
            raise self.error

    def names(self, targets: Sequence[str], everything: bool = False) -> list[tuple[str, str]]:
        self._answer()
        return [("iscsi", samples.IQN)]

    def view(self, targets: Sequence[str] = ()) -> View:
        self._answer()
        return view(frozen=(NAME,))

    def prepare(self, names: Any, probe: bool = False, reserved: bool = True) -> Any:
        return samples.document(STATE), list(self.findings)

    def export(self, names: Any, allow: Any = (), probe: bool = False) -> document.Document:
        self._answer()
        return samples.document(STATE, True)

    def freeze(self, *args: Any, **more: Any) -> State:
        self._answer()
        return STATE

    def thaw(self, names: Any, allow: Any = ()) -> State:
        self._answer()
        return STATE

    def ready(self, document: Any, maps: Any = ()) -> Ready:
        self._answer()
        return ready(findings=self.findings)

    def import_(self, one: Ready, allow: Sequence[str] = (), progress: Any = None,
                stop: Any = None) -> Outcome:
        self._answer()
        errors.refuse(one.findings, allow)
        return self.outcome

    def compare(self, document: Any, maps: Any = ()) -> Any:
        self._answer()
        return self.here, STATE, diff.diff(self.here, STATE)

    def verify(self, document: Any, maps: Any = ()) -> None:
        have, want, _changes = self.compare(document, maps)
        check(have, want)

    def remove(self, *args: Any, **more: Any) -> tuple[Outcome, str]:
        self._answer()
        return self.outcome, "/var/lib/lio-handover/removed/1.json"


def with_acl(**changed: str) -> State:
    """STATE with other attributes of its first ACL."""
    target = STATE.targets[0]
    tpg = target.tpgs[0]
    acl = replace(tpg.acls[0], attributes={**tpg.acls[0].attributes, **{
        name.replace("_", "/", 1): value for name, value in changed.items()}})
    return with_tpg(acls=(acl, *tpg.acls[1:]))


def with_tpg(**changed: Any) -> State:
    target = STATE.targets[0]
    return replace(STATE, targets=(replace(target, tpgs=(
        replace(target.tpgs[0], **changed),)), *STATE.targets[1:]))


Captured = pytest.CaptureFixture[str]


def run(capfd: Captured, *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    capfd.readouterr()
    code = main.main(words)
    out, err = capfd.readouterr()
    return code, out, err


def shape(err: str) -> list[str]:
    """The parts of the one line of an error."""
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("lio-handover: ")
    return err[:-1].split("; ")


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    import fcntl
    import struct
    import termios
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        yield ours, its
    finally:
        os.close(ours)
        os.close(its)
