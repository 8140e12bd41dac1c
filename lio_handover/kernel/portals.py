"""Network portals: which of them a host can have side by side, and which of them listen.

LIO makes one listening socket for each address and port, in the network namespace of the process
that makes the portal, and shares it among targets (iscsi_target.c:iscsit_add_np).  It finds the one
to be shared by looking at the bytes of the address alone (iscsit_check_np_match), so that 0.0.0.0
is taken for any IPv6 address, :: for any IPv4 one: such a portal is made, and nobody can reach it.
The rest is the bind(2) of every socket, which can be tried: bound and let go, a port is nobody's
afterwards.
"""
from __future__ import annotations

import errno
import os
import re
import socket
from typing import (AbstractSet, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Set,
                    Tuple)

from .. import errors
from ..errors import Finding
from ..model import directories, fabrics
from ..model.keys import display
from ..model.objects import Key, Portal, State
from .configfs import Configfs

#: How one portal gets on with another that is there already.
FINE, SHARED, REFUSED, NOWHERE = "fine", "shared", "refused", "nowhere"

_V4_ANY, _V6_ANY, _MAPPED = bytes(4), bytes(16), bytes(10) + b"\xff\xff"
_IPV6_FREEBIND = 78  # linux/in6.h
_FREEBIND = 15       # linux/in.h
_LISTEN = "0A"       # include/net/tcp_states.h:TCP_LISTEN
_PROC = "/proc"


class Address(NamedTuple):
    """A portal's address: 4 or 16 bytes, a port, and the network device of a link-local address."""

    host: bytes
    port: int
    scope: str = ""

    @property
    def any(self) -> bool:
        return not any(self.host)

    @property
    def v6(self) -> bool:
        return len(self.host) == 16

    @property
    def mapped(self) -> bool:
        """An IPv4 address written as an IPv6 one."""
        return self.host[:12] == _MAPPED

    def __str__(self) -> str:
        if not self.v6:
            return f"{socket.inet_ntop(socket.AF_INET, self.host)}:{self.port}"
        scope = f"%{self.scope}" if self.scope else ""
        return f"[{socket.inet_ntop(socket.AF_INET6, self.host)}{scope}]:{self.port}"


def address(name: str) -> Optional[Address]:
    """The address that the kernel reads from a portal's name (iscsi_target_configfs.c:
    lio_target_call_addnptotpg): any spelling of the address, and a port in base 0.  None for a name
    that the kernel would not take."""
    host, _colon, port = name.rpartition(":")
    host, _percent, scope = host.strip("[]").partition("%")
    number = re.fullmatch(r"(0x[0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)", port)
    if not number:
        return None
    base = 16 if number[1] else 8 if number[2] else 10
    try:
        if ":" in host:
            return Address(socket.inet_pton(socket.AF_INET6, host), int(port, base), scope)
        words = host.split(".")
        return Address(bytes(int(word) for word in words), int(port, base)) \
            if len(words) == 4 else None
    except (OSError, ValueError):
        return None


def order(name: str) -> Tuple[int, ...]:
    """The rank of a portal among those of a plan.

    Portals of any address come first: after a portal of the other family the kernel refuses them,
    before it both listen.
    """
    parsed = address(name)
    return (0 if parsed is not None and parsed.any else 1,)


def beside(new: Address, old: Address, same_target: bool, v6_only: bool = False) -> str:
    """The fate of ``new`` (FINE, SHARED, REFUSED, NOWHERE) where ``old`` listens, a portal of
    another
    target or of the same one.

    ``v6_only``: net.ipv6.bindv6only.  Every pair behaves so on 6.1, 6.12 and 7.2.
    """
    if new.port != old.port:
        return FINE
    if new.v6 and v6_only and new.mapped:
        return REFUSED
    if _taken_for(new, old):
        if same_target:
            return REFUSED  # "already exists on a different TPG"
        return SHARED if new.host == old.host and new.scope == old.scope else NOWHERE
    return REFUSED if _clash(new, old, v6_only) else FINE


def _taken_for(new: Address, old: Address) -> bool:
    """iscsit_check_np_match, whose answer depends on the family of the new one alone."""
    return new.host == old.host or new.any and new.v6 != old.v6


