"""What a test of lio-handover-vmstate runs inside a host whose kernel has no vhost-scsi.

An iSCSI target stands in for the guest's: engine, journal and kernel are what they are, but for the
endpoint.  A file says whether the guest is attached to it, and nobody occupies it.
"""
from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from lio_handover import errors
from lio_handover.actions.actions import ActionRunner
from lio_handover.actions.context import HandoverContext
from lio_handover.client import asking
from lio_handover.handover.engine import Handover, Reply
from lio_handover.host.guests import Guest
from lio_handover.protocol.messages import Message
from lio_handover.scsi.endpoint_holder import Holders
from lio_handover.vmstate import answers, following, loading, saving
from lio_handover.vmstate.ahead import Ahead
from lio_handover.vmstate.following import Follower
from lio_handover.vmstate.verbs import Handovers
from tests.support import inhandover, inhost, inwindow

TARGET = inhandover.TARGET
GUEST = Guest("vm1", (TARGET,), "lio-handover/vm1", "system")
ATTACHED = Path("/run/guest-is-attached")


class Ask(Exception):
    """The other host is asked, or told, which only the test can do: verb, messages."""


class Host(Handovers):
    """This host; ``known``: verb → what the other host answers to it."""

    def __init__(self, known: Mapping[str, Reply]) -> None:
        inhandover.configure()
        super().__init__()
        self.known = known

    def ask(self, handover: Handover, verb: str = "status") -> Reply:
        return self.tell(handover, verb, ())

    def tell(self, handover: Handover, verb: str, messages: Sequence[Message]) -> Reply:
        if verb not in self.known:
            raise Ask(verb, tuple(messages))
        return self.known[verb]


@contextmanager
def no_endpoint() -> Iterator[None]:
    """As the module says."""
    check = ActionRunner._check

    def checked(runner: ActionRunner) -> None:
        refuse = errors.refuse
        with mock.patch.object(errors, "refuse", lambda findings, allow=(): refuse(
                [finding for finding in findings if "in mode" not in finding.sentence], allow)):
            check(runner)

    with mock.patch.multiple(Holders, occupy=lambda *_: None, release=lambda *_: None,
                             pid_of=lambda *_: None), \
            mock.patch.multiple(HandoverContext, guest=lambda _: ATTACHED.exists(),
                                ran=lambda _: False), \
            mock.patch.object(ActionRunner, "_check", checked), \
            mock.patch.object(answers, "_TARGET", re.compile("iscsi/.*")):
        yield


def attach(there: bool) -> None:
    if there:
        ATTACHED.touch()
    else:
        ATTACHED.unlink(missing_ok=True)


def do(verb: str, role: str, id: str = "", messages: Sequence[Message] = (),  # noqa: A002
       **more: object) -> Reply:
    with no_endpoint():
        return inhandover.do(verb, role, id, messages, **more)


def status(id: str) -> Reply:  # noqa: A002
    with no_endpoint():
        return inhandover.status(id)[0]


def save() -> tuple[bytes, str]:
    """Save()'s answer, and the error's sentence."""
    return _answered(lambda host: saving.save(host, GUEST, lambda name: None))


def load(data: bytes) -> tuple[bytes, str]:
    """What Load() did, in words, and the error's sentence."""
    return _answered(lambda host: loading.load(host, GUEST, data, lambda name: None).encode())


def _nobody(_handover: Handover, verb: str) -> Reply:
    raise AssertionError(f"the other host is asked for {verb} while QEMU waits")


def _answered(work: Callable[[Host], bytes]) -> tuple[bytes, str]:
    with no_endpoint(), mock.patch.object(asking, "asker", lambda _settings: _nobody):
        try:
            return work(Host({})), ""
        except errors.HandoverError as error:
            return b"", str(error)


def counted(ahead: bool, data: bytes = b"", meanwhile: str = "") -> tuple[bytes, str, int]:
    """Save(), or Load() of data: what `save` and `load` say, and how many files of configfs it has
    opened.  ``ahead``: as the helper's worker does it, which has read all of it before;
    ``meanwhile``: what a shell does since then."""
    with no_endpoint():
        inhandover.configure()
        reading = Ahead(GUEST)
        if ahead:
            reading._look()
            assert reading.memory is not None
        subprocess.run(["sh", "-ec", meanwhile], check=True)
        host, counting = Handovers(memory=reading.memory), inwindow.Counting()
        try:
            said = loading.load(host, GUEST, data, lambda name: None).encode() if data else \
                saving.save(host, GUEST, lambda name: None)
            return said, "", counting.counts["files"]
        except errors.HandoverError as error:
            return b"", str(error), counting.counts["files"]


def follow(id: str, given: bool, known: Mapping[str, Reply]  # noqa: A002
           ) -> bool | tuple[str, tuple[Message, ...]]:
    """One look, and whether the handover is over; or what the other host is asked first."""
    with no_endpoint(), mock.patch.object(following, "FIRST", 0.0):
        follower = Follower(Host(known), GUEST, id, given, lambda line: None)
        try:
            return follower._step(follower.handover)
        except Ask as question:
            verb, messages = question.args
            return verb, messages


def build(folder: Path) -> None:
    inhost.build(inhandover.state(folder))
