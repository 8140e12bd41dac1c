"""Every cell of the table who may what (tests/support/access.py), called on a private bus."""
from __future__ import annotations

import os
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lio_handover import dbus_names as names, verb_table
from tests.support import inbus, instubbed
from tests.support.access import OVERRIDES, SUBJECTS, TABLE, WITH_KEY, Cell, cells
from tests.support.inbus import NOBODY, Client, descriptors, options

dbus = pytest.importorskip("dbus")
bus_interfaces = pytest.importorskip("lio_handover.service.bus.interfaces")
marshal = pytest.importorskip("lio_handover.service.bus.marshal")
from tests.support.privatebus import POLKIT, Bus, wait_until  # noqa: E402 - it needs dbus, too

#: The bus lets in who has an account: daemon, bin, sys and sync.
USERS = {"root": 0, "nobody": NOBODY, "looks": 1, "changes": 2, "is handed documents": 3,
         "vouches": 4, "manages": 6, "group": NOBODY}
#: object → (what stands for it in the interfaces, its path but for the handover's).
INTERFACES = {"target": names.TARGET, "backstore": names.BACKSTORE, "acl": names.ACL,
              "manager": names.MANAGER, "handover": names.HANDOVER, "job": names.JOB,
              "secret": names.JOB, "own": names.JOB}
