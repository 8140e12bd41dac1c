"""The configuration file: what it says, and how it says no."""
from __future__ import annotations

import os
import re
from typing import Any

import pytest

from lio_handover.dbus_names import HOST
from lio_handover.errors import BadSettings
from lio_handover.settings import Late, Settings, load, parse

SHIPPED = os.path.join(os.path.dirname(__file__), "..", "..", "etc", "lio-handover",
                       "lio-handover.conf")


def shipped() -> str:
    with open(SHIPPED, encoding="utf-8") as file:
        return file.read()


def late_example() -> str:
    """What the shipped file shows of a section that has no default."""
    _, begin, rest = shipped().partition("#  [late")
    return begin + rest.partition("\n\n")[0]


def test_the_shipped_file_changes_nothing() -> None:
    assert load(SHIPPED) == Settings()


def test_the_defaults_which_the_shipped_file_names_are_the_defaults() -> None:
    text = re.sub(r"^#(?=\w|    )", "", shipped().replace(late_example(), ""), flags=re.M)
    nothing = Settings((), (), "/nowhere", "/nowhere", 1)
    assert parse(text, "x", nothing) == Settings()
    every = set(re.findall(r"^(\w+) =", text, flags=re.M))
    assert len(every) == len(Settings.__dataclass_fields__) - len({"late", "limited"})


def test_the_late_storage_which_the_shipped_file_shows_is_taken() -> None:
    text = re.sub(r"^#  ", "", late_example(), flags=re.M)
    drbd, lvm = parse(text, "x").late
    assert drbd == Late("drbd", ("/dev/drbd*",), ("/usr/sbin/drbdadm", "primary"),
                        ("/usr/sbin/drbdadm", "secondary"), 30)
    assert (lvm.name, lvm.acquire[1:], lvm.release[1:], lvm.timeout) == (
        "lvm", ("--activate", "ey"), ("--activate", "n"), 30)
    assert set(re.findall(r"^(\w+) =", text.partition("[late lvm]")[0], flags=re.M)) \
        == set(Late.__dataclass_fields__) - {"name"}


LATE = "[late a]\npaths = /dev/a*\nacquire = /bin/a\nrelease = /bin/r\n"


def test_late_storage_is_changed_by_a_later_file_key_by_key() -> None:
    first = parse(LATE + "[late b]\npaths = /dev/b\nacquire =\n  /bin/b\n  x y\nrelease = /bin/r\n",
                  "x")
    assert [one.name for one in first.late] == ["a", "b"]
    assert first.late[1].acquire == ("/bin/b", "x y")
    second = parse("[late a]\ntimeout = 7\nrelease =\n  /bin/s\n  now\n", "y", first)
    assert second.late == (Late("a", ("/dev/a*",), ("/bin/a",), ("/bin/s", "now"), 7),
                           first.late[1])


def test_no_file_is_no_error(tmp_path: Any) -> None:
    assert load(str(tmp_path / "none.conf")) == Settings()


def test_drop_ins_replace_in_order(tmp_path: Any) -> None:
    main = tmp_path / "x.conf"
    main.write_text("[storage]\nroots = /a\ndevices =\n  /dev/a*\n\n  # why\n  /dev/b*\n"
                    "[limits]\ndocument=1k\n")
    folder = tmp_path / "x.conf.d"
    folder.mkdir()
    (folder / "20.conf").write_text("[storage]\nroots =\n\t/c d/\n[host]\ndbroot = /var/x\n")
    (folder / "10.conf").write_text("[storage]\nroots = /b\n")
    (folder / "README").write_text("not read")
    (folder / ".30.conf").write_text("not read")
    assert load(str(main)) == Settings(
        roots=("/c d",), devices=("/dev/a*", "/dev/b*"), dbroot="/var/x", document_bytes=1024)


def test_an_empty_list_allows_nothing() -> None:
    assert parse("[storage]\nroots =\n", "x").roots == ()


def test_peers_are_hosts_as_ssh_has_them() -> None:
    """And nothing else that root's ssh would take."""
    assert parse("[service]\npeers =\n  b\n  root@b.example\n  192.0.2.1\n  [2001:db8::1]\n",
                 "x").peers == ("b", "root@b.example", "192.0.2.1", "[2001:db8::1]")
    for host in ("b", "a@b", "_x", "-b", "a@-b", "-a@b", "a@@b", "a b", "@b", "a@", "b/c", "é"):
        try:
            taken = bool(parse(f"[service]\npeers = {host}\n", "x").peers)
        except BadSettings:
            taken = False
        assert taken == bool(HOST.fullmatch(host)), host


def test_a_fence_program_has_its_arguments_one_a_line() -> None:
    made = parse("[fence]\nprogram =\n  /usr/sbin/fence\n  --port 7\n  off\ntimeout = 9\n", "x")
    assert (made.fence_program, made.fence_seconds) == (("/usr/sbin/fence", "--port 7", "off"), 9)


@pytest.mark.parametrize("text, line, word", [
    ("[stroage]", 1, "[storage]"),
    ("[storage", 1, "section"),
    ("roots = /srv", 1, "no section"),
    ("[storage]\n\nroot = /srv", 3, "roots"),
    ("[storage]\nroots", 2, "="),
    ("[storage]\nroots = srv", 2, "full path"),
    ("[storage]\nroots = /srv/../etc", 2, "full path"),
    ("[storage]\nroots = /a\nroots = /b", 3, "line 2"),
    ("  /srv", 1, "continues nothing"),
    ("[storage]\n  /srv", 2, "continues nothing"),
    ("[storage]\nroots = /a\n[host]\n  /srv", 4, "continues nothing"),
    ("[host]\ndbroot = /a\n  /b", 2, "one value"),
    ("[host]\nstate_directory =", 2, "one value"),
    ("[limits]\ndocument = many", 2, "bytes"),
    ("[limits]\ndocument = 0", 2, "0"),
    ("[limits]\ndocument = 1T", 2, "bytes"),
    ("[late]", 1, "[late NAME]"), ("[storage x]", 1, "section"),
    ("[late a]\npaths = /dev/a*\nacquire = /bin/a\n", 1, "has no release"),
    ("[late a]\nacquire = /bin/a\nrelease = /bin/r\n", 1, "has no paths"),
    (LATE + "release = /bin/s", 5, "line 4"), (LATE + LATE, 6, "line 2"),
    (LATE + "timeout = 0", 5, "seconds"), (LATE + "timeout = soon", 5, "seconds"),
    (LATE + "[late b]\nacquire = drbdadm primary\n", 6, "full path"),
    (LATE + "[late b]\nacquire = /bin/drbdadm primary\n", 6, "line of its own"),
    (LATE + "[late b]\npaths = dev/x\n", 6, "full path"),
    ("[fence]\nprogram = fence", 2, "full path"),
    ("[service]\npeers = -b", 2, "no host"), ("[service]\npeers =\n  b\n  a@-b", 2, "no host"),
    ("[service]\npeers = b c", 2, "no host"), ("[service]\npeers = unix:path=/b", 2, "no host"),
    ("[fence]\ntimeout = 0", 2, "seconds"),
    ("[fence]\ntimeout = 1m", 2, "seconds"),
])
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, word: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(text, "some.conf")
    assert f"some.conf, line {line}: " in str(caught.value)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Any) -> None:
    path = tmp_path / "x.conf"
    path.write_bytes(b"\xff")
    with pytest.raises(BadSettings, match="UTF-8"):
        load(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(BadSettings, match="x.conf: "):
        load(str(path))
