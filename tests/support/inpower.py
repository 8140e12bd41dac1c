"""What tests of power cuts run inside a host with vhost: many handovers at once, as each call costs
an emulated host more than what it asks for."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.handover.engine import Reply
from lio_handover.model.keys import display
from lio_handover.protocol.messages import from_json
from lio_handover.scsi import TransportError, cdb, vhost
from lio_handover.scsi.fingerprint import drain
from tests.support import inhandover, inhost

#: Backstore → (type of its reservation, (initiator, key, whether it holds it) of each).
Registered = dict[str, tuple[int, set[tuple[str, int, bool]]]]


@dataclass(frozen=True)
class Asked:
    """A verb of one handover.  ``guest``: the WWPN to which a guest is attached meanwhile;
    ``cut_off``: the state that is the last it records, as it is killed then."""

    verb: str
    role: str
    id: str = ""
    messages: bytes = b""
    words: frozenset[str] = frozenset()
    guest: str = ""
    cut_off: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    answers: inhandover.Answers = field(default_factory=dict)


@contextmanager
def _guest(wwpn: str) -> Iterator[None]:
    with ExitStack() as stack:
        if wwpn:
            stack.enter_context(vhost.Endpoint(wwpn))
        yield


def each(verbs: Sequence[Asked]) -> list[Any]:
    """What each answers, as ``_do`` does; or what it raises."""
    answers: list[Any] = []
    for verb in verbs:
        try:
            with _guest(verb.guest):
                answers.append(_do(verb))
        except errors.NoSuchHandover:
            answers.append(None)
        except errors.HandoverError as error:
            answers.append(error)
    return answers


def _do(asked: Asked) -> Any:
    """An Reply, None where it was cut off; of recover also the verb that the other host has to
    answer first; of ``again`` what inhandover.recover_again answers."""
    if asked.verb == "status":
        return inhandover.status(asked.id)[0]
    if asked.verb == "recover":
        return inhandover.recover(asked.id, asked.answers, asked.words)
    if asked.verb == "again":
        return inhandover.recover_again(asked.id, asked.answers)
    verb, role, messages = asked.verb, asked.role, from_json(asked.messages)
    if asked.cut_off:
        killed, _answer = inhandover.crash(asked.cut_off, verb, role, asked.id, messages)
        assert killed, f"{verb} never records {asked.cut_off}"
        return None
    return inhandover.do(verb, role, asked.id, messages, assertions=asked.words, **asked.more)


def reserve(wwpns: Sequence[str]) -> None:
    """Both nexuses register on LUN 0 with APTPL, so past a boot; the first reserves it."""
    for number, wwpn in enumerate(wwpns):
        with vhost.Endpoint(wwpn) as endpoint:
            for tpgt, command in ((2, cdb.register(0, 0x200 + number, aptpl=True)),
                                  (1, cdb.register(0, 0x100 + number, aptpl=True)),
                                  (1, cdb.reserve(0x100 + number, 1))):
                execute = endpoint.unit(0, tpgt).execute
                drain(execute)
                assert execute(*command).good


def open_to_guests(wwpns: Sequence[str], work: Callable[[vhost.Endpoint], Any] = bool
                   ) -> dict[str, Any]:
    """WWPN → what ``work`` answers, of each to which a guest could attach."""
    found = {}
    for wwpn in wwpns:
        try:
            with vhost.Endpoint(wwpn) as endpoint:
                found[wwpn] = work(endpoint)
        except TransportError:
            pass
    return found


def _foreign_write(endpoint: vhost.Endpoint) -> int:
    return endpoint.unit(0, 2).execute(*cdb.write_10(8, b"x" * 512)).status


def foreign_writes(wwpns: Sequence[str]) -> dict[str, int]:
    """WWPN → status that its second nexus gets for a write."""
    return open_to_guests(wwpns, _foreign_write)


def registered() -> Registered:
    """What initiators hold."""
    if not inhost.read_all().targets:
        return {}
    state = documents.loads(inhost.export_state()).state
    return {display(store.key): (store.reservations.type, {
        (registration.initiator, registration.key, number == store.reservations.holder)
        for number, registration in enumerate(store.reservations.registrations)})
        for store in state.backstores}


def statuses() -> list[Reply]:
    return inhandover.status()
