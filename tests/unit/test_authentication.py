"""The key of two hosts, and what it proves of messages and answers; no kernel."""
from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.handover.reply import Reply, reply_from_json, reply_to_json
from lio_handover.protocol import authentication
from lio_handover.protocol.authentication import Authentication, has_key, make_key
from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import DESTINATION, SOURCE, MessageType
from lio_handover.records.journal import Handover
from lio_handover.settings import Settings
from tests.support import samples

Spoil = Callable[[dict[str, Any]], object]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "handover.key"
    make_key(str(path))
    return path


# ---- the file ----------------------------------------------------------------------------------
def test_a_key_is_made_for_its_owner_alone_and_never_replaced(key: Path) -> None:
    status = key.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid,
            status.st_nlink) == (0o600, os.geteuid(), 1)
    text = key.read_text()
    assert len(bytes.fromhex(text)) == 32 and text.endswith("\n")
    with pytest.raises(errors.BadSettings, match="is there already, and stays as it is"):
        make_key(str(key))
    assert key.read_text() == text and os.listdir(key.parent) == [key.name]
    other = key.with_name("other.key")
    make_key(str(other))
    assert other.read_text() != text


def test_a_key_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    with pytest.raises(errors.BadSettings, match="nowhere/k can't be made: No such file"):
        make_key(str(tmp_path / "nowhere" / "k"))


def test_there_is_a_key_or_none(key: Path) -> None:
    assert has_key(Settings(key=str(key)))
    assert not has_key(Settings(key="")) and not has_key(Settings(key=f"{key}.none"))
    assert not Authentication.of(Settings(key="")) and Authentication.of(Settings(key=str(key)))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700, 0o4600])
