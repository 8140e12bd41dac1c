"""A worker of the service that touches no kernel: what it does stands in the names of its targets.

``do/secret`` and ``do/plain`` announce data, ``do/write`` writes them, ``do/wait`` waits for a
signal, ``do/die`` ends without a word; at the end it says that it is done.
"""
from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from lio_handover.service import worker

DATA = b"a document with the secret CHAP-SECRET-4711 in it\n"


def main() -> int:
    with socket.socket(fileno=os.dup(0)) as line:
        asked, descriptors, _, _ = socket.recv_fds(line, 1, worker.MOST)
    if not asked:
        return 0
    with open(descriptors[0]) as file:
        request = json.load(file)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for target in request["targets"]:
        step = target.partition("/")[2]
        if step in ("secret", "plain"):
            worker.say({"data": len(DATA), "secret": step == "secret"})
        elif step == "write":
            os.write(descriptors[1], DATA)
        elif step == "wait":
            time.sleep(60)
        elif step == "die":
            os._exit(9)
    worker.say({"result": {"targets": request["targets"]}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
