"""What tests of the handover engine run inside a lab host."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lio_handover import errors
from lio_handover.configfs import Configfs
from lio_handover.handover import Answer, Handover, Handovers
from lio_handover.model import State
from lio_handover.papers import Message
from tests import inhost, lab, samples

SIZE = 8 * lab.MiB
TARGET = f"iscsi/{samples.IQN}"


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
