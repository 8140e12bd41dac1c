"""What tests of libvirt run inside hosts whose kernel has no vhost-scsi: libvirtd and a guest.

All is as it is with vhost-scsi but for the endpoint (inhooks.py, instandin.py): to the kernel the
guest is attached where its QEMU runs it.  QEMU's own trace of that is looked at
(``vm_state_notify``), by which its vhost-scsi would attach and leave.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import inhandover, inhooks, insystemd

UNITS = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket",
         "virtlogd.service", "virtlogd.socket", "virtlogd-admin.socket", "virtlockd.service",
         "virtlockd.socket", "virtlockd-admin.socket")
GUEST = inhooks.GUEST
TRACE = f"/var/lib/libvirt/qemu/{GUEST}.trace"
#: Bytes of noise in the guest's memory.
NOISE, BYTES = "/var/lib/libvirt/qemu/noise", 6 << 20
BUS = f"/run/lio-handover-guests/{GUEST}/bus"
HELPER, ITS_BUS = f"lio-handover-vmstate@{GUEST}", f"lio-handover-vmstate-bus@{GUEST}"
#: Module → what is added at its end, beside inhooks'.
ADDED = {
    "actions/context.py": f"""
def _runs(self):
    names = [name for name in os.listdir('/proc') if name.isdigit()]
    def words(name):
        try:
            with open(f'/proc/{{name}}/cmdline', 'rb') as file:
                return file.read()
        except OSError:
            return b''
    if not any(b'{TRACE}' in words(name) and b'qemu' in words(name) for name in names):
        return False
    with open('{TRACE}') as file:
        told = [line for line in file if 'vm_state_notify' in line]
    return bool(told) and 'running 1' in told[-1]
HandoverContext.guest = _runs
HandoverContext.ran = lambda self: False
""",
    "scsi/endpoint_holder.py": """
Holders.occupy = Holders.release = Holders.pid_of = lambda self, wwpn: None
""",
    "vmstate/answers.py": """
_TARGET = re.compile('(?:iscsi|vhost)/.*')
"""}


def install(tree: str, address: str, number: int) -> None:
    """libvirt, as Debian's packages would; the address and the number are this host's.  Where it is
    there already, only guests are forgotten."""
    if Path("/run/usr-upper").exists():
        run("sh", "-c", "rm -f /etc/libvirt/qemu/*.xml /var/lib/libvirt/qemu/save/*")
        return
    run("sh", "-ec", "cd /run; mkdir usr-upper usr-work modules; "
        "mount --move /usr/lib/modules modules; mount -t overlay overlay -o "
        f"lowerdir={tree}/usr:/usr,upperdir=/run/usr-upper,workdir=/run/usr-work /usr; "
        "mount --move modules /usr/lib/modules")
    for folder in ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt"):
        if Path(tree, folder).is_dir():
            shutil.copytree(Path(tree, folder), Path("/", folder), dirs_exist_ok=True)
    # As libvirt-daemon-system.postinst has it.
    run("useradd", "--system", "--gid", "kvm", "--no-create-home", "libvirt-qemu")
    run("groupadd", "--system", "libvirt-qemu")
    run("usermod", "--append", "--groups", "libvirt-qemu", "libvirt-qemu")
    run("groupadd", "--system", "libvirt")
    run("sh", "-ec", "mkdir -p /var/lib/libvirt/qemu /var/cache/libvirt/qemu; "
        "chown -R libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu /var/cache/libvirt/qemu")
    Path(NOISE).write_bytes(os.urandom(BYTES))
    with Path("/etc/libvirt/qemu.conf").open("a") as file:
        file.write(f'stdio_handler = "file"\nmigration_host = "{address}"\n')
    with Path("/etc/libvirt/libvirtd.conf").open("a") as file:
        file.write(f'host_uuid = "00000000-0000-4000-8000-{number:012}"\n')
    for unit in UNITS:
        shutil.copy(f"{tree}/usr/lib/systemd/system/{unit}", "/usr/lib/systemd/system")


def run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode in (0, 9), (argv, done.stderr)  # 9: it is there already


def xml() -> bytes:
    """The guest: nothing but firmware, and what the hooks, the helper and the stand-in look for."""
    words = ("-object", f"dbus-vmstate,id=lio,addr=unix:path={BUS},id-list=lio-handover/{GUEST}",
             "-L", f"vhost-scsi-pci,wwpn={inhooks.WWPN}",  # a folder for firmware, to QEMU
             "-d", "trace:vm_state_notify", "-D", TRACE,
             "-device", f"loader,file={NOISE},addr=0x100000,force-raw=on")  # memory to be copied
    arguments = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{GUEST}</name>
  <uuid>6a3f0c77-0000-4000-8000-000000000077</uuid>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>{arguments}</qemu:commandline>
</domain>
""".encode()


def virsh(words: Sequence[str], data: bytes = b"", timeout: float = 250) -> tuple[int, str]:
    """What virsh ends with, and says."""
    if data:
        Path("/run/domain.xml").write_bytes(data)
        words = [*words, "/run/domain.xml"]
    done = subprocess.run(["virsh", "--quiet", *words], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          check=False)
    return done.returncode, done.stdout.strip()


def domain_state() -> str:
    code, said = virsh(["domstate", GUEST])
    return said if not code else ""


def state() -> str:
    """Where the last handover stands here."""
    return inhooks.state()


def told(unit: str) -> str:
    return insystemd.run("journalctl", "--no-pager", f"--unit={unit}")


def until(function: Any, wanted: Any, seconds: float = 150) -> Any:
    """What a function says, once it says what is wanted or there was no time left."""
    end = time.monotonic() + seconds
    while (now := function()) != wanted and time.monotonic() < end:
        time.sleep(0.2)
    return now


def target_is_here() -> bool:
    return Path("/sys/kernel/config/target", inhandover.TARGET).is_dir()


def add_hook(text: str) -> None:
    """Somebody else's hook, which libvirt calls after ours."""
    path = Path("/etc/libvirt/hooks/qemu.d/zz-other")
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def remove_hook() -> None:
    Path("/etc/libvirt/hooks/qemu.d/zz-other").unlink()


def aborted_job(seconds: float = 60) -> tuple[int, str]:
    """A migration that is under way is cancelled once memory is copied."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        code, said = virsh(["domjobinfo", GUEST])
        if not code and "Memory processed" in said:
            return virsh(["domjobabort", GUEST])
        time.sleep(0.2)
    return 1, "no job"