def _clash(new: Address, old: Address, v6_only: bool) -> bool:
    """Whether two sockets of one port can't both be bound (inet_csk_bind_conflict)."""
    if new.v6 == old.v6 and not (new.mapped or old.mapped):
        return new.any or old.any or new.host == old.host
    if new.any and new.v6 or old.any and old.v6:
        both_v6 = new.v6 and old.v6
        return both_v6 or not v6_only
    if not (new.mapped or old.mapped):
        return False
    first, second = (side.host[-4:] if side.mapped or not side.v6 else None
                     for side in (new, old))
    return first is not None and second is not None and (
        first == second or _V4_ANY in (first, second))


# --- what listens --------------------------------------------------------------------------------
class Listening(NamedTuple):
    """The listening TCP sockets of this network namespace: address → the socket's inode."""

    sockets: Mapping[Tuple[bytes, int], int]

    def has(self, wanted: Address) -> bool:
        return (wanted.host, wanted.port) in self.sockets


def listening(proc: str = _PROC) -> Listening:
    """The listening sockets now: /proc/net/tcp and tcp6 name them before all others
    (net/ipv4/tcp_ipv4.c:tcp_get_idx)."""
    sockets: Dict[Tuple[bytes, int], int] = {}
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/self/net/{name}", encoding="ascii", errors="replace") as file:
                next(file, "")
                for line in file:
                    words = line.split()
                    if words[3] != _LISTEN:
                        break
                    host, port = words[1].split(":")
                    sockets[_bytes(host), int(port, 16)] = int(words[9])
        except (OSError, ValueError, IndexError, OverflowError):
            continue  # no IPv6, or not the table that is known
    return Listening(sockets)


def _bytes(text: str) -> bytes:
    """Each 32 bits are shown as a number of this machine's byte order."""
    import sys
    return b"".join(int(text[at:at + 8], 16).to_bytes(4, sys.byteorder)
                    for at in range(0, len(text), 8))


def silent(state: State, proc: str = _PROC) -> List[str]:
    """The portals of these targets on which nothing listens."""
    addresses = [(portal, parsed) for portal in _portals(state)
                 for parsed in [address(portal.address)] if parsed is not None]
    if not addresses:
        return []
    there = listening(proc)
    return [display(portal.key) for portal, parsed in addresses if not there.has(parsed)]


def check(want: State) -> None:
    """Raises VerifyFailed where nothing listens on a portal of these targets."""
    dead = silent(want)
    if dead:
        more = f" (and {len(dead) - 1} more)" if len(dead) > 1 else ""
        raise errors.VerifyFailed(
            f"{dead[0]}: no socket listens there, so nobody can log in{more}",
            do="see who else uses the port (ss -tlnp), or --map portal:OLD=NEW")


def _portals(state: State) -> Iterator[Portal]:
    for target in state.targets:
        for tpg in target.tpgs:
            yield from tpg.portals


# --- what can't be had ---------------------------------------------------------------------------
def of_host(fs: Configfs) -> Iterator[Tuple[str, str]]:
    """(target, name) of every portal of the host."""
    for fabric in filter(fs.exists, (row.name for row in fabrics.FABRICS.values() if row.portals)):
        yield from of_targets(fs, (f"{fabric}/{wwn}" for wwn in fs.entries(fabric)[1]))


def of_targets(fs: Configfs, targets: Iterable[str]) -> Iterator[Tuple[str, str]]:
    """(target, name) of every portal of these targets, which are here."""
    for target in targets:
        for tpgt in filter(directories.is_tpg, fs.entries(target)[1]):
            for name in fs.names(f"{target}/{tpgt}/np"):
                yield target, name


def findings(want: State, have: State, fs: Configfs) -> List[Finding]:
    """The portals of ``want`` that this host can't have.  Asks the kernel once for each address
    that is not there yet."""
    return lacking(want, {portal.key for portal in _portals(have)}, fs)


def lacking(want: State, here: AbstractSet[Key], fs: Configfs) -> List[Finding]:
    """The findings, where ``here`` are the portals that the host has already."""
    new = {portal.key for portal in _portals(want)} - here
    problems: List[Finding] = []
    if new:
        host = _Host(of_host(fs))
        for portal in sorted((portal for portal in _portals(want) if portal.key in new),
                             key=lambda portal: order(portal.address)):
            problems += host.add(portal)
    return problems


