"""Manager.Move on a private bus: who may have what moved where, and with which descriptors."""
from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lio_handover import dbus_names as names, errors
from lio_handover.client import connection
from tests.support import inbus
from tests.support.inbus import NOBODY, Client, options

dbus = pytest.importorskip("dbus")
from tests.support.privatebus import Bus, wait_until  # noqa: E402 - it needs dbus, too

TARGET = "iscsi/iqn.2003-01.org.example:db"
ACTION = "io.github.lio-handover1."
POLKIT = """<policy user="root"><allow own="org.freedesktop.PolicyKit1"/></policy>
<policy context="default"><allow send_destination="org.freedesktop.PolicyKit1"/></policy>"""
SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
[ "$2" = b ] || exit 255
exec "$3" --bus-path=unix:path={folder}/bus
"""


@pytest.fixture(scope="module")
def bus() -> Iterator[Bus]:
    """A service whose ssh leads to b, which is the same service, and to nowhere else."""
    with tempfile.TemporaryDirectory() as folder:
        ssh = Path(folder, "ssh")
        ssh.write_text(SSH.format(folder=folder))
        ssh.chmod(0o755)
        made = Bus(Path(folder), POLKIT, "[service]\npeers =\n  b\n  root@c\n", ssh=str(ssh))
        yield made
        made.stop()


def moved(address: str, given: dict[str, Any], *targets: str) -> tuple[str, str]:
    """The error that the call ends with, or the job: its name and its sentence."""
    client = Client(address)
    try:
        job = client.manager("Move", "asa{sv}", dbus.Array(targets, signature="s"), options(given))
    except dbus.DBusException as error:
        return error.get_dbus_name().removeprefix(names.ERROR), error.get_dbus_message()
    name, sentence = client.job(job)["Error"]
    return "job: " + name.removeprefix(names.ERROR), sentence


def test_root_s_ssh_goes_where_the_configuration_says(bus: Bus) -> None:
    for given, why in (({"to": "c"}, "option to: 'c' is not among [service] peers"),
                       ({"to": "b", "here": "a"}, "option here: 'a' is not among [service] peers"),
                       ({"to": f"unix:path={bus.folder}/bus"}, "is not among [service] peers"),
                       ({"to": "-oProxyCommand"}, "is not among [service] peers")):
        name, sentence = moved(bus.address, given, TARGET)
        assert name == "job: BadCall" and why in sentence, sentence
        assert "have root add it there (/etc/lio-handover/lio-handover.conf)" in sentence
    # Both hosts were reached: this one by the bus that the service is on, the other by ssh.
    for here in ("", os.uname().nodename, "root@c"):
        given = {"to": "b", **({"here": here} if here else {})}
        assert moved(bus.address, given, TARGET) == (
            "job: BadCall", "both are one host; nothing was changed; next: name the other host "
            "with --to")


@pytest.mark.parametrize("given, targets, name, why", [
    ({}, [TARGET], "BadCall", "Move needs option to: how ssh reaches the destination"),
    ({"to": ["b"]}, [TARGET], "BadCall", "option to is of type s"),
    ({"to": "b", "handover": "x"}, [TARGET], "BadCall", "Move has no option 'handover'"),
    ({"to": "b"}, [], "job: BadCall", "name targets, or the handover"),
    ({"to": "b", "resume": "x"}, [TARGET], "job: BadCall", "name targets, or the handover"),
    ({"to": "b", "resume": "x", "maps": ["root:/a=/b"]}, [], "job: BadCall",
     "--resume goes on as it began"),
    ({"to": "b", "guest": ["/run/vm"]}, [TARGET], "job: BadCall", "a guest has two monitors"),
    ({"to": "b"}, ["nonsense"], "BadCall", "'nonsense' is no target")])
def test_calls_that_make_no_sense(bus: Bus, given: dict[str, Any], targets: list[str], name: str,
                                  why: str) -> None:
    answer = moved(bus.address, given, *targets)
    assert answer[0] == name and why in answer[1], answer


def test_who_may_look_may_not_move(bus: Bus) -> None:
    with inbus.polkit(bus.address, {ACTION + "read": "yes"}):
        assert inbus.as_user(NOBODY, moved, bus.address, {"to": "b"}, TARGET)[0] == "NotAuthorized"


def test_others_than_root_hand_descriptors_in(bus: Bus) -> None:
    """A path would be opened, here and on the other host, by root."""
    with inbus.polkit(bus.address, {ACTION + one: "yes" for one in ("read", "write", "force")}):
        for name in ("guest", "guest-there"):
            error, sentence = inbus.as_user(NOBODY, moved, bus.address,
                                            {"to": "b", name: ["/run/vm"]}, TARGET)
            assert error == "NotAuthorized"
            assert f"next: pass a descriptor: option {name}-fds" in sentence
        assert inbus.as_user(NOBODY, with_monitors, bus.address)[1].startswith("both are one host")


def with_monitors(address: str) -> tuple[str, str]:
    """A move with two sockets, as some monitors of QEMUs would be."""
    pairs = [socket.socketpair() for _ in range(2)]
    given = {"to": "b", "guest-fds": fds(pairs[0][0].fileno()),
             "guest-there-fds": fds(pairs[1][0].fileno())}
    return moved(address, given, "vhost/naa.6001405000000001")


def test_our_own_client_hands_sockets_in(bus: Bus) -> None:
    here, there = (socket.socketpair()[0] for _ in range(2))
    for given, why in (({"guest-fds": [here], "guest-there-fds": [there]}, "both are one host"),
                       ({"guest-fds": [here, there], "guest-there-fds": [there]}, "two monitors")):
        service = connection.Service(connection.connect(bus.address))
        with pytest.raises(errors.BadCall, match=why):
            service.run("Move", ["vhost/naa.6001405000000001"], {"to": "b", **given})
        service.connection.close()


def fds(*numbers: int) -> Any:
    return dbus.Array([dbus.types.UnixFd(number) for number in numbers], signature="h",
                      variant_level=1)


def listening() -> socket.socket:
    line = socket.socket()
    line.bind(("127.0.0.1", 0))
    line.listen()
    return line


def unfit(folder: Path) -> Iterator[tuple[str, Any]]:
    yield "a pipe", os.fdopen(os.pipe()[0])
    yield "a directory", os.open(folder, os.O_RDONLY)
    yield "a file", (folder / "file").open("w")
    yield "a path that nobody opened", os.open(folder, os.O_PATH)
    yield "datagrams", socket.socketpair(type=socket.SOCK_DGRAM)[0]
    yield "packets", socket.socketpair(type=socket.SOCK_SEQPACKET)[0]
    yield "not connected", socket.socket(socket.AF_UNIX)
    server = listening()
    yield "listens", server
    yield "TCP", socket.create_connection(server.getsockname())


def test_descriptors_of_anything_else_are_refused_and_closed(bus: Bus, tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir(f"/proc/{bus.daemon.pid}/fd"))

    with_monitors(bus.address)
    before = opened()
    good = socket.socketpair()[0]
    for what, line in unfit(tmp_path):
        number = line if isinstance(line, int) else line.fileno()
        name, sentence = moved(bus.address, {
            "to": "b", "guest-fds": fds(good.fileno(), number),
            "guest-there-fds": fds(good.fileno(), good.fileno())}, TARGET)
        assert (name, "option guest-fds has a descriptor that is no connected UNIX stream socket"
                in sentence) == ("BadCall", True), (what, name, sentence)
    # Numbers are no descriptors, not even those of the service's own sockets; and a descriptor is
    # no other option.
    own = [int(fd) for fd in os.listdir(f"/proc/{bus.daemon.pid}/fd")
           if os.readlink(f"/proc/{bus.daemon.pid}/fd/{fd}").startswith("socket:")]
    assert own
    for given, error in (
            *(({"guest-fds": dbus.Array([fd], signature="i"),
                "guest-there-fds": dbus.Array([fd], signature="i")}, ".BadCall") for fd in own),
            ({"guest-fds": dbus.Array([fds(good.fileno())], signature="v")}, "InvalidArgs"),
            ({"guest-fds": dbus.types.UnixFd(good.fileno(), variant_level=1)}, "InvalidArgs"),
            ({"guest": fds(good.fileno())}, "InvalidArgs"),
            ({"maps": fds(good.fileno())}, "InvalidArgs")):
        assert f".{moved(bus.address, {'to': 'b', **given}, TARGET)[0]}".endswith(error), given
    wait_until(lambda: opened() <= before + 2)  # the spare child may be another


def test_moves_leave_room_for_the_jobs_they_need(bus: Bus) -> None:
    """At most eight at once, however many other jobs there are, and those as many as ever."""
    client = bus.client()
    begun: list[str] = []

    def begin(member: str, targets: list[str], given: dict[str, str]) -> bool:
        wait_until(lambda: len(bus.workers()) > len(begun))
        stop(bus.workers())
        with suppress(dbus.DBusException):
            begun.append(client.manager(member, "asa{sv}", targets, options(given)))
            return True
        return False

    try:
        assert begin("Show", [], {})
        assert [begin("Move", [TARGET], {"to": "b"}) for _ in range(9)] == [True] * 8 + [False]
        assert begin("Show", [], {})
    finally:
        stop(bus.workers(), go_on=True)
    assert {client.job(job)["State"] for job in begun} == {"failed"}


def stop(workers: list[int], go_on: bool = False) -> None:
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if go_on else signal.SIGSTOP)


Details = Callable[..., dict[str, Any]]


def test_details_are_what_a_property_can_have() -> None:
    """Whatever a monitor answers."""
    details: Details = pytest.importorskip("lio_handover.service.moves").details
    ram = {"remaining": 5 << 20, "total": 128 << 20}
    assert details("copy", {"ram": ram, "expected-downtime": 300, "status": "active"}) == {
        "phase": "copy", "remaining": 5 << 20, "total": 128 << 20, "expected_downtime": 300}
    odd: dict[str, Any]
    for odd in ({}, {"ram": []}, {"ram": {"remaining": 1 << 64, "total": -1}},
                {"ram": {"remaining": "x", "total": True}, "expected-downtime": 1.5}):
        assert details("copy", odd) == {"phase": "copy"}
