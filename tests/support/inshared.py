"""What tests of targets that share a backstore run inside a lab host."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lio_handover.handover.engine import HandoverEngine
from lio_handover.host.memory import Memory
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.keys import lun_key, target_key, tpg_key
from lio_handover.model.objects import Lun, State, Target, Tpg
from lio_handover.protocol.messages import Message
from lio_handover.scsi import TransportError, cdb, replies, vhost
from lio_handover.scsi.endpoint_holder import Holder, Holders
from lio_handover.scsi.fingerprint import drain
from tests.lab import MiB
from tests.lab.isid import LoginRefused, Session
from tests.support import inhandover, inhost, samples

WWPNS = ("naa.5001405abcdef0a1", "naa.5001405abcdef0b1")
NEXUSES = ("naa.5001405000000a11", "naa.5001405000000b11")
GUESTS = tuple(f"vhost/{wwpn}" for wwpn in WWPNS)
ISCSI = f"iscsi/{samples.IQN}"
LUNS = 2
SIZE = 8 * MiB

Execute = Callable[..., Any]


def state(shared: Path, guests: int = 2, iscsi: bool = True) -> State:
    """Two backstores that so many guests share, each by a target of its own, and perhaps iSCSI
    initiators, too."""
    paths = [str(shared / f"disk{number}.img") for number in range(LUNS)]
    for path in paths:
        Path(path).write_bytes(b"\0" * SIZE)
    made = samples.iscsi(luns=LUNS, acls=2, paths=paths, portals=("0.0.0.0:3260",))
    stores = tuple(replace(
        store, hba="", parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={name: value for name, value in store.attributes.items()
                    if name.startswith("wwn/")}) for store in made.backstores)
    targets = list(made.targets) if iscsi else []
    for number in range(guests):
        key = target_key("vhost", WWPNS[number])
        tpg = tpg_key(key, 1)
        targets.append(Target(key, {}, (Tpg(
            tpg, {"nexus": NEXUSES[number], "rtpi": str(number + 2)}, luns=tuple(
                Lun(lun_key(tpg, at), store.key, "link") for at, store in enumerate(stores))),)))
    return State((), stores, tuple(targets))


class Users:
    """Everybody who uses the backstores: guests by their endpoints, and iSCSI initiators."""

    def __init__(self, guests: int = 2, initiators: int = 2) -> None:
        self.stack = ExitStack()
        self.execute: dict[str, list[Execute]] = {}
        for wwpn in WWPNS[:guests]:
            endpoint = self.stack.enter_context(vhost.Endpoint(wwpn))
            self.execute[wwpn] = [endpoint.unit(lun, 1).execute for lun in range(LUNS)]
        for number in range(initiators):
            session = self.stack.enter_context(Session(
                "127.0.0.1", 3260, samples.IQN, samples.initiator(number),
                f"00023d{number:06x}"))
            self.execute[samples.initiator(number)] = [session.unit(lun).execute
                                                       for lun in range(LUNS)]

    def __enter__(self) -> Users:
        for units in self.execute.values():
            for execute in units:
                drain(execute)
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def do(self, user: str, lun: int, command: cdb.Command) -> None:
        result = self.execute[user][lun](*command)
        assert result.good, (user, lun, result)


def reserve() -> None:
    """A guest holds LUN 0, on which the other guest and an initiator are registered; an initiator
    holds LUN 1, on which a guest is registered."""
    with Users() as users:
        first, second = WWPNS
        initiator = samples.initiator(0)
        for lun, user, key in ((0, first, 0xa1), (0, second, 0xb1), (0, initiator, 0xc1),
                               (1, initiator, 0xc2), (1, second, 0xb2)):
            users.do(user, lun, cdb.register(0, key, aptpl=True))
        users.do(first, 0, cdb.reserve(0xa1, 5))
        users.do(initiator, 1, cdb.reserve(0xc2, 6))


def reserve_as(guests: int, initiators: int) -> None:
    """The first of them holds LUN 0, and all are registered."""
    with Users(guests, initiators) as users:
        for number, user in enumerate(users.execute, 1):
            users.do(user, 0, cdb.register(0, number, aptpl=True))
        users.do(next(iter(users.execute)), 0, cdb.reserve(1, 5))


def writes() -> dict[str, list[int]]:
    """User → the status of a write on each LUN."""
    with Users() as users:
        return {user: [execute(*cdb.write_10(8, b"x" * 512)).status for execute in units]
                for user, units in users.execute.items()}


def lets_in(guests: int = 2, initiators: int = 1) -> list[str]:
    """The targets by which somebody could get a command executed now."""
    names = []
    for name, wwpn in list(zip(GUESTS, WWPNS))[:guests]:
        try:
            with vhost.Endpoint(wwpn) as endpoint:
                result = endpoint.unit(1, 1).execute(*cdb.test_unit_ready())  # 0 always is
                sense = replies.sense_of(result)
                if result.good or sense and sense.key == 6:  # it has a disk
                    names.append(name)
        except TransportError:
            pass
    try:
        if initiators:
            with Session("127.0.0.1", 3260, samples.IQN, samples.initiator(0), "00023d000000"):
                names.append(ISCSI)
    except (LoginRefused, OSError):
        pass
    return names


# ── a process that stays ─────────────────────────────────────────────────────────────────────


def in_a_session(verb: str, role: str, id: str, messages: Sequence[Message],  # noqa: A002
                 ends: str = "", **more: Any) -> tuple[Any, list[str], list[str]]:
    """A verb by a process that stays, whose holders were ready: (the answer, the WWPNs whose
    holders are ready afterwards, those that a holder has which was ready before).  ``ends``:
    "killed", or "another", where another process has ended what was ready."""
    core = inhost.core()
    core.memory = Memory()
    holders = Holders(core.settings.state_directory, core.memory.ready)
    before = {}
    if verb not in ("prepare", "stage"):
        for wwpn in WWPNS:      # what an earlier process had ready ends with that
            _until(lambda wwpn=wwpn: not holders._holder(wwpn))  # type: ignore[misc]
        holders.keep_ready(WWPNS)
        for wwpn in WWPNS:
            _until(lambda wwpn=wwpn: bool(holders._holder(wwpn)))  # type: ignore[misc]
            before[wwpn] = -holders._holder(wwpn)
        for wwpn in WWPNS if ends else ():
            if ends == "killed":
                os.kill(before[wwpn], signal.SIGKILL)
            else:
                Holders(core.settings.state_directory).release(wwpn)
    answer = HandoverEngine(core).do(verb, role, id, messages=messages, **more)
    for wwpn in core.memory.ready:      # else the next call would not see that they have to end
        _until(lambda wwpn=wwpn: bool(holders._holder(wwpn)))  # type: ignore[misc]
    return answer, sorted(core.memory.ready), [
        wwpn for wwpn in before if holders.pid_of(wwpn) == before[wwpn]]


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# ── being killed at a gate ───────────────────────────────────────────────────────────────────


class GatePoints(inhandover.Points):
    """SIGKILL before or after a change of a gate alone: an iSCSI TPG's enable, an endpoint taken or
    let go of.  A vhost TPG gets its nexus, with which its endpoint can be taken, between ``expect``
    and ``hold``."""

    def install(self) -> None:
        plain = Configfs.write

        def write(fs: Configfs, path: str, data: bytes) -> None:
            if path.endswith("/enable") and path.startswith("iscsi/"):
                self.around(path, plain)(fs, path, data)
            else:
                plain(fs, path, data)
        setattr(Configfs, "write", write)
        for kind, name in ((Holders, "release"), (Holder, "expect"), (Holder, "hold")):
            setattr(kind, name, self.around(name, getattr(kind, name)))


def crash(point: int, verb: str, role: str, id: str,  # noqa: A002
          messages: Sequence[Message] = (), **more: Any) -> tuple[bool, Any]:
    """As inhandover.crash, at a change of a gate."""
    return inhandover.killed_at(lambda: inhandover.do(verb, role, id, messages, **more),
                                GatePoints(point))