STUBBED = f"""
from tests.support import instubbed
instubbed.stub({sorted({*USERS.values()})})
"""
REFUSED = ("NotAuthorized", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired")


@pytest.fixture(scope="module")
def bus() -> Iterator[Bus]:
    """A service whose verbs have no bodies; its host gets a key where there is a file ``key``."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIO_TEST_BEGUN", f"{folder}/begun")
        made = Bus(Path(folder), POLKIT, f"[service]\ngroup = {inbus.GROUP}\n", STUBBED)
        path = names.path(names.HANDOVERS, made.handover.id)
        wait_until(lambda: path in made.client().objects())
        yield made
        made.stop()


# ── the table ────────────────────────────────────────────────────────────────────────────────────

def test_the_table_has_every_method_and_every_option() -> None:
    known = bus_interfaces.load()
    wanted: set[tuple[str, str, str]] = set()
    for place, interface in (("manager", names.MANAGER), ("handover", names.HANDOVER),
                             ("job", names.JOB), ("target", names.TARGET),
                             ("backstore", names.BACKSTORE), ("acl", names.ACL)):
        for name, method in known[interface].methods.items():
            given = [option for option in method.options if option != "allow"] + ["-"]
            if "allow" in method.options:
                given += ["allow=reserved", *(f"allow={value}" for value in OVERRIDES)]
            if method.verb and method.verb.takes == verb_table.MESSAGES:
                given.append("messages")
            wanted |= {(place, name, option) for option in given}
    for interface in (*bus_interfaces.STANDARD_NAMES, names.OBJECT_MANAGER):
        wanted |= {("manager", name, "-") for name in known[interface].methods}
    told = [(cell.object, cell.method, cell.option) for cell in cells(TABLE)]
    assert len(set(told)) == len(told)
    assert wanted - {*told} == {("manager", "Move", "to")}  # which every call has
    assert not {cell for cell in {*told} - wanted if cell[0] == "manager" or cell[2] != "-"}
    assert set(OVERRIDES) == set(verb_table.OVERRIDES)


def value_of(name: str, method: Any) -> Any:
    """A value of an option."""
    if name.startswith("allow="):
        return dbus.Array([name.partition("=")[2]], signature="s")
    kind = method.options[name]
    if kind == "ah":
        return descriptors(*(line.fileno() for line in socket.socketpair()[:1]))
    return {"b": True, "s": "x", "u": dbus.UInt32(1), "as": dbus.Array(["x"], signature="s")}[kind]


def call_cells(address: str, handover: str, uid: int, wanted: Sequence[Cell]) -> list[str]:
    """The error of each cell's call, "" for none."""
    client, known = Client(address), bus_interfaces.load()
    paths = {"manager": names.ROOT, "handover": handover,
             "job": f"{names.ROOT}/jobs/{instubbed.PLAIN}",
             "secret": f"{names.ROOT}/jobs/{instubbed.SECRET}",
             "own": f"{names.ROOT}/jobs/{instubbed.FIRST_OF_USERS + uid}",
             "target": names.path(names.TARGETS, instubbed.TARGET),
             "backstore": names.path(names.BACKSTORES, instubbed.BACKSTORE),
             "acl": names.path(names.ACLS, f"{instubbed.TARGET}/tpg1/iqn.x")}

    def answer(cell: Cell) -> str:
        interface = next(name for name in (
            INTERFACES[cell.object], *bus_interfaces.STANDARD_NAMES, names.OBJECT_MANAGER)
            if cell.method in known[name].methods)
        method, lines = known[interface].methods[cell.method], []
        given: dict[str, Any] = {"to": "b"} if cell.method == "Move" else {}
        if cell.option == "uploads" or cell.option == "upload":
            try:
                token = client.manager("Upload", "saya{sv}", "", b"[]", options({}))
            except dbus.DBusException:
                token = "none"
            given[cell.option] = [token] if cell.option == "uploads" else token
        elif cell.option.endswith("-fds"):
            lines = list(socket.socketpair())
            given[cell.option] = descriptors(lines[0].fileno())
        elif cell.option not in ("-", "messages"):
            given[cell.option.partition("=")[0]] = value_of(cell.option, method)
        fd = os.memfd_create("document")
        samples = {"s": "x", "as": ["iscsi/x"], "ay": b"x", "t": 1, "u": 1, "v": "x",
                   "a{sv}": options(given), "ah": descriptors(
                       *([fd] if cell.option == "messages" or cell.option != "upload"
                         and method.verb and method.verb.takes in (
                           verb_table.A_DOCUMENT, verb_table.A_FILE) else [])),
                   "a{ss}": dbus.Dictionary({}, signature="ss"), "x": 1, "b": False}
        args = [samples[kind] for kind in marshal.split(method.takes)]
        if interface == names.PROPERTIES:
            args[:2] = [INTERFACES[cell.object], {
                "manager": "Stale", "target": "Name", "backstore": "Name", "acl": "Tpg"}.get(
                    cell.object, "State")][:len(args)]
        elif cell.method == "Upload":
            args[0] = ""
        try:
            return client.error(paths[cell.object], interface, cell.method, method.takes, *args)
        finally:
            os.close(fd)
            for line in lines:
                line.close()

    return [answer(cell) for cell in wanted]


def check(bus: Bus, subject: str, table: str) -> int:
    """Call each cell of a subject; the number of them."""
    wanted, uid = list(cells(table)), USERS[subject]
    begun = Path(os.environ["LIO_TEST_BEGUN"])
    begun.write_text("")
    begun.chmod(0o666)
    path = names.path(names.HANDOVERS, bus.handover.id)
    work = call_cells, bus.address, path, uid, wanted
    told = call_cells(*work[1:]) if not uid else \
        inbus.as_member(*work) if subject == "group" else inbus.as_user(uid, *work)
    for cell, error in zip(wanted, told):
        if cell.needs == {"nobody"}:
            assert error in ("NotAuthorized", "org.freedesktop.DBus.Error.PropertyReadOnly"), cell
        else:
            assert (error in REFUSED) != cell.allows(subject), (subject, cell, error)
            assert error in ("", *REFUSED), (subject, cell, error)
    # What was refused was not begun.
    methods = bus_interfaces.verb_methods()
    verbs = Counter(methods[INTERFACES[cell.object], cell.method].verb.name for cell in wanted
                    if (INTERFACES[cell.object], cell.method) in methods and cell.allows(subject))
    assert Counter(line.split()[-1] for line in begun.read_text().splitlines()) == verbs
    return len(wanted)


@pytest.fixture(scope="module")
def asked(bus: Bus) -> Iterator[None]:
    """polkit, which lets each subject do what the table says that it has."""
    told = {f"{USERS[name]}:io.github.lio-handover1.{action}": "yes"
            for name, has in SUBJECTS.items() if name not in ("root", "nobody", "group")
            for action in has}
    with inbus.polkit(bus.address, told):
        yield


@pytest.fixture
def key(bus: Bus) -> Iterator[None]:
    """The host has a key."""
    file = bus.folder / "key"
    file.write_text("0" * 64 + "\n")
    file.chmod(0o600)
    yield
    file.unlink()


def test_a_group_may_what_the_table_has_where_there_is_no_polkit(bus: Bus) -> None:
    print(f"{check(bus, 'group', TABLE)} cells")


def test_a_key_gives_a_group_messages(bus: Bus, key: None) -> None:
    check(bus, "group", WITH_KEY)


@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name != "group"])
def test_every_cell_is_as_the_table_has_it(bus: Bus, asked: None, subject: str) -> None:
    print(f"{check(bus, subject, TABLE)} cells")


@pytest.mark.parametrize("subject", ["nobody", "looks", "changes"])
def test_messages_that_a_key_proves_take_no_more_than_to_change(
        bus: Bus, asked: None, key: None, subject: str) -> None:
    check(bus, subject, WITH_KEY)
