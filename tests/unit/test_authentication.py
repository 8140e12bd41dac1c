"""The key of two hosts, and what it proves of messages and answers; no kernel."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.protocol import authentication
from lio_handover.protocol.authentication import Authentication, has_key, make_key
from lio_handover.settings import Settings


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
