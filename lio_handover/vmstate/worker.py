"""A process that answers QEMU, or follows a handover, and writes lines of JSON.

    lio_handover.vmstate.worker GUEST [--guests FOLDER] [--config FILE]

It waits with all modules loaded, as the guest stands still while it works.  Standard input is a
socket; a request is one byte with a descriptor of a file::

    {"do": "save"}   {"do": "load", "data": …}   {"do": "follow", "handover": …, "given": …}

Lines: {"about": the handover's id} before anything is changed, {"say": a sentence, "about": …},
and at the end {"data": base64 or ""} or {"error": name, "line": sentence}.
"""
from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import sys
from typing import Any, Callable, Mapping, Optional

from .. import errors
from ..host import guests
from ..host.memory import Memory
from . import loading, saving
from .ahead import Ahead
from .following import Follower
from .verbs import Handovers


def say(words: Mapping[str, Any]) -> None:
    """Write a line to the helper.  Where the helper is gone, the work goes on."""
    try:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")


class Work:
    """A request that is being run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.stopping = args, False
        self.memory: Optional[Memory] = None

    def stop(self, *_: object) -> None:
        self.stopping = True

    def run(self, request: Mapping[str, Any]) -> str:
        """The data of the answer."""
        guest = guests.load(self.args.guest, self.args.guests)
        wanted = request["do"]
        host = Handovers(self.args.config, lambda: self.stopping,
                         self.memory if wanted in ("save", "load") else None)
        if wanted == "save":
            return base64.b64encode(saving.save(host, guest, self._began)).decode()
        if wanted == "load":
            data = base64.b64decode(request["data"])
            say({"say": loading.load(host, guest, data, self._began)})
            return ""
        name = str(request["handover"])
        Follower(host, guest, name, bool(request["given"]),
                 lambda text: say({"say": text, "about": name})).run()
        return ""

    @staticmethod
    def _began(name: str) -> None:
        say({"about": name})


def unfinished(args: argparse.Namespace) -> None:
    """Write {"unfinished": [ids]}: the handovers in QEMU's stream that this guest waits for."""
    guest = guests.load(args.guest, args.guests)
    host = Handovers(args.config)
    say({"unfinished": [handover.id for handover in host.of_targets(guest.targets)
                        if handover.mode == "vhost-inband"
                        and handover.state not in ("prepared", "staged")]})


def warm(args: argparse.Namespace) -> None:
    """Load and read once what every verb wants, while the guest runs."""
    import subprocess  # noqa: F401 - for who occupies an endpoint
    try:
        Handovers(args.config).host.reader().facts()
    except (errors.HandoverError, OSError):
        pass  # the verb tells


def waited(args: argparse.Namespace, line: socket.socket) -> Optional[Memory]:
    """Wait for a request; what was read ahead meanwhile.  A guest's file that may keep its reader
    waiting is left to the request, which has a deadline."""
    if not os.path.isfile(f"{args.guests}/{args.guest}.conf"):
        return None
    try:
        ahead = Ahead(guests.load(args.guest, args.guests), args.config)
    except errors.HandoverError:
        return None  # the request tells
    ahead.wait(line)
    return ahead.memory


def answering(work: Callable[[], None]) -> int:
    """Run; an error becomes the last line."""
    try:
        work()
        return 0
    except errors.HandoverError as error:
        say({"error": type(error).__name__, "line": str(error)})
        return error.code
    except Exception as error:  # noqa: B902 - whatever it is, QEMU is answered
        unforeseen = errors.unforeseen(error)
        say({"error": "HandoverError", "line": str(unforeseen)})
        return unforeseen.code


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="worker")
    options.add_argument("guest")
    options.add_argument("--guests", default=guests.FOLDER)
    options.add_argument("--config", default="")
    options.add_argument("--unfinished", action="store_true")
    return options


def main() -> int:
    os.umask(0o077)
    args = parser().parse_args()
    if args.unfinished:
        return answering(lambda: unfinished(args))
    work = Work(args)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, work.stop)
    warm(args)
    with socket.socket(fileno=os.dup(0)) as line:
        work.memory = waited(args, line)
        asked, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not asked:
        return 0  # nothing was wanted
    with open(descriptors[0]) as file:
        request = json.load(file)
    code = answering(lambda: say({"data": work.run(request)}))
    if request["do"] in ("save", "load"):
        os._exit(code)  # at once: the helper answers QEMU, whose guest stands still, at our end
    return code
