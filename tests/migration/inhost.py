"""What the rows do inside a host besides what `tests.support.inhost` has: calls."""
from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from lio_handover import errors
from lio_handover.model.keys import backstore_key, target_key
from lio_handover.model.objects import Backstore, Lun, State, Target, Tpg
from lio_handover.scsi import vhost
from tests.lab import inside
from tests.lab.qemu import DISK
from tests.support import inhost as pipeline

WWPN = "naa.5001405abcdef077"
NEXUS = "naa.5001405000000077"


def state() -> State:
    """One disk, the shared one, behind one WWPN."""
    store = Backstore(backstore_key("iblock", "disk"), {"udev_path": DISK},
                      {"wwn/vpd_unit_serial": "6a3f0c77-0000-4000-8000-000000000077"})
    key = target_key("vhost", WWPN)
    tpg = (*key, "1")
    lun = Lun((*tpg, "lun", "0"), store.key, "link")
    return State((), (store,), (
        Target(key, {}, (Tpg(tpg, {"nexus": NEXUS, "rtpi": "1"}, luns=(lun,)),)),))


def hold(folder: str) -> str:
    """Occupy the endpoint until the file `release` appears; says so in the file `held`."""
    endpoint = vhost.occupy(WWPN)
    (Path(folder) / "held").touch()
    while not (Path(folder) / "release").exists():
        time.sleep(0.02)
    endpoint.close()
    return "released"


def occupied() -> str:
    """What becomes of an attempt to take the endpoint, which is given back at once."""
    try:
        vhost.occupy(WWPN).close()
    except OSError as error:
        return f"errno {error.errno}"
    return "free"


def holder() -> tuple[str, str]:
    """(who holds the reservation, its type) as this host's kernel says, or its words for none."""
    found = []
    for name in ("res_holder", "res_pr_type"):
        path = inside.TARGET / "core"
        files = sorted(path.glob(f"iblock_*/disk/pr/{name}"))
        found.append(files[0].read_text().strip() if files else "no backstore")
    return found[0], found[1]


def start_kvm() -> str:
    """Make /dev/kvm work; the CPU emulated has AMD's extension."""
    inside.run("modprobe", "kvm_amd")
    return "ok" if Path("/dev/kvm").exists() else "no /dev/kvm"


def thaw() -> None:
    """Take back a freeze, if there was one."""
    try:
        pipeline.thaw()
    except errors.NoSuchTarget:
        pass


def frozen() -> list[str]:
    """The targets that are frozen here."""
    one = pipeline.core()
    return one.frozen_names()


def commands() -> int:
    """How many commands the disk was sent by anybody since it was made."""
    path, = (inside.TARGET / "core").glob("iblock_*/disk/statistics/scsi_lu/num_cmds")
    return int(path.read_text())


def port_commands() -> int:
    """How many of them came through the target's own port."""
    path = inside.TARGET / "vhost" / WWPN / "tpgt_1/lun/lun_0/statistics/scsi_tgt_port/in_cmds"
    return int(path.read_text())


def handed_over() -> tuple[str, str, str]:
    """An occupier in a process of its own gives its descriptor away and is killed: what others
    find while it lives, when it is dead, and when the descriptor is closed, too."""
    ours, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        endpoint = vhost.occupy(WWPN)
        socket.send_fds(its, [b"x"], [endpoint._device.fd])
        time.sleep(600)
        os._exit(0)
    _, (handle,), _, _ = socket.recv_fds(ours, 1, 1)
    both = occupied()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(1)
    one = occupied()
    os.close(handle)
    return both, one, occupied()