class _Host:
    """The portals of a host, to which new ones are added."""

    def __init__(self, here: Iterable[Tuple[str, str]]) -> None:
        #: port → (address, target, whether it is there already)
        self.ports: Dict[int, List[Tuple[Address, str, bool]]] = {}
        self.listening = listening()
        self.v6_only = _bindv6only()
        self.tried: Dict[Address, Optional[int]] = {}
        for target, name in here:
            self._note(address(name), target, True)

    def _note(self, known: Optional[Address], target: str, there: bool) -> None:
        if known is not None:
            self.ports.setdefault(known.port, []).append((known, target, there))

    def add(self, portal: Portal) -> Iterator[Finding]:
        new = address(portal.address)
        if new is None:
            return  # no document has such a name
        target = "/".join(portal.key[1:3])
        why = self._why(new, target)
        if why is not None:
            yield Finding(errors.InUse, display(portal.key), *why)
        self._note(new, target, False)

    def _why(self, new: Address, target: str) -> Optional[Tuple[str, str, str]]:
        """(sentence, override, way out), None where this host can have the address."""
        others = self.ports.get(new.port, [])
        # Only where none of the other family was there, it has got a socket of its own.
        own = [there for other, _name, there in others
               if (other.host, other.scope) == (new.host, new.scope)]
        if own and (not any(own) or self.listening.has(new)):
            if (new, target) not in ((other, name) for other, name, _there in others):
                return None
        for other, name, there in others:
            outcome = beside(new, other, name == target, self.v6_only)
            whose = f"{other} of {name}" + ("" if there else ", of the same document")
            if outcome == NOWHERE:
                return (f"nobody could reach it: this kernel would take it for {whose}", "",
                        self._way(new, other))
            if outcome == REFUSED:
                return f"{whose} has the port", "", self._way(new, other)
        return self._tried(new)

    @staticmethod
    def _way(wanted: Address, other: Address) -> str:
        """The same socket may be shared, where it listens on the address, too."""
        new = str(other) if other.any and other.v6 == wanted.v6 else "NEW"
        return f"--map portal:{wanted}={new}, or remove the other"

    def _tried(self, new: Address) -> Optional[Tuple[str, str, str]]:
        if new not in self.tried:
            self.tried[new] = _bind(new)
        error = self.tried[new]
        way = f"--map portal:{new}=NEW"
        if error is None or error in (errno.EPERM, errno.EACCES):
            return None  # who may not try can't import either
        if error == errno.EADDRINUSE:
            return f"{self._program(new)} has the port", "", f"stop that, or {way}"
        if error in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return "this host has no IPv6", "", way
        if new.scope and error in (errno.ENODEV, errno.EINVAL):
            return f"this host has no network device {errors.shown(new.scope)}", "", way
        return f"this host can't listen there: {os.strerror(error)}", "", way

    def _program(self, wanted: Address) -> str:
        """The program that listens, for a message."""
        for (host, port), inode in self.listening.sockets.items():
            if port == wanted.port and _clash(wanted, Address(host, port), self.v6_only):
                return holder(inode) or "another socket of the kernel"
        return "another socket"


def _bindv6only() -> bool:
    try:
        with open(f"{_PROC}/sys/net/ipv6/bindv6only", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _bind(new: Address, free: bool = True) -> Optional[int]:
    """The errno of a bind as LIO does it (iscsi_target_login.c:iscsit_setup_np), None for none;
    not ``free``: of one for which the address has to be there."""
    try:
        with socket.socket(socket.AF_INET6 if new.v6 else socket.AF_INET,
                           socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not new.v6:
                tried.setsockopt(socket.IPPROTO_IP, _FREEBIND, free)
                tried.bind((socket.inet_ntop(socket.AF_INET, new.host), new.port))
                return None
            tried.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, free)
            number = socket.if_nametoindex(new.scope) if new.scope else 0
            tried.bind((socket.inet_ntop(socket.AF_INET6, new.host), new.port, 0, number))
            return None
    except OSError as error:
        return error.errno or errno.EINVAL


def absent(name: str) -> bool:
    """Whether a portal's address is on none of this host's network devices (yet)."""
    parsed = address(name)
    return parsed is not None and not parsed.any and _bind(
        parsed._replace(port=0), free=False) == errno.EADDRNOTAVAIL


def holder(inode: int, proc: str = _PROC) -> str:
    """The program that has a socket open, ``NAME (pid N)``, "" for none: reads every process."""
    wanted = f"socket:[{inode}]"
    for pid in _numbers(proc):
        try:
            fds = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for fd in fds:
            try:
                if os.readlink(f"{proc}/{pid}/fd/{fd}") != wanted:
                    continue
                with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return f"{errors.shown(file.read().strip())} (pid {pid})"
            except OSError:
                continue
    return ""


def _numbers(proc: str) -> Iterable[str]:
    try:
        pids: Set[str] = {name for name in os.listdir(proc) if name.isdecimal()}
    except OSError:
        return ()
    return sorted(pids, key=int)
