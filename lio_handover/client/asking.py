"""The questions that recover asks the other host, in a process of their own.

The other host may be anybody's: the process that talks to it has so much time, memory and room for
the answer, and whatever becomes of it is at most PeerUnreachable here.

    lio_handover.client.asking HOST VERB HANDOVER QUESTION BYTES

Standard input has the messages, standard output gets the whole answer, or, with exit code 1, the
error: {"unknown": …, "alive": …, "what": …}.
"""
from __future__ import annotations

import json
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from .. import errors
from ..handover.reply import Peer, Reply, reply_from_json
from ..protocol.authentication import Authentication
from ..protocol.messages import Message, to_json
from ..protocol.table import MessageType
from ..records.journal import Handover
from ..settings import Settings
from ..started import ASKER, command
from .ssh import RemoteService, address, host_answers

#: Seconds for the other host to answer: one that hangs does not make this host hang.
ASK_SECONDS = 30.0
#: Bytes of memory (RLIMIT_AS) beside the answer's own, which libdbus, json and this module have
#: several times at once.
MEMORY, TIMES = 512 << 20, 6


@dataclass(frozen=True)
class Question:
    """A question to the other host: its ``messages`` and, where this host has a ``key``, a ``text``
    that is new each time and that the answer has to be about.  ``limit``: bytes of the answer."""

    key: Authentication
    limit: int
    text: str = ""
    messages: bytes = b""

    @classmethod
    def of(cls, handover: Handover, verb: str, settings: Settings) -> Question:
        key = Authentication.to_say(settings)
        # A host that does not know the handover has to refuse its epoch from now on: the offer
        # tells it the epoch.
        messages = b"" if verb == "status" else to_json([key.signed(Message(
            MessageType.OFFER, handover.id, handover.epoch, targets=handover.targets,
            mode=handover.mode))])
        # An answer has a document at most, each quote of which is two bytes.
        return cls(key, 2 * settings.document_bytes, secrets.token_hex(16) if key else "", messages)

    def reply(self, data: bytes, host: str) -> Reply:
        """The reply that a host gave.  Raises PeerUnreachable, `alive`, for any other bytes, and
        for a reply that this host's key does not prove to be an answer to this."""
        try:
            if len(data) > self.limit:
                raise errors.TooLarge(f"the answer has more than {self.limit} bytes")
            return reply_from_json(data, self.key, self.text)
        except errors.HandoverError as error:
            raise host_answers(f"{host} can't be believed: {error.what}") from None


def asker(settings: Settings) -> Peer:
    """A Peer (handover/reply.py) by ssh."""
    return lambda handover, verb: ask(handover, verb, settings)


def ask(handover: Handover, verb: str, settings: Settings = Settings()) -> Reply:
    """The other host's reply now to ``status`` or ``abort`` of a handover.  Raises PeerUnreachable,
    also after `ASK_SECONDS`; NoSuchHandover where the other host does not know the handover."""
    if not handover.peer:
        raise errors.PeerUnreachable("how it is reached is not recorded (--peer HOST says it)")
    try:
        address(handover.peer)
    except errors.BadCall as error:
        raise errors.PeerUnreachable(error.what) from None
    question = Question.of(handover, verb, settings)
    code, data, _said = answered(
        command(ASKER, handover.peer, verb, handover.id, question.text, str(question.limit)),
        question, cwd="/")
    if code == 0:
        return question.reply(data, handover.peer)
    try:
        said: Dict[str, Any] = json.loads(data[:1 << 16])
    except ValueError:
        raise host_answers(f"{handover.peer} has not ended {verb} in {ASK_SECONDS:g} s"
                           if code is None else
                           f"{handover.peer} gave no answer that can be taken") from None
    if said["unknown"]:
        raise errors.NoSuchHandover(said["what"])
    raise host_answers(said["what"]) if said["alive"] else errors.PeerUnreachable(said["what"])


def answered(words: Sequence[str], question: Question, **more: Any
             ) -> Tuple[Optional[int], bytes, str]:
    """Run a program that brings a question to the other host: (its exit code, None where it did not
    end in time; its output, at most a byte more than the question allows; its last line of
    standard error, where ``more``, which is for Popen, has ``stderr=PIPE``).  Raises OSError."""
    given = os.memfd_create("question", os.MFD_CLOEXEC)
    try:
        os.pwrite(given, question.messages, 0)
        child = subprocess.Popen(words, stdin=given, stdout=subprocess.PIPE, **more)
    finally:
        os.close(given)
    until, out, said = time.monotonic() + ASK_SECONDS, bytearray(), b""
    assert child.stdout
    answer, poll = child.stdout.fileno(), select.poll()
    pipes = {pipe.fileno(): pipe for pipe in (child.stdout, child.stderr) if pipe}
    try:
        for fd in pipes:
            poll.register(fd, select.POLLIN)
        while pipes and len(out) <= question.limit:
            left = until - time.monotonic()
            if left <= 0:
                return None, bytes(out), ""
            for fd, _events in poll.poll(left * 1000):
                data = os.read(fd, 1 << 16)
                if not data:
                    poll.unregister(fd)
                    pipes.pop(fd).close()
                elif fd == answer:
                    out += data
                else:
                    said = (said + data)[-4096:]
        if not pipes:
            child.wait(max(until - time.monotonic(), 0.1))
        return child.returncode or 0, bytes(out), said.decode(
            errors="replace").strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        return None, bytes(out), ""
    finally:
        child.kill()
        child.wait()
        for pipe in pipes.values():
            pipe.close()


def main() -> int:
    """The process; the exit code."""
    where, verb, name, question, most = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ssh, too: its caller ends the process
    limit = int(most)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + TIMES * limit,) * 2)
    try:
        side = RemoteService(where, limit)
        _result, data = side.run_handover(
            verb, name, (), "", sys.stdin.buffer.read(),
            {"question": question} if question else {})
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return 0
    except errors.HandoverError as error:
        alive = not isinstance(error, errors.PeerUnreachable) or error.alive
        unknown = isinstance(error, errors.NoSuchHandover)
        print(json.dumps({"unknown": unknown, "alive": alive, "what": error.what}))
        return 1
    except Exception as error:  # noqa: B902 - no answer of that host ends more than this
        print(json.dumps({"unknown": False, "alive": True, "what":
                          f"{where} gave no answer that can be taken ({type(error).__name__})"}))
        return 1
