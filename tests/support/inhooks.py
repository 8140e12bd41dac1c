"""What tests of lio-handover-hook run inside hosts whose kernel has no vhost-scsi.

An iSCSI target stands in for the guest's, as in instandin.py; here also for the programs that are
installed, each of whose modules below gets some lines more.  A process stands in for QEMU: what the
hooks look for is its command line.
"""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lio_handover.host import guests
from lio_handover.protocol.table import SOURCE
from tests.support import inhandover, instandin, insystemd

PACKAGE = Path("/usr/lib/lio-handover/lio_handover")
HOOK = "/etc/libvirt/hooks/qemu.d/lio-handover"
PROGRAM = "/usr/sbin/lio-handover-hook"
GUEST = "vm1"
UNIT = f"lio-handover-incoming@{GUEST}.service"
WWPN = "naa.5001405000000001"
#: What libvirt runs a hook with (virhook.c:virHookCall, vircommand.c:virCommandAddEnvPassCommon).
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
#: Module → what is added at its end.
_ADDED = {
    "host/guests.py": "_TARGET = re.compile('(?:iscsi|vhost)/.*')\n",
    "hooks/domain.py": f"""
_parse = parse
def parse(data):
    domain = _parse(data)
    return Domain(domain.name, tuple(
        {inhandover.TARGET!r} if name == 'vhost/{WWPN}' else name for name in domain.targets))
""",
    "hooks/incoming.py": f"""
_qemu_of = qemu_of
def qemu_of(targets):
    return _qemu_of(['vhost/{WWPN}'])
""",
    "actions/actions.py": """
_check = ActionRunner._check
def _standing_in(self):
    refuse = errors.refuse
    errors.refuse = lambda findings, allow=(): refuse(
        [finding for finding in findings if 'in mode' not in finding.sentence], allow)
    try:
        _check(self)
    finally:
        errors.refuse = refuse
ActionRunner._check = _standing_in
"""}


def stand_in(more: Mapping[str, str] = {}) -> None:  # noqa: B006
    """From now on, until `restore`; ``more``: other modules, as above."""
    restore()
    for name, text in {**_ADDED, **more}.items():
        path = PACKAGE / name
        shutil.copy2(path, f"{path}.kept")
        path.write_text(path.read_text() + text)


def restore() -> None:
    for kept in PACKAGE.rglob("*.kept"):
        os.replace(kept, kept.with_suffix(""))


def configure(peers: Sequence[str], more: str = "", of_guest: str = "") -> None:
    """The peers, and the guest's file; ``more``: of [hooks]."""
    lines = "".join(f"\n    {peer}" for peer in peers)
    Path("/etc/lio-handover/lio-handover.conf.d/hooks.conf").write_text(
        f"[service]\npeers ={lines}\n[hooks]\n{more}\n")
    folder = Path(guests.FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{GUEST}.conf").write_text(
        f"[guest]\ntargets = {inhandover.TARGET}\nallow = all-tg-pt\n{of_guest}")


def xml(name: str = GUEST, devices: str = "", more: str = "") -> bytes:
    """A domain as libvirt writes it."""
    return f"""<domain type='kvm' id='1'>
  <name>{name}</name>
  <uuid>6a3f0c77-0000-4000-8000-000000000077</uuid>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>{devices}</devices>{more}
</domain>
""".encode()


def hostdev(wwpn: str = WWPN) -> str:
    return (f"<hostdev mode='subsystem' type='scsi_host' managed='no'><source protocol='vhost' "
            f"wwpn='{wwpn}'/><alias name='ua-lio'/></hostdev>")


def call(words: Sequence[str], data: bytes, program: str = HOOK,
         more: Mapping[str, str] = {}) -> tuple[int, str, str]:  # noqa: B006
    """A hook, as its caller runs it: exit code, standard output, standard error."""
    done = subprocess.run([program, *words], input=data, capture_output=True, cwd="/", timeout=100,
                          env={**ENVIRONMENT, **more})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def kill_while_it_waits(words: Sequence[str], data: bytes) -> None:
    """A hook that is killed, with all it has started, once its unit is at work."""
    program = subprocess.Popen([HOOK, *words], stdin=subprocess.PIPE, cwd="/", env=ENVIRONMENT,
                               start_new_session=True)
    assert program.stdin
    program.stdin.write(data)
    program.stdin.close()
    until = time.monotonic() + 60
    while insystemd.show(UNIT, "ActiveState")["ActiveState"] != "activating":
        assert program.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def install(example: str, name: str) -> str:
    """An example of the manual, as whoever uses it installs it; its path."""
    path = Path("/run/hooks", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(f"/usr/share/doc/lio-handover/examples/{example}", path)
    path.chmod(0o755)
    return str(path)


def write_xml(data: bytes) -> str:
    path = Path("/run/hooks/domain.xml")
    path.write_bytes(data)
    return str(path)


def start_qemu() -> int:
    """A process with the words of a guest's QEMU; its number."""
    return subprocess.Popen(
        ["/usr/bin/python3", "-Sc", "import time; time.sleep(600)", "-device",
         f"vhost-scsi-pci,wwpn={WWPN},migratable=on"], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def end_qemu(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def state() -> str:
    """Where the last handover stands here."""
    answers = inhandover.status()
    return answers[-1].handover.state if answers else ""


def wait_for(wanted: str, seconds: float = 30) -> str:
    until = time.monotonic() + seconds
    while (now := state()) != wanted and time.monotonic() < until:
        time.sleep(0.1)
    return now


def waits_for_qemu(pid: int, seconds: float = 30) -> bool:
    """Whether the guest's unit comes to wait for this process (pidfd_open(2))."""
    until = time.monotonic() + seconds
    unit = subprocess.run(["systemctl", "show", "--property=MainPID", "--value", UNIT],
                          capture_output=True, text=True, check=True).stdout.strip()
    while time.monotonic() < until:
        for path in Path(f"/proc/{unit}/fdinfo").iterdir():
            try:
                if f"Pid:\t{pid}\n" in path.read_text():
                    return True
            except OSError:
                continue
        time.sleep(0.1)
    return False


def prepare_for(peer: str) -> None:
    """The guest was to go to another host, and did not."""
    instandin.do("prepare", SOURCE, targets=(inhandover.TARGET,), mode="vhost-inband", peer=peer,
                 allow=("all-tg-pt",))


def signal_ssh(number: int) -> None:
    """A signal to sshd: SIGTERM, and nobody listens any more; SIGSTOP, and it answers nobody."""
    pid, = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.read_bytes().startswith(b"sshd: /usr/sbin/sshd"))
    os.kill(pid, number)
