"""What tests of the handover engine run inside a lab host."""
from __future__ import annotations

import os
import pickle
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lio_handover import (deeds, errors, executor, journal, owners, restored, savefile,
                          wholefile)
from lio_handover.configfs import Configfs
from lio_handover.handover import Answer, Handover, Handovers
from lio_handover.model import State
from lio_handover.papers import Message
from tests import inhost, lab, samples

SIZE = 8 * lab.MiB
TARGET = f"iscsi/{samples.IQN}"
OTHER = "iscsi/iqn.2026-11.org.example:other"
SAVED = "/etc/rtslib-fb-target/saveconfig.json"


def state(shared: Path, registrants: int = 2, aptpl: bool = True) -> State:
    """One iSCSI target with two LUNs, the first of them registered and reserved."""
    from dataclasses import replace
    paths = [str(shared / "zero.img"), str(shared / "one.img")]
    for path in paths:
        Path(path).write_bytes(b"\0" * SIZE)
    made = samples.iscsi(luns=2, acls=2, registrants=registrants, paths=paths,
                         portals=("0.0.0.0:3260",))
    held = samples.registrations(registrants, aptpl=aptpl)
    stores = tuple(replace(
        store, hba="", parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={name: value for name, value in store.attributes.items()
                    if name.startswith("wwn/")},
        reservations=held if not number else store.reservations)
        for number, store in enumerate(made.backstores))
    return replace(made, backstores=stores)


class Ask(Exception):
    """The other host must be asked, which only the test can do."""


#: What the other host answers to a verb; None: nothing.
Answers = dict[str, Answer | None]


def handovers(answers: Answers | None = None) -> Handovers:
    def peer(_handover: Handover, verb: str) -> Answer:
        assert answers is not None
        if verb not in answers:
            raise Ask(verb)
        answer = answers[verb]
        if answer is None:
            raise errors.PeerUnreachable("it does not answer")
        return answer
    return Handovers(inhost.core(), None if answers is None else peer)


def recover(id: str, answers: Answers, words: frozenset[str] = frozenset()  # noqa: A002
            ) -> Answer | str:
    """What recover answers, or the verb that the other host has to answer first."""
    try:
        return handovers(answers).recover(id, words, "the test")[0]
    except Ask as question:
        return str(question)


# ── power ────────────────────────────────────────────────────────────────────────────────────

def disk(folder: str) -> None:
    """Let this host keep what a real one has on its disk in ``folder``, past a power cut: of what
    it writes there only what it has synced, as its page cache ends with it."""
    for path in ("/var/lib/lio-handover", "/etc/target", "/etc/rtslib-fb-target"):
        os.makedirs(folder + path, exist_ok=True)
        subprocess.run(["mount", "--bind", folder + path, path], check=True)


def boots(folder: str) -> tuple[str, ...]:
    """What a host does when it boots: our unit, then targetcli's."""
    disk(folder)
    notes = handovers().before_restore()
    if os.path.exists(SAVED):
        done = subprocess.run(["targetctl", "restore", SAVED], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return notes


def save() -> None:
    """As targetcli does."""
    subprocess.run(["targetctl", "save", SAVED], check=True)


def saved() -> dict[str, bool]:
    """Target → whether targetcli would bring it back serving."""
    return {one.target: one.enabled for one in savefile.entries(
        [TARGET, OTHER]) if one.path == SAVED}


# ── being killed anywhere ────────────────────────────────────────────────────────────────────

class Points:
    """Counts what a verb does to the kernel and to the disk: SIGKILL before or after one of them.

    Each change has two points, before it and after it; a record of the journal a third, when half
    of it is written.
    """

    def __init__(self, point: int) -> None:
        self.point, self.seen, self.what = point, 0, ""

    def pass_(self, what: str) -> None:
        self.seen += 1
        self.what = what
        if self.seen == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            self.pass_(f"before {name}")
            result = work(*args, **keywords)
            self.pass_(f"after {name}")
            return result
        return wrapped

    def install(self) -> None:
        """Into this process, which is a fork of its own."""
        for name in ("mkdir", "rmdir", "link", "unlink", "write"):
            setattr(Configfs, name, self.around(name, getattr(Configfs, name)))
        for module in (journal, owners, savefile, deeds, executor, restored):
            setattr(module, "write_file", self.around("write_file", wholefile.write_file))
        plain = os.write

        def half(fd: int, data: bytes) -> int:
            if data.startswith(b'{"'):
                self.pass_("before a record")
                if self.seen + 1 == self.point:
                    plain(fd, data[:len(data) // 2])
                self.pass_("in a record")
            done = plain(fd, data)
            if data.startswith(b'{"'):
                self.pass_("after a record")
            return done
        setattr(os, "write", half)


def crash(point: int, verb: str, role: str, id: str,  # noqa: A002
          papers: Sequence[Message] = (), **more: Any) -> tuple[bool, Answer | None]:
    """(whether the verb was killed at that point, its answer if it ended before)."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Points(point).install()
            result: Any = do(verb, role, id, papers, **more)
        except BaseException as error:  # noqa: B902 - raised again by the parent
            result = error
        with os.fdopen(its, "wb") as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(its)
    with os.fdopen(ours, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True, None
    ended = pickle.loads(data)
    if isinstance(ended, BaseException):
        raise ended
    return False, ended


def recover_again(id: str, answers: Answers) -> str | tuple[int, str, str]:  # noqa: A002
    """(changes asked of the kernel, states recorded before, and after) of another recover; or the
    verb that the other host has to answer first."""
    one = handovers(answers)
    one.get(id)
    before = _states(id)
    try:
        one.recover(id)
    except Ask as question:
        return str(question)
    return one.core.fs.changes, before, _states(id)


def _states(id: str) -> str:  # noqa: A002
    return "".join(line for line in told(id).splitlines() if '"record": "state"' in line)


def told(id: str) -> str:  # noqa: A002
    """The journal of a handover."""
    return Path(inhost.SETTINGS.state_directory, "handovers", id, "journal").read_text()


def do(verb: str, role: str, id: str = "", papers: Sequence[Message] = (),  # noqa: A002
       **more: object) -> Answer:
    return handovers().do(verb, role, id, papers=papers, **more)  # type: ignore[arg-type]


def status(id: str = "") -> list[Answer]:  # noqa: A002
    return handovers().status(id)


def gates() -> dict[str, str]:
    """TPG → enable, of every iSCSI TPG here."""
    fs = Configfs()
    found = {}
    for wwn in fs.entries("iscsi")[1] if fs.exists("iscsi") else ():
        if wwn != "discovery_auth":
            for tpgt in fs.entries(f"iscsi/{wwn}")[1]:
                if tpgt.startswith("tpgt_"):
                    found[f"iscsi/{wwn}/{tpgt}"] = fs.read(f"iscsi/{wwn}/{tpgt}/enable").strip()
    return found
