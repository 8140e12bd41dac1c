"""The peer that serves a guest's targets: each is asked at once, in a process of its own.

A hook is not told where its guest comes from, so the hosts of ``[service] peers`` are asked.  Such
a host may hang, or answer what it likes: its process has so much time and memory, and whatever
becomes of it is one line here.

    lio_handover.hooks.peers HOST TARGET...

Standard output gets the answer, one line of JSON, or {"error": a sentence}.
"""
from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .. import dbus_names, errors
from ..client.connection import to_builtin
from ..client.ssh import RemoteService
from ..kernel.facts import boot_id
from ..protocol.table import DESTINATION, SOURCE
from ..records.journal import OVER
from ..started import PEER_ASKER, command

#: Bytes of an answer, and of memory (RLIMIT_AS) of the process that asks.
LIMIT, MEMORY = 1 << 20, 512 << 20
#: Seconds between two questions whether to stop.
OFTEN = 0.1
#: States of a source that still serves.
_SERVING = ("prepared", "freezing", "frozen", "thawing")
_TEXTS = ("Id", "Role", "State", "Mode")


@dataclass(frozen=True)
class Answer:
    """A peer's answer.  ``targets``: those of the guest that it has; ``handovers``: those under way
    of them, each with id, role, state and mode; ``error``: why there is no answer, or ""."""

    peer: str
    boot_id: str = ""
    targets: Tuple[str, ...] = ()
    handovers: Tuple[Mapping[str, str], ...] = field(default=())
    error: str = ""

    def lacks(self, targets: Sequence[str]) -> str:
        """Why this peer does not serve all of these targets; "" where it does."""
        if self.error:
            return self.error
        missing = [name for name in targets if name not in self.targets]
        if missing:
            return f"has no {missing[0]}"
        for handover in self.handovers:
            if handover["Role"] != SOURCE or handover["State"] not in _SERVING:
                return f"is the {handover['Role']} of handover {handover['Id']}, " \
                    f"{handover['State']}"
        return ""


# ---- the caller ----------------------------------------------------------------------------------
def serving(targets: Sequence[str], peers: Sequence[str], seconds: float,
            stop: Callable[[], bool]) -> Answer:
    """The answer of the one peer that serves all of these targets.

    Waits until all have answered, or for ``seconds``.  Raises BadSettings without a peer,
    NoSuchTarget where none serves them, PeerUnreachable where one that does not answer may, InUse
    where several do, Interrupted.
    """
    if not peers:
        raise errors.BadSettings("no peer is configured that could serve the guest's targets",
                                 do="name the hosts that guests come from, in [service] peers")
    answers = ask(targets, peers, seconds, stop)
    answers = [answer for answer in answers if answer.boot_id != boot_id()]  # this host itself
    those = [answer for answer in answers if not answer.lacks(targets)]
    names = ", ".join(targets)
    if len(those) == 1:
        return those[0]
    if those:
        raise errors.InUse(f"{' and '.join(answer.peer for answer in those)} both serve {names}",
                           do="lio-handover status, on each")
    told = "; ".join(f"{answer.peer} {answer.lacks(targets)}" for answer in answers) \
        or "all of [service] peers are this host"
    kind = errors.PeerUnreachable if any(answer.error for answer in answers) \
        else errors.NoSuchTarget
    raise kind(f"no peer serves {names}: {told}",
               do="see that the source is in [service] peers, that root's ssh leads there, and "
                  "that lio-handoverd runs there")


def ask(targets: Sequence[str], peers: Sequence[str], seconds: float,
        stop: Callable[[], bool] = lambda: False) -> List[Answer]:
    """The answer of each peer, in time or not.  Raises Interrupted."""
    until = time.monotonic() + seconds
    asked = {peer: subprocess.Popen(command(PEER_ASKER, peer, *targets), cwd="/",
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
             for peer in dict.fromkeys(peers)}
    said: Dict[str, bytes] = {peer: b"" for peer in asked}
    poll, pipes = select.poll(), {}
    for peer, program in asked.items():
        assert program.stdout
        pipes[program.stdout.fileno()] = peer
        poll.register(program.stdout.fileno(), select.POLLIN)
    try:
        while pipes and time.monotonic() < until:
            if stop():
                raise errors.Interrupted("interrupted")
            for fd, _events in poll.poll(OFTEN * 1000):
                data = os.read(fd, 1 << 16)
                said[pipes[fd]] += data
                if not data or len(said[pipes[fd]]) > LIMIT:
                    poll.unregister(fd)
                    del pipes[fd]
        late = set(pipes.values())
        return [Answer(peer, error=f"has not answered in {seconds:g} s") if peer in late else
                _answer(peer, data, targets) for peer, data in said.items()]
    finally:
        for program in asked.values():
            program.kill()
            program.wait()
            if program.stdout:
                program.stdout.close()


def _answer(peer: str, data: bytes, targets: Sequence[str]) -> Answer:
    try:
        tree = json.loads(data[:LIMIT])
        if tree.get("error"):
            return Answer(peer, error=errors.shown(str(tree["error"])))
        handovers = tuple({name: errors.shown(str(handover[name])) for name in _TEXTS}
                          for handover in tree["handovers"])
        return Answer(peer, str(tree["boot"]),
                      tuple(name for name in targets if name in tree["targets"]), handovers)
    except errors.MISSHAPEN:
        return Answer(peer, error="gave no answer that can be taken")


# ---- the process ---------------------------------------------------------------------------------
def looked(side: RemoteService, targets: Sequence[str]) -> Mapping[str, Any]:
    """The words of a peer's service: its boot, which of these targets it has, and the handovers
    of them that are under way.  Raises PeerUnreachable, NoService."""
    about = side.about()
    objects = to_builtin(side.call(dbus_names.ROOT, dbus_names.OBJECT_MANAGER,
                                   "GetManagedObjects", ""))
    there, handovers = [], []
    for interfaces in objects.values():
        target, handover = (interfaces.get(name, {}) for name in (dbus_names.TARGET,
                                                                  dbus_names.HANDOVER))
        if target.get("Name") in targets:
            there.append(target["Name"])
        if {*handover.get("Targets", ())} & {*targets} and not _over(handover):
            handovers.append({name: str(handover[name]) for name in _TEXTS})
    return {"boot": about.boot_id, "targets": there, "handovers": handovers}


def _over(handover: Mapping[str, Any]) -> bool:
    role = handover["Role"] if handover["Role"] in OVER else DESTINATION
    return handover["State"] in ("", *OVER[role])


def main() -> int:
    """The process; the exit code."""
    where, *targets = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        side = RemoteService(where, LIMIT)
        print(json.dumps(looked(side, targets)))
        side.close()
        return 0
    except errors.HandoverError as error:
        says = f"{where} "
        print(json.dumps({"error": error.what[len(says):] if error.what.startswith(says)
                          else error.what}))
    except Exception as error:  # noqa: B902 - no answer of that host ends more than this
        print(json.dumps({"error": f"gave no answer that can be taken ({type(error).__name__})"}))
    return 1
