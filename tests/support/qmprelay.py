"""A QMP monitor behind another socket, which takes the disk away when the guest is to be run.

python3 -m tests.support.qmprelay SOCKET MONITOR WWPN: relays between who connects to SOCKET and the
QEMU at MONITOR.  Before `cont` reaches QEMU the endpoint of WWPN is occupied, so that QEMU ends as
it does on any endpoint that it can't have; then it is free again, and the caller hears the end.
"""
from __future__ import annotations

import os
import select
import socket
import sys

from lio_handover.scsi import vhost


def main(words: list[str]) -> int:
    here, there, wwpn = words
    with socket.socket(socket.AF_UNIX) as server:
        if os.path.exists(here):
            os.unlink(here)
        server.bind(here)
        server.listen(1)
        print("ready", flush=True)
        caller, _ = server.accept()
    monitor = socket.socket(socket.AF_UNIX)
    monitor.connect(there)
    endpoint = None
    while True:
        for line in select.select([caller, monitor], [], [])[0]:
            try:
                data = line.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                if endpoint is not None:
                    endpoint.close()
                return 0
            if line is caller and b'"cont"' in data:
                endpoint = vhost.occupy(wwpn)
            (monitor if line is caller else caller).sendall(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
