"""Formats carry numbers: what is of another version is refused, and says what to do; no kernel."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.cli import boot
from lio_handover.document import document as documents, envelope
from lio_handover.handover.engine import HandoverEngine
from lio_handover.handover.reply import Reply, reply_from_json, reply_to_json
from lio_handover.host.verbs import HostVerbs
from lio_handover.protocol import messages
from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import MessageType
from lio_handover.records import record_kinds
from lio_handover.records.journal import Handover, Journal
from lio_handover.records.ownership import OwnershipFile
from lio_handover.settings import Settings
from lio_handover.vmstate import answers
from tests.support import samples

ID = "11111111-0000-4000-8000-000000000000"
TARGET = f"iscsi/{samples.IQN}"
Spoil = Callable[[Path], None]


def with_version(line: bytes, version: Any) -> bytes:
    """A line of JSON, of that version; of none for None."""
    tree = json.loads(line)
    tree.pop("version")
    return json.dumps({**tree, **({} if version is None else {"version": version})}).encode()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal.create(str(tmp_path), Handover(ID, "source", "", 1, "iscsi", (TARGET,)), {})
    made.state("idle", 1, "boot")
    OwnershipFile(str(tmp_path)).note([TARGET], epoch=1, handover=ID)
    return made


#: version → what is said of it, and what to do.
KEPT = [(record_kinds.VERSION + 1, "has version 2, this lio-handover knows 1", "upgrade to"),
        (record_kinds.VERSION - 1, "has version 0, this lio-handover knows 1", "end its handovers"),
        (None, "has no version", "end its handovers"), ("1", "has no version", "end its handovers")]


@pytest.mark.parametrize("version, what, do", KEPT)
def test_a_journal_of_another_version_is_refused_and_never_misread(
        tmp_path: Path, journal: Journal, version: Any, what: str, do: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(journal.path)
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(with_version(first, version) + b"\n" + rest)
    for tolerate_damage in (False, True):
        with pytest.raises(errors.JournalBroken) as caught:
            Journal(str(tmp_path), ID, tolerate_damage)
        assert f"{path} {what}" in caught.value.what and caught.value.do.startswith(do)
    answer, = HandoverEngine(HostVerbs(Settings(state_directory=str(tmp_path)))).status()
    assert answer.error_code == errors.JournalBroken.code and what in answer.notes[0]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = tmp_path / "lio-handover.conf"
    config.write_text(f"[host]\nstate_directory = {tmp_path}\n")
    assert not boot.nothing_to_do(str(config))
    path.write_bytes(first + b"\n" + rest)
    assert boot.nothing_to_do(str(config))


@pytest.mark.parametrize("version, what, do", KEPT)
def test_owners_of_another_version_are_refused(
        tmp_path: Path, journal: Journal, version: Any, what: str, do: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "owners.json"
    whole = path.read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = tmp_path / "lio-handover.conf"
    config.write_text(f"[host]\nstate_directory = {tmp_path}\n")
    assert boot.nothing_to_do(str(config))
    path.write_bytes(with_version(whole, version))
    for work in (OwnershipFile(str(tmp_path)).load,
                 lambda: OwnershipFile(str(tmp_path)).note([TARGET], epoch=2)):
        with pytest.raises(errors.JournalBroken) as caught:
            work()
        assert f"{path} {what}" in caught.value.what and caught.value.do.startswith(do)
    assert path.read_bytes() == with_version(whole, version)
    assert not boot.nothing_to_do(str(config))


@pytest.mark.parametrize("version, error", [
    (answers.VERSION + 1, errors.WrongVersion), (answers.VERSION - 1, errors.WrongVersion),
    (None, errors.BadStructure), ("1", errors.BadValue)])
def test_what_travels_in_qemus_stream_says_its_version_first(
        version: Any, error: type[errors.HandoverError]) -> None:
    target = "vhost/naa.5001405000000001"
    whole = answers.pack(answers.Answer("nothing", "a", "00" * 32, {target: 1}, {}))
    tree = {**json.loads(whole), "lio-handover": version}
    if version is None:
        del tree["lio-handover"]
    with pytest.raises(error) as caught:
        # A later version may have other members: it is the version that is judged first.
        answers.unpack(json.dumps({**tree, **({"more": 1} if error is errors.WrongVersion else {})
                                   }).encode())
    assert error is not errors.WrongVersion or "up to date" in caught.value.do


@pytest.mark.parametrize("version, error", [
    (messages.VERSION + 1, errors.WrongVersion), (messages.WITHOUT_MAC - 1, errors.WrongVersion),
    (None, errors.BadStructure), ("1", errors.BadStructure), (True, errors.BadStructure)])
def test_messages_and_answers_of_another_version_are_refused(
        version: Any, error: type[errors.HandoverError]) -> None:
    offer = Message(MessageType.OFFER, ID, 1, targets=(TARGET,), mode="iscsi")
    one, = json.loads(to_json([offer]))
    assert from_json(json.dumps([one]).encode()) == (offer,)
    with pytest.raises(error) as caught:
        # A later version may have other members: it is the version that is judged first.
        from_json(b"[" + with_version(json.dumps({**one, "more": 1}).encode(), version) + b"]")
    if error is errors.WrongVersion:
        assert caught.value.what == \
            f"message $[0] has version {version}, this lio-handover knows 1 and 2"
        assert "up to date" in caught.value.do
    answer = reply_to_json(Reply(Handover(ID, "source", "idle", 1, "iscsi", (TARGET,)), (offer,)))
    assert reply_from_json(answer).messages == (offer,)
    with pytest.raises(error):
        reply_from_json(with_version(answer, version))


def test_documents_of_another_version_are_refused() -> None:
    data = documents.dumps(samples.document(samples.iscsi()))
    assert documents.loads(data).version == documents.VERSION
    with pytest.raises(errors.WrongVersion, match="has version 2, this program knows 1"):
        documents.loads(envelope.encode({**json.loads(data), "version": 2}))
