"""The bytes that travel in QEMU's stream: they bring a document whole, and nothing else passes."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.host import guests
from lio_handover.protocol.messages import Message
from lio_handover.protocol.table import MessageType
from lio_handover.vmstate import answers
from lio_handover.vmstate.answers import Answer
from tests.support import samples

TARGET = "vhost/naa.5001405000000001"
ID = "11111111-0000-4000-8000-000000000000"


def documents_of(registrants: int = 2) -> tuple[bytes, bytes]:
    """What was offered, and what the same target has once it is frozen."""
    before = documents.Document(samples.iscsi(luns=3), False, documents.Origin("a", "6.1", "x"))
    after = documents.Document(samples.iscsi(luns=3, registrants=registrants), True,
                               documents.Origin("a", "6.1", "x"), notes=("a note",))
    return documents.dumps(before), documents.dumps(after)


def message(document: bytes) -> Message:
    return Message(MessageType.DOCUMENT, ID, 3, "ab" * 32, (TARGET,), "vhost-inband", document)


def answer(kind: str = answers.NOTHING, **about: Any) -> Answer:
    return Answer(kind, "a", answers.identity("a", "00"), {TARGET: 3}, about)


def test_a_document_comes_through_as_what_differs() -> None:
    staged, document = documents_of()
    about = answers.about_handover(message(document), staged)
    data = answers.pack(answer(answers.HANDOVER, **about))
    assert len(data) < len(document)
    came = answers.unpack(data)
    assert answers.message_of(came.about, staged) == message(document)
    assert answers.handover_of(came) == (ID, 3, "vhost-inband")


def test_what_does_not_fit_into_the_stream_is_refused_before_it_is_sent() -> None:
    with pytest.raises(errors.TooLarge, match="lio-handover move --guest"):
        try:
            answers.pack(answer(answers.HANDOVER, changes="x" * answers.LIMIT))
        except errors.TooLarge as error:
            raise errors.TooLarge(str(error)) from None
    with pytest.raises(errors.TooLarge):
        answers.unpack(b" " * (answers.LIMIT + 1))


@pytest.mark.parametrize("spoil, error", [
    ({"staged": "00" * 32}, errors.BadDigest),
    ({"document": "00" * 32}, errors.BadDigest),
    ({"changes": []}, errors.BadDigest),
    ({"changes": [[["state", "nowhere", "more"], [1]]]}, errors.BadStructure),
    ({"changes": [[["nowhere"], []]]}, errors.BadStructure),
    ({"changes": [[[], [1]]]}, errors.BadStructure),
    ({"changes": {}}, errors.BadStructure),
    ({"changes": [[["state"], [1, 2]]]}, errors.BadStructure),
    ({"changes": [[["state", "targets", -1], [1]]]}, errors.BadStructure),
    ({"message": []}, errors.BadStructure),
    ({"staged": 1}, errors.BadValue),
])
def test_a_spoilt_handover_makes_no_message(spoil: dict[str, Any],
                                            error: type[errors.DocumentError]) -> None:
    staged, document = documents_of()
    about = {**answers.about_handover(message(document), staged), **spoil}
    with pytest.raises(error):
        answers.message_of(about, staged)


@pytest.mark.parametrize("spoil", [
    {"mode": "vhost-qmp"}, {"type": "offer"}, {"document": "x"}, {"epoch": -1}, {"handover": "x"}])
def test_only_a_document_in_band_is_taken(spoil: dict[str, Any]) -> None:
    staged, document = documents_of()
    about = answers.about_handover(message(document), staged)
    with pytest.raises(errors.DocumentError):
        answers.message_of({**about, "message": {**about["message"], **spoil}}, staged)


@pytest.mark.parametrize("spoil, error", [
    ({"lio-handover": 2}, errors.WrongVersion), ({"lio-handover": True}, errors.BadValue),
    ({"kind": "other"}, errors.BadValue), ({"kind": []}, errors.BadValue),
    ({"host": "two words"}, errors.BadValue), ({"identity": "x"}, errors.BadValue),
    ({"targets": {}}, errors.BadStructure), ({"targets": {"iscsi/iqn.x": 1}}, errors.BadValue),
    ({"targets": {TARGET: "1"}}, errors.BadValue), ({"about": {"more": 1}}, errors.BadStructure),
    ({"more": 1}, errors.BadStructure)])
def test_an_envelope_has_just_its_members(spoil: dict[str, Any],
                                          error: type[errors.DocumentError]) -> None:
    tree = {**json.loads(answers.pack(answer())), **spoil}
    with pytest.raises(error):
        answers.unpack(json.dumps(tree).encode())


def test_a_member_that_stands_twice_is_refused() -> None:
    data = answers.pack(answer())
    with pytest.raises(errors.NotJson):
        answers.unpack(data.replace(b'"kind"', b'"kind": "nothing", "kind"', 1))


@settings(deadline=None, database=None, derandomize=True)
@given(st.data())
def test_bytes_that_were_changed_end_in_an_error_of_documents(data: st.DataObject) -> None:
    """A byte is lost, doubled or another: nothing but a DocumentError comes of it, or the same."""
    staged, document = documents_of(1)
    whole = answers.pack(answer(answers.HANDOVER, **answers.about_handover(
        message(document), staged)))
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(max_size=2))
    try:
        came = answers.unpack(whole[:place] + other + whole[place + 1:])
        answers.handover_of(came)
        made = answers.message_of(came.about, staged)
    except errors.DocumentError:
        return
    assert made.document == document


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(errors.DocumentError):
        answers.unpack(data)


_TREES = st.recursive(st.none() | st.integers(0, 3) | st.booleans() | st.text("ab", max_size=2),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                          st.text("abc", min_size=1, max_size=1), inner, max_size=3),
                      max_leaves=12)


@given(st.dictionaries(st.sampled_from("abc"), _TREES),
       st.dictionaries(st.sampled_from("abc"), _TREES))
def test_changes_make_the_one_of_the_other(old: Any, new: Any) -> None:
    listed = json.loads(json.dumps(list(answers.changes(old, new))))
    made = answers.changed(json.loads(json.dumps(old)), listed)
    assert json.dumps(made, sort_keys=True) == json.dumps(new, sort_keys=True)


def test_a_host_is_known_by_name_and_machine() -> None:
    known = answers.identity("a", "0123\n")
    assert known == answers.identity("a", "0123")
    assert known not in (answers.identity("b", "0123"), answers.identity("a", "4567"))
    assert "0123" not in known


# ---- the guest's file ---------------------------------------------------------------------------
def test_a_guest_needs_only_its_targets() -> None:
    guest = guests.parse(f"[guest]\ntargets = {TARGET}\n", "vm1", "vm1.conf")
    assert guest.targets == (TARGET,) and guest.id == "lio-handover/vm1"
    assert guest.bus == "unix:path=/run/lio-handover-guests/vm1/bus"
    assert (guest.deadline, guest.patience, guest.users) == (10, 600, None)


@pytest.mark.parametrize("lines, word", [
    ("", "targets"), ("targets = iscsi/iqn.x", "vhost/naa."),
    (f"targets = {TARGET} {TARGET}", "once"), (f"targets = {TARGET}\nid = a,b", "id"),
    (f"targets = {TARGET}\nid = {'x' * 256}", "id"), (f"targets = {TARGET}\nid = a b", "id"),
    (f"targets = {TARGET}\nbus = tcp:host=x", "bus"), (f"targets = {TARGET}\nmore = 1", "more"),
    (f"targets = {TARGET}\ndeadline = 25", "1 to 20"), (f"targets = {TARGET}\ndeadline = 0", "20"),
    (f"targets = {TARGET}\nusers = a/b", "users"),
    (f"targets = {TARGET}\n[other]\n", "no other"), ("targets", "vm1.conf")])
def test_a_wrong_file_is_named_with_its_key(lines: str, word: str) -> None:
    with pytest.raises(errors.BadSettings, match=word) as refused:
        guests.parse(f"[guest]\n{lines}\n", "vm1", "vm1.conf")
    assert str(refused.value).startswith("vm1.conf: ")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, ".a", "a b"])
def test_a_name_leads_out_of_no_folder(name: str) -> None:
    with pytest.raises(errors.BadSettings, match="name of a guest"):
        guests.load(name)


def test_an_id_of_255_bytes_is_taken() -> None:
    guest = guests.parse(f"[guest]\ntargets = {TARGET}\nid = {'x' * 255}\n", "vm1", "vm1.conf")
    assert guest.id == "x" * 255
    assert replace(guest, id="y") != guest


def test_what_qemu_would_not_find_is_told_before(tmp_path: Path) -> None:
    folder = str(tmp_path / "guests")
    other = TARGET[:-1] + "2"
    assert guests.unready([TARGET], folder) == [
        f"{TARGET}: no file in {folder} names it, so QEMU finds no lio-handover-vmstate for it"]
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests" / "vm1.conf").write_text(
        f"[guest]\ntargets = {TARGET}\nbus = unix:path={tmp_path}/bus\n")
    line, = guests.unready([TARGET], folder)
    assert "systemctl start lio-handover-vmstate@vm1" in line
    (tmp_path / "bus").touch()
    assert guests.unready([TARGET], folder) == []
    (tmp_path / "guests" / "vm2.conf").write_text(
        f"[guest]\ntargets = {other}\nbus = system\n")
    assert guests.unready([TARGET, other], folder) == []
    assert [guest.name for guest in guests.of_targets([TARGET, other], folder)] == ["vm1", "vm2"]
