"""What tests of libvirt run inside hosts whose kernel has no vhost-scsi: libvirtd and a guest.

All is as it is with vhost-scsi but for the endpoint (inhooks.py, instandin.py): to the kernel the
guest is attached where its QEMU runs it.  QEMU's own trace of that is looked at
(``vm_state_notify``), by which its vhost-scsi would attach and leave.
"""
from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab import newest
from tests.migration import firmware
from tests.support import inhandover, inhooks, inhost, insystemd

UNITS = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket",
         "virtlogd.service", "virtlogd.socket", "virtlogd-admin.socket", "virtlockd.service",
         "virtlockd.socket", "virtlockd-admin.socket")
#: The guest whose target is handed over, and one without any.
GUEST, PLAIN = inhooks.GUEST, "plain"
CALLS = "/run/hook-calls"
TRACE = f"/var/lib/libvirt/qemu/{GUEST}.trace"
#: The guest's program, and what it said while it ran here.
FIRMWARE, SAID = (f"/var/lib/libvirt/qemu/{name}" for name in ("firmware", "said"))
#: What QEMU says of itself: that it stops the guest, or runs it; what it asks its helpers.
EVENTS = ("vm_state_notify", "dbus_vmstate_*", "migrate_set_state")
#: Bytes of noise in the guest's memory.
NOISE, BYTES = "/var/lib/libvirt/qemu/noise", 6 << 20
BUS = f"/run/lio-handover-guests/{GUEST}/bus"
HELPER, ITS_BUS = f"lio-handover-vmstate@{GUEST}", f"lio-handover-vmstate-bus@{GUEST}"
#: Module → what is added at its end, beside inhooks'.
ADDED = {
    "actions/context.py": f"""
import os
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
import re
_TARGET = re.compile('(?:iscsi|vhost)/.*')
"""}


def install(trees: Sequence[str], address: str, number: int) -> None:
    """libvirt, as Debian's packages would; the address and the number are this host's.  Where it is
    there already, only guests are forgotten.  ``trees``: that of lab/libvirt.py, or those of
    lab/newest.py, libvirt's and QEMU's."""
    if Path("/run/usr-upper").exists():
        run("sh", "-c", "rm -f /etc/libvirt/qemu/*.xml /var/lib/libvirt/qemu/save/*")
        return
    tree = trees[0]
    below = f"{tree}/usr:/usr" if len(trees) == 1 else "/usr"
    run("sh", "-ec", "cd /run; mkdir usr-upper usr-work modules; "
        "mount --move /usr/lib/modules modules; mount -t overlay overlay -o "
        f"lowerdir={below},upperdir=/run/usr-upper,workdir=/run/usr-work /usr; "
        "mount --move modules /usr/lib/modules")
    if len(trees) > 1:
        _lay(trees)
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
    firmware.write(Path(FIRMWARE))
    with Path("/etc/libvirt/qemu.conf").open("a") as file:
        file.write(f'stdio_handler = "file"\nmigration_host = "{address}"\n')
    with Path("/etc/libvirt/libvirtd.conf").open("a") as file:
        file.write(f'host_uuid = "00000000-0000-4000-8000-{number:012}"\n')
    for unit in UNITS:
        path = Path(tree, "usr/lib/systemd/system", unit)
        if path.exists():  # this systemd does not know notify-reload (253)
            Path("/usr/lib/systemd/system", unit).write_text(
                path.read_text().replace("=notify-reload", "=notify"))