def test_a_key_that_others_could_have_read_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    _refused(key, f"has mode {mode:04o}, not 0600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_of_another_user_is_refused(key: Path) -> None:
    os.chown(key, 4711, 0)
    _refused(key, "is user 4711's, not root's")


@pytest.mark.parametrize("text", [
    b"", b"\n", b"ab" * 32, b"AB" * 32 + b"\n", b"ab" * 31 + b"\n", b"ab" * 33 + b"\n",
    b"ab" * 32 + b"\n\n", b"zz" * 32 + b"\n", bytes(65)])
def test_a_file_that_holds_no_key_is_refused_and_not_shown(key: Path, text: bytes) -> None:
    key.write_bytes(text)
    _refused(key, "holds no key")


def test_what_is_no_file_is_no_key(key: Path) -> None:
    real = key.rename(key.with_name("real"))
    key.symlink_to(real)
    _refused(key, "can't be read")
    key.unlink()
    os.mkfifo(key, 0o600)
    _refused(key, "is no file")


def _refused(key: Path, why: str) -> None:
    """It is no key, and does not pass for none either."""
    assert not has_key(Settings(key=str(key)))
    with pytest.raises(errors.BadSettings) as caught:
        Authentication.of(Settings(key=str(key)))
    assert f"the key {key} {why}" in caught.value.what
    assert "root's with mode 0600" in caught.value.do
    assert not key.is_file() or not key.read_text().strip() \
        or key.read_text().strip() not in str(caught.value)


def test_a_key_is_nowhere_to_be_seen(key: Path) -> None:
    known = Authentication.of(Settings(key=str(key)))
    assert known.key.hex() == key.read_text().strip()
    assert known.key.hex() not in repr(known) and repr(known.key) not in repr(known)


def test_a_mac_is_of_all_members_and_of_what_it_is_for() -> None:
    known = Authentication("a", bytes(32))
    members = {"version": 2, "epoch": 1, "host": "a"}
    mac = known.mac(authentication.MESSAGE, members)
    assert known.fits(authentication.MESSAGE, {**members, "mac": mac})
    assert not known.fits(authentication.ANSWER, {**members, "mac": mac})
    assert not Authentication("a", b"\1" * 32).fits(authentication.MESSAGE,
                                                    {**members, "mac": mac})
    for name in members:
        assert not known.fits(authentication.MESSAGE, {**members, name: "other", "mac": mac})


# ---- messages ----------------------------------------------------------------------------------
A, B = Authentication("a", bytes(32), "/k"), Authentication("b", bytes(32), "/k")
TARGET = f"iscsi/{samples.IQN}"
ID = "11111111-0000-4000-8000-000000000000"
#: Says the source, and says the destination.
OFFER = Message(MessageType.OFFER, ID, 3, "", (TARGET,), "iscsi", b'{"a": "\\u0022"}\n')
ARMED = Message(MessageType.ARMED, ID, 3, "ab" * 32, (TARGET,), "iscsi")


def carried(message: Message) -> Message:
    """As it comes out of the bytes that travel."""
    back, = from_json(to_json([message]))
    return back


def test_a_message_is_known_to_be_the_other_hosts() -> None:
    for message, said, here, role in ((OFFER, A, B, DESTINATION), (ARMED, B, A, SOURCE)):
        signed = carried(said.signed(message))
        assert signed.host == said.host and replace(signed, host="", mac="") == message
        here.check(signed, role)
        here.check(signed, role, said.host)
        here.check(signed, role)  # said again


#: Member → another value of it, that a message could have.
ALTERED = {
    "type": "released", "handover": ID.replace("1", "2"), "epoch": 4, "digest": "cd" * 32,
    "targets": [TARGET, f"{TARGET}2"], "mode": "iscsi-late", "document": "{}", "host": "c",
    "mac": "00" * 32}


@pytest.mark.parametrize("member", sorted(ALTERED))
def test_whatever_is_altered_is_refused(member: str) -> None:
    tree, = json.loads(to_json([A.signed(OFFER)]))
    assert {*tree} == {*ALTERED, "version"} and tree[member] != ALTERED[member]
    altered, = from_json(json.dumps([{**tree, member: ALTERED[member]}]).encode())
    with pytest.raises(errors.NotAuthentic, match="was made up or altered, or .* has another key"):
        B.check(altered, DESTINATION)


@pytest.mark.parametrize("message, role, other, why", [
    (OFFER, DESTINATION, "", "has no MAC: whoever carried it could have made it up"),
    (Authentication("a", b"\1" * 32).signed(OFFER), DESTINATION, "", "or a has another key"),
    (B.signed(OFFER), DESTINATION, "", "is this side's own word"),
    (A.signed(ARMED), DESTINATION, "", "is this side's own word"),
    (A.signed(OFFER), DESTINATION, "c", "is of a, and what came before of this handover was of c")])
def test_what_is_not_the_other_sides_is_refused_by_name_and_says_what_to_do(
        message: Message, role: str, other: str, why: str) -> None:
    with pytest.raises(errors.NotAuthentic) as caught:
        B.check(carried(message), role, other)
    line = str(caught.value)
    assert f"the message {message.type.name.lower()} " in line and why in line
    assert "; nothing was changed; next: " in line and "\n" not in line and caught.value.do


def test_without_a_key_all_is_as_it_was(key: Path) -> None:
    """A neighbour without authentication reads what it always read."""
    none = Authentication.of(Settings(key=""))
    none.check(carried(OFFER), DESTINATION)
    assert none.signed(OFFER) is OFFER
    assert [*json.loads(to_json([OFFER]))[0]] == sorted([
        "version", "type", "handover", "epoch", "digest", "targets", "mode", "document"])
    assert json.loads(to_json([OFFER]))[0]["version"] == 1


def test_of_two_hosts_that_want_to_hand_over_both_have_the_key(key: Path) -> None:
    lacking = Authentication.of(Settings(key=f"{key}.none"))
    with pytest.raises(errors.NotAuthentic, match="this host has no key to check") as caught:
        lacking.check(carried(A.signed(OFFER)), DESTINATION)
    assert caught.value.do == f"carry the key of a here, to {key}.none (root's, mode 0600)"
    key.chmod(0o644)
    unfit = Authentication.to_say(Settings(key=str(key)))
    for message in (OFFER, A.signed(OFFER)):
        assert not unfit and unfit.signed(message) is message
        with pytest.raises(errors.BadSettings, match="has mode 0644"):
            unfit.check(message, DESTINATION)


@pytest.mark.parametrize("member, value", [
    ("host", ""), ("host", "a b"), ("host", "\x1b[31m"), ("host", "x" * 256), ("host", 1),
    ("mac", ""), ("mac", "AB" * 32), ("mac", "ab" * 31), ("mac", None)])
def test_no_host_and_no_mac_is_of_another_form(member: str, value: object) -> None:
    tree, = json.loads(to_json([A.signed(OFFER)]))
    with pytest.raises((errors.BadValue, errors.BadStructure)):
        from_json(json.dumps([{**tree, member: value}]).encode())
    for version, left in ((1, tree), (2, {name: tree[name] for name in tree if name != member})):
        with pytest.raises(errors.BadStructure, match="is no object with just version, type"):
            from_json(json.dumps([{**left, "version": version}]).encode())


# ---- whole answers -----------------------------------------------------------------------------
REPLY = Reply(Handover(ID, SOURCE, "released", 3, "iscsi", (TARGET,)), (A.signed(OFFER),),
              ("a note",), "lio-handover status", True)


def test_an_answer_is_the_other_hosts_and_to_the_question_that_was_asked() -> None:
    data = reply_to_json(REPLY, A, "what?")
    assert reply_from_json(data, B, "what?") == replace(REPLY, host="a")
    assert reply_from_json(data) == REPLY  # a driver, which believes nothing of it
    for here, question, why in (
            (B, "what then?", "is to another question"), (B, "", "is to another question"),
            (A, "what?", "is this host's own"),
            (Authentication("b", b"\1" * 32), "what?", "or a has another key"),
            (Authentication("b"), "what?", "this host has no key to check")):
        with pytest.raises(errors.NotAuthentic, match=why):
            reply_from_json(data, here, question)
    with pytest.raises(errors.NotAuthentic, match="the answer has no MAC"):
        reply_from_json(reply_to_json(REPLY), B, "what?")
    assert json.loads(reply_to_json(REPLY))["version"] == 1
    assert reply_from_json(reply_to_json(REPLY), Authentication("b"), "") == REPLY


@pytest.mark.parametrize("member, value", [
    ("messages", []), ("notes", ["another"]), ("next", "rm"), ("stays", False), ("host", "c"),
    ("question", "what then?"), ("mac", "00" * 32), ("mac", "é"),
    *(("handover", {**asdict(REPLY.handover), "targets": [TARGET], name: value})
      for name, value in (("state", "idle"), ("role", DESTINATION), ("epoch", 4), ("digest", "a"),
                          ("id", ID.replace("1", "2")), ("mode", "iscsi-late")))])
def test_an_answer_that_was_altered_is_refused(member: str, value: object) -> None:
    tree = json.loads(reply_to_json(REPLY, A, "what?"))
    assert tree[member] != value
    with pytest.raises((errors.NotAuthentic, errors.BadStructure)):
        reply_from_json(json.dumps({**tree, member: value}).encode(), B, "what?")


@pytest.mark.parametrize("spoil", [
    lambda tree: [], lambda tree: None, lambda tree: {**tree, "handover": []},
    lambda tree: {**tree, "handover": {**tree["handover"], "epoch": "3"}},
    lambda tree: {**tree, "handover": {**tree["handover"], "role": []}},
    lambda tree: {**tree, "handover": {**tree["handover"], "mode": "x"}},
    lambda tree: {**tree, "handover": {**tree["handover"], "targets": [[]]}},
    lambda tree: {**tree, "handover": {**tree["handover"], "peer": None}},
    lambda tree: {**tree, "notes": 1}, lambda tree: {**tree, "messages": {}},
    lambda tree: {**tree, "version": 2}, lambda tree: {**tree, "version": "1"}])
def test_an_answer_that_is_none_is_no_more_than_a_document_error(spoil: Spoil) -> None:
    tree = json.loads(reply_to_json(REPLY))
    for here in (None, Authentication("b"), B):
        with pytest.raises((errors.DocumentError, errors.NotAuthentic)):
            reply_from_json(json.dumps(spoil(tree)).encode(), here, "")


@pytest.mark.parametrize("data, error", [
    (b"[" * 100000, errors.NotJson), (b"[" + b"1" * 5000 + b"]", errors.NotJson),
    (b"\xff", errors.NotJson), (b"[" + b"1," * (1 << 18) + b"1]", errors.TooLarge),
    (b'["' + b'","' * (1 << 18) + b'"]', errors.TooLarge)])
def test_what_would_cost_much_is_not_read(data: bytes, error: type[Exception]) -> None:
    for read in (from_json, reply_from_json):
        with pytest.raises(error):
            read(data)
