"""What the bench runs inside the lab hosts of the peers that move a target today: targetcli's save
file, and ClusterLabs' resource agents."""
from __future__ import annotations

import glob
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lio_handover.kernel.configfs import ROOT
from lio_handover.model import pr_texts
from tests.bench import inhost

#: The save file, which scp brings from the one host to the other.
SAVED = "/root/bench-targetcli.json"
#: Where the agents keep their locks.
_LOCKS = Path("/run/resource-agents")


def _run(words: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """Seconds that a program takes.  Raises RuntimeError with what it said where it fails."""
    began = time.perf_counter()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False,
                          env={**os.environ, **(environment or {})})
    if done.returncode:
        raise RuntimeError(f"{words}: exit {done.returncode}: {done.stdout[-2000:]}")
    return time.perf_counter() - began


def registrations() -> int:
    """How many there are on this host."""
    return sum(len(pr_texts.parse_registered(Path(path).read_text())[0])
               for path in glob.glob(f"{ROOT}/core/*/*/pr/res_pr_registered_i_pts"))


# ---- targetcli ----------------------------------------------------------------------------------
def save(to: str) -> float:
    """Save the targets of this host, and bring the file to another one."""
    return _run(["targetcli", "saveconfig", SAVED]) + _run(["scp", "-qO", SAVED, f"{to}:{SAVED}"])


def clear() -> float:
    return _run(["targetcli", "clearconfig", "confirm=True"])


def restore() -> float:
    return _run(["targetcli", "restoreconfig", SAVED])


# ---- ClusterLabs' agents ------------------------------------------------------------------------
def agents(root: str, action: str, folder: str, luns: int, address: str) -> float:
    """Seconds of an action, ``start`` or ``stop``, of a group: a target and its LUNs.  A cluster
    stops it in the opposite order, and one after the other: the agents hold a lock."""
    _LOCKS.mkdir(mode=0o755, exist_ok=True)
    common = {"allowed_initiators": inhost.INITIATOR.format(0), "implementation": "lio-t"}
    group = [("iSCSITarget", "target", {**common, "iqn": inhost.IQN, "portals": f"{address}:3260"})]
    group += [("iSCSILogicalUnit", f"disk{lun}", {
        **common, "target_iqn": inhost.IQN, "lun": str(lun), "path": f"{folder}/{lun}",
        "liot_bstype": "fileio", "scsi_sn": inhost.serial(lun)}) for lun in range(luns)]
    return sum(_run([f"{root}/resource.d/heartbeat/{agent}", action], {
        "OCF_ROOT": root, "OCF_RESOURCE_INSTANCE": instance, "HA_LOGFACILITY": "none",
        **{f"OCF_RESKEY_{name}": value for name, value in parameters.items()}})
        for agent, instance, parameters in (group if action == "start" else reversed(group)))