def _lay(trees: Sequence[str]) -> None:
    """Mount the newest libvirt and QEMU where their programs look for themselves, and name them
    where users look for them."""
    for name, tree in zip(("libvirt", "qemu"), trees):
        home = f"{newest.HOME}/{name}"
        run("sh", "-ec", f"mkdir -p {home}; mount --bind {tree}/usr {home}")
        for program in newest.PROGRAMS[name]:
            path = Path("/usr", program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(f"{home}/{program}")
    # QEMU looks there, too, and ends where it finds modules of another build.
    modules = "lib/x86_64-linux-gnu/qemu"
    run("mount", "--bind", f"{newest.HOME}/qemu/{modules}", f"/usr/{modules}")
    for folder in ("lib/x86_64-linux-gnu/libvirt", "share/libvirt"):
        # Networks want a firewall, which these hosts have none of: libvirtd would not start.
        shutil.copytree(Path(newest.HOME, "libvirt", folder), Path("/usr", folder),
                        ignore=shutil.ignore_patterns("*_network.so", "*_nwfilter.so"))


def run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode in (0, 9), (argv, done.stderr)  # 9: it is there already


def trace_of(name: str) -> str:
    """The file in which the guest's QEMU says when it stops the guest, and when it runs it."""
    return f"/var/lib/libvirt/qemu/{name}.trace"


def xml(name: str = GUEST, disk: str = "") -> bytes:
    """The guest: firmware that says records, and what the hooks, the helper and the stand-in look
    for; another guest has nothing of that.  ``disk``: a file in which snapshots go."""
    words = ["-d", ",".join(f"trace:{event}" for event in EVENTS), "-D", trace_of(name),
             "-device", f"loader,file={NOISE},addr=0x100000,force-raw=on",  # memory to be copied
             "-bios", FIRMWARE, "-cpu", firmware.CPU]
    if name == GUEST:
        words += ["-object",
                  f"dbus-vmstate,id=lio,addr=unix:path={BUS},id-list=lio-handover/{GUEST}",
                  "-L", f"vhost-scsi-pci,wwpn={inhooks.WWPN}",  # a folder for firmware, to QEMU
                  *firmware.console(SAID, 1)]
    disks = f"""
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='hda' bus='ide'/>
    </disk>""" if disk else ""
    arguments = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>6a3f0c77-0000-4000-8000-{77 if name == GUEST else 78:012}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>{arguments}</qemu:commandline>
</domain>
""".encode()


def make_disk(path: str) -> None:
    """An empty disk of 1 MiB (QEMU, docs/interop/qcow2.txt: header; table and block of reference
    counts, with one for each of four clusters; table of the disk's own, which is empty)."""
    cluster, bits = 1 << 16, 16
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, bits, 1 << 20, 0, 1, 3 * cluster,
                       cluster, 1, 0, 0)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    Path(path).write_bytes(b"".join(part.ljust(cluster, b"\0") for part in (
        head, struct.pack(">Q", 2 * cluster), counts, b"")))


def virsh(words: Sequence[str], data: bytes = b"", timeout: float = 250) -> tuple[int, str]:
    """What virsh ends with, and says."""
    if data:
        Path("/run/domain.xml").write_bytes(data)
        words = [*words, "/run/domain.xml"]
    done = subprocess.run(["virsh", "--quiet", *words], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          check=False)
    return done.returncode, done.stdout.strip()


def typed(words: str) -> tuple[int, str]:
    """What a line of a shell ends with, and says."""
    done = subprocess.run(["sh", "-c", words], stdin=subprocess.DEVNULL, text=True, timeout=250,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def forget_setup() -> None:
    """What inhooks.configure and the tests have set up for the guest."""
    insystemd.run("systemctl", "disable", "--now", f"{HELPER}.service", f"{ITS_BUS}.service")
    for path in ("/etc/lio-handover/lio-handover.conf.d/hooks.conf",
                 f"/etc/lio-handover/guests/{GUEST}.conf"):
        Path(path).unlink(missing_ok=True)


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


def said() -> str:
    """The records of the guest while it ran here."""
    path = Path(SAID)
    return path.read_text(errors="replace") if path.exists() else ""


def note_hooks(then: str = "") -> None:
    """From now on note each call of a hook; ``then``: a shell's words, which may fail it."""
    Path(CALLS).unlink(missing_ok=True)
    add_hook(f'echo "$2 $3 $4" >>{CALLS}\n{then}')


def hooks_called() -> list[str]:
    """OPERATION SUB-OPERATION EXTRA of each call since then."""
    path = Path(CALLS)
    return path.read_text().splitlines() if path.exists() else []


# ---- parties that are killed (tests/manager) ---------------------------------------------------
def forget_said() -> None:
    """What the guest said before; its QEMU, which appends, goes on at the end."""
    if Path(SAID).exists():
        os.truncate(SAID, 0)


def journals() -> list[str]:
    """The handovers that this host knows of."""
    return sorted(path.name for path in _handovers().iterdir()) if _handovers().is_dir() else []


def _handovers() -> Path:
    return Path(inhost.SETTINGS.state_directory, "handovers")


def hold_helper(text: str, known: Sequence[str], seconds: float = 200) -> bool:
    """Stop the helper's processes as soon as the journal of a new handover has this text; whether
    it came."""
    end = time.monotonic() + seconds
    while not any(text in path.read_text() for path in _handovers().glob("*/journal")
                  if path.parent.name not in known):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    for pid in _of(f"{HELPER}.service"):
        os.kill(pid, signal.SIGSTOP)
    return True


def go_on() -> None:
    """Undo `hold_helper` and `add_hold`."""
    for pid in _of(f"{HELPER}.service"):
        os.kill(pid, signal.SIGCONT)
    Path("/run/go-on").touch()


def _of(unit: str) -> list[int]:
    """The processes of a unit."""
    path = Path("/sys/fs/cgroup", insystemd.show(unit, "ControlGroup")["ControlGroup"].lstrip("/"),
                "cgroup.procs")
    try:
        return [int(pid) for pid in path.read_text().split()]
    except OSError:
        return []


def add_hold(operation: str) -> None:
    """A hook that waits for `go_on`."""
    for name in ("go-on", "at-point"):
        Path("/run", name).unlink(missing_ok=True)
    add_hook(f'[ "$2" = {operation} ] || exit 0; touch /run/at-point\n'
             "for try in $(seq 300); do [ -e /run/go-on ] && exit 0; sleep 0.1; done")


def remove_hold() -> None:
    Path("/etc/libvirt/hooks/qemu.d/zz-other").unlink(missing_ok=True)


def wait_for(point: str, seconds: float = 200) -> bool:
    """Whether a point without a record is reached: our hook waits for its unit, or `add_hold`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Path("/run/at-point").exists() if point == "started" else _named("hook"):
            return True
        time.sleep(0.02)
    return False


def copies(seconds: float = 200) -> bool:
    """Whether memory comes to be copied."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        code, said = virsh(["domjobinfo", GUEST])
        if not code and "Memory processed" in said:
            return True
        time.sleep(0.2)
    return False


#: Who is killed → a unit, or words of a command line.
_UNITS = {"libvirtd": "libvirtd.service", "service": "lio-handoverd.service",
          "helper": f"{HELPER}.service", "unit": f"lio-handover-incoming@{GUEST}.service"}
_WORDS = {"qemu": TRACE, "hook": "lio-handover-hook\0libvirt", "virsh": "virsh\0--quiet\0migrate"}


def _named(what: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if _WORDS[what].encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass  # it has ended
    return found


def kill(what: str) -> None:
    """SIGKILL, to all processes of it."""
    pids = _named(what) if what in _WORDS else _of(_UNITS[what])
    if what == "libvirtd":  # KillMode=process: QEMUs are in a slice of their own
        pids = [int(insystemd.show(_UNITS[what], "MainPID")["MainPID"])]
    for pid in filter(None, pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def incoming() -> bool:
    """Whether the guest's unit is at work."""
    return insystemd.show(_UNITS["unit"], "ActiveState")["ActiveState"] not in (
        "inactive", "failed")


def serves() -> bool:
    """Whether this host has the target, and no handover here says that it may not serve it."""
    from lio_handover.handover.meddling import must_stay_shut
    if not target_is_here():
        return False
    answers = inhandover.status()
    last = answers[-1].handover if answers else None
    return last is None or not last.state or not must_stay_shut(last)


def recover() -> str:
    """What the manual says of a handover that is not over."""
    said = []
    for answer in inhandover.status():
        if not answer.handover.over:
            said.append(insystemd.run("lio-handover", "recover", answer.handover.id, timeout=200))
    return "\n".join(said)


# ---- what it costs (tests/manager) -------------------------------------------------------------
def timed_starts(pairs: int) -> tuple[list[float], list[float]]:
    """Seconds that `virsh start` takes with our hook, and with one that is empty, in turn."""
    path = Path(inhooks.HOOK)
    ours = path.read_text()
    found: tuple[list[float], list[float]] = [], []
    for number in range(2 * pairs + 2):
        which = (number + number // 2) % 2  # ours, empty, empty, ours, …
        path.write_text((ours, "#!/bin/sh\nexit 0\n")[which])
        began = time.monotonic()
        code, said = virsh(["start", PLAIN])
        assert code == 0, said
        if number > 1:
            found[which].append(round(time.monotonic() - began, 3))
        assert virsh(["destroy", PLAIN])[0] == 0
    path.write_text(ours)
    return found


def stopped_and_ran(name: str) -> tuple[float, float]:
    """When QEMU stopped the guest here last, and when it ran it last, in seconds since 1970."""
    times = {words: when for when, words in events(name)}
    return (times.get("vm_state_notify running 0", 0.0),
            times.get("vm_state_notify running 1", 0.0))


def events(name: str) -> list[tuple[float, str]]:
    """When QEMU did what here, and what the guest's helper then said: seconds since 1970, and
    words, without what may differ."""
    told = Path(trace_of(name)).read_text()
    found = [(float(when), f"{event} {words}".split(" reason")[0].strip()) for when, event, words
             in re.findall(r"^\d+@([\d.]+):(\w+) ?(.*)$", told, re.M)]
    if name == GUEST:
        log = insystemd.run("journalctl", "--no-pager", "--output=short-unix", f"--unit={HELPER}")
        found += [(float(when), words) for when, words in re.findall(
            r"^([\d.]+) \S+ \S+: (.*)$", log, re.M)]
    return sorted(found)
