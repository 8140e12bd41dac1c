"""The kernel's own iSCSI initiator, as it runs inside a host: iscsid, iscsiadm, and sysfs.

These functions are calls; tests use `initiators.OpenIscsi`, which makes them.
"""
from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SESSIONS = Path("/sys/class/iscsi_session")
_CONF = Path("/etc/iscsi/iscsid.conf")
# Short, so that a session notices in seconds that its target answers elsewhere; the replacement
# timeout alone is long, because until it ends the initiator's I/O waits instead of failing.
TIMING = {
    "node.startup": "manual",
    "node.session.timeo.replacement_timeout": "60",
    "node.session.err_timeo.abort_timeout": "5",
    "node.session.err_timeo.lu_reset_timeout": "5",
    "node.session.err_timeo.tgt_reset_timeout": "5",
    "node.session.initial_login_retry_max": "2",
    "node.conn[0].timeo.login_timeout": "3",
    "node.conn[0].timeo.logout_timeout": "3",
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
    "node.session.iscsi.InitialR2T": "No",
    "node.session.scan": "auto",
}


def start(name: str) -> None:
    """Load the initiator and start its daemon; a second start changes nothing."""
    subprocess.run(["modprobe", "-a", "iscsi_tcp", "sd_mod", "sg"], check=True)
    for folder in ("/etc/iscsi/nodes", "/etc/iscsi/send_targets", "/etc/iscsi/ifaces",
                   "/run/lock/iscsi"):
        os.makedirs(folder, exist_ok=True)
    Path("/etc/iscsi/initiatorname.iscsi").write_text(f"InitiatorName={name}\n")
    lines = [f"{key} = {value}" for key, value in TIMING.items()]
    _CONF.write_text("\n".join([*lines, "iscsid.safe_logout = No"]) + "\n")
    if not _daemons():
        _start_daemon()


def _start_daemon() -> None:
    subprocess.run(["iscsid", "-c", str(_CONF)], stdin=subprocess.DEVNULL, check=True)
    _until("iscsid answers", lambda: subprocess.run(
        ["iscsiadm", "-m", "session"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=False).returncode in (0, 21), 5)


def discover(portal: str) -> list[tuple[str, str]]:
    """The (portal, target name) pairs that a portal tells of."""
    lines = _iscsiadm("-m", "discovery", "-t", "sendtargets", "-p", portal).splitlines()
    found = [re.match(r"(\S+),-?\d+ (\S+)", line) for line in lines]
    return [(match[1], match[2]) for match in found if match]


def login(target: str, portal: str, name: str, settings: dict[str, str]) -> int:
    """Log in under an initiator name; return the session's number once its disks are there."""
    interface = "lab-" + re.sub(r"\W", "-", name)
    if not Path("/etc/iscsi/ifaces", interface).exists():
        _iscsiadm("-m", "iface", "-I", interface, "-o", "new")
        _iscsiadm("-m", "iface", "-I", interface, "-o", "update",
                  "-n", "iface.initiatorname", "-v", name)
        _iscsiadm("-m", "iface", "-I", interface, "-o", "update",
                  "-n", "iface.transport_name", "-v", "tcp")
    node = ("-m", "node", "-T", target, "-p", portal, "-I", interface)
    before = set(sessions())
    _iscsiadm(*node, "-o", "new")
    changes = [word for key, value in {**TIMING, **settings}.items()
               for word in ("-n", key, "-v", value)]
    _iscsiadm(*node, "-o", "update", *changes)
    try:
        _iscsiadm(*node, "--login")
    except subprocess.CalledProcessError:
        _iscsiadm(*node, "-o", "delete")
        raise
    new = [number for number in sessions() if number not in before
           and sessions()[number] == (target, name)]
    _until("the session appears", lambda: bool(new), 1)
    _until("the disks appear", lambda: _settled(new[0]), 10)
    return new[0]


def logout(session: int) -> None:
    """End one session."""
    _iscsiadm("-m", "session", "-r", str(session), "--logout")


def sessions() -> dict[int, tuple[str, str]]:
    """Number → (target name, initiator name) of the sessions that exist."""
    found = {}
    for entry in SESSIONS.iterdir() if SESSIONS.exists() else ():
        try:
            found[int(entry.name[len("session"):])] = (
                (entry / "targetname").read_text().strip(),
                (entry / "initiatorname").read_text().strip())
        except OSError:     # it ended while we looked
            continue
    return found


def state(session: int) -> str:
    """LOGGED_IN, FAILED (being recovered) or FREE."""
    return (SESSIONS / f"session{session}" / "state").read_text().strip()


def devices(session: int, kind: str) -> dict[int, str]:
    """LUN → device node of a session; `kind` is block or scsi_generic."""
    found = {}
    for node in SESSIONS.joinpath(f"session{session}", "device").glob(f"target*/*/{kind}/*"):
        found[int(node.parent.parent.name.rsplit(":", 1)[1])] = f"/dev/{node.name}"
    return dict(sorted(found.items()))


def rescan(session: int) -> None:
    """Look for LUNs that came later."""
    _iscsiadm("-m", "session", "-r", str(session), "--rescan")
    _until("the disks appear", lambda: _settled(session), 10)


def wait_for_state(session: int, wanted: str, timeout: float) -> float:
    """Wait until a session is in a state; return how long that took."""
    started = time.monotonic()
    _until(f"session {session} is {wanted}", lambda: state(session) == wanted, timeout)
    return time.monotonic() - started


def stop() -> None:
    """End all sessions, also those of a daemon that was killed or whose target is gone."""
    if not Path("/sys/module/iscsi_tcp").exists():      # nothing was started on this host
        return
    if sessions():
        if not _daemons():
            _start_daemon()
        subprocess.run(["iscsiadm", "-m", "session", "--logout"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, check=False, timeout=20)
        _until("all sessions ended", lambda: not sessions(), 10)
    for pid in _daemons():
        os.kill(pid, signal.SIGKILL)
    _until("iscsid ended", lambda: not _daemons(), 5)


def _settled(session: int) -> bool:
    """Whether every unit of the session that is a disk has its node.

    Each session has at least LUN 0, if only as a placeholder that is no disk.
    """
    base = SESSIONS / f"session{session}" / "device"
    units = [unit for unit in base.glob("target*/*:*") if unit.is_dir()]
    return bool(units) and all(
        any((unit / "scsi_generic").glob("*")) and
        ((unit / "type").read_text().strip() != "0" or any((unit / "block").glob("*")))
        for unit in units)


def _daemons() -> list[int]:
    """iscsid, which is two processes: one of them writes the log."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text() == "iscsid\n" and \
                    (entry / "cmdline").read_bytes():       # else it is dead, and not yet buried
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _iscsiadm(*words: str) -> str:
    done = subprocess.run(["iscsiadm", *words], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        error.add_note(done.stderr.strip())
        raise error
    return done.stdout


def _until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
