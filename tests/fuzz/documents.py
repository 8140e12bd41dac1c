"""Documents, messages and answers of another host, the bytes in QEMU's stream, and names for them.

Documents go as far as a plan: against an empty host, and against one that serves nearly the same.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lio_handover import errors
from lio_handover.document import document as documents, envelope, rename, representable
from lio_handover.document.document import Document
from lio_handover.handover.reply import Reply, reply_from_json, reply_to_json
from lio_handover.kernel.facts import Facts
from lio_handover.model.diff import diff
from lio_handover.model.objects import State
from lio_handover.plan.planner import plan
from lio_handover.protocol.messages import Message, document_in, from_json, to_json
from lio_handover.protocol.table import MessageType
from lio_handover.records.journal import Handover
from lio_handover.vmstate import answers
from tests.support import samples

ID = "11111111-0000-4000-8000-000000000000"
VHOST = f"vhost/{samples.WWPN}"
LIMIT = 8 << 20

ISCSI = samples.iscsi(luns=2, acls=2, portals=samples.PORTALS, chap=True, registrants=3,
                      groups=("fast",))
STATES = (ISCSI, samples.vhost(luns=2), samples.both(samples.iscsi(plugin="iblock"),
                                                     samples.vhost()), State())
FACTS = Facts("6.12.0", "boot", "/var/target", ("fileio_0",), ("iscsi", "vhost"), True,
              {store.key: "fileio_0" for store in ISCSI.backstores})


def trees() -> Sequence[Any]:
    """Documents as trees, without their digests."""
    return [samples.document(state, frozen=frozen).tree for state in STATES
            for frozen in (False, True)]


def seal(tree: Any) -> bytes:
    """The bytes of a tree, with the digest that they must have."""
    if not isinstance(tree, Mapping):
        return json.dumps(tree).encode()
    return envelope.encode(tree)


def read_document(data: bytes) -> None:
    document = documents.loads(data, LIMIT)
    documents.check(document)
    again = documents.loads(documents.dumps(document), 2 * LIMIT)
    assert again.state == document.state
    planned(document)


def read_large(data: bytes) -> None:
    """As a worker: nothing stands in memory twice."""
    document = documents.loads(data, LIMIT)
    del data
    documents.check(document)
    plan(State(), document.state, FACTS)


def planned(document: Document) -> None:
    """Everything that is reckoned with a document before a kernel is asked."""
    representable.findings(document)
    for have in (State(), ISCSI):
        diff(have, document.state)
        for step in plan(have, document.state, FACTS).steps:
            str(step)


def sealed(data: bytes) -> None:
    """Bytes that somebody changed: the digest says so, or they are as they were."""
    documents.loads(data, LIMIT)


def sealed_bytes() -> Sequence[bytes]:
    return [seal(tree) for tree in trees()]


# ---- messages ----------------------------------------------------------------------------------
def _messages() -> Sequence[Message]:
    data = documents.dumps(samples.document(ISCSI, frozen=True))
    names = (f"iscsi/{samples.IQN}",)
    return [Message(MessageType.OFFER, ID, 3, "", names, "iscsi", data),
            Message(MessageType.ARMED, ID, 3, "ab" * 32, names, "iscsi"),
            Message(MessageType.RETURNED, ID, 4, "cd" * 32, names, "vhost-qmp", data)]


def message_trees() -> Sequence[Any]:
    return [json.loads(to_json(_messages())), json.loads(to_json(_messages()[1:2]))]


def read_messages(data: bytes) -> None:
    for message in from_json(data, 2 * LIMIT):
        if message.document:
            document_in(message, LIMIT)


def _reply() -> Reply:
    return Reply(Handover(ID, "source", "frozen", 3, "iscsi", (f"iscsi/{samples.IQN}",), "boot",
                          "ab" * 32, 1.5, "", "freeze", "b"), tuple(_messages()), ("a note",),
                 "lio-handover status", False)


def reply_trees() -> Sequence[Any]:
    return [json.loads(reply_to_json(_reply())),
            json.loads(reply_to_json(replace(_reply(), messages=())))]


def read_reply(data: bytes) -> None:
    """What is made of an answer: shown, compared, and put in a line."""
    reply = reply_from_json(data)
    handover = reply.handover
    for text in (handover.id, handover.role, handover.state, handover.mode, handover.boot_id,
                 handover.digest, handover.error, handover.busy, handover.peer, reply.next,
                 *handover.targets, *reply.notes):
        assert type(text) is str
    assert type(handover.epoch) is int and type(handover.since) in (int, float)
    assert handover.over in (True, False)
    reply_to_json(reply)


# ---- QEMU's stream -----------------------------------------------------------------------------
STAGED = documents.dumps(samples.document(samples.vhost(luns=2)))


def stream_trees() -> Sequence[Any]:
    after = documents.dumps(samples.document(samples.vhost(luns=2), frozen=True))
    message = Message(MessageType.DOCUMENT, ID, 3, "ab" * 32, (VHOST,), "vhost-inband", after)
    host = answers.identity("a", "00")
    kinds: list[tuple[str, Mapping[str, Any]]] = [
        (answers.HANDOVER, answers.about_handover(message, STAGED)),
        (answers.BESIDE, {"handover": ID, "epoch": 3, "mode": "vhost-qmp"}), (answers.NOTHING, {})]
    return [json.loads(answers.pack(answers.Answer(kind, "a", host, {VHOST: 3}, about)))
            for kind, about in kinds]


def read_stream(data: bytes) -> None:
    answer = answers.unpack(data)
    if answer.kind != answers.NOTHING:
        answers.handover_of(answer)
    if answer.kind == answers.HANDOVER:
        documents.loads(answers.message_of(answer.about, STAGED).document)


# ---- --map -------------------------------------------------------------------------------------
MAPS = (b"device:/srv/disk0.img=/srv/other.img", b"root:/srv=/srv/b", b"rtpi:1=fresh",
        b"portal:192.0.2.1:3260=192.0.2.9:3261", b"portal:192.0.2.1=192.0.2.9",
        f"target:{samples.IQN}=iqn.2026-11.org.example:b".encode(),
        f"initiator:{samples.initiator(0)}=iqn.2026-11.org.example:c".encode(),
        f"rtpi:iscsi/{samples.IQN}/tpg1=7".encode(), b"limit:queue_depth=64")
_DOCUMENT = samples.document(ISCSI)


def read_maps(data: bytes) -> None:
    options = data.decode(errors="surrogateescape").split("\n")
    document, applied = rename.parse(options).apply(_DOCUMENT, None)
    assert all(errors.one_line(note) for note in rename.notes(applied))
    documents.dumps(document)


def maps() -> Sequence[bytes]:
    return [*MAPS, b"\n".join(MAPS[:2]), b"\n".join(MAPS[2:5]), b"\n".join(MAPS[5:])]
