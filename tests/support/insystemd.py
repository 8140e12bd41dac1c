"""A real systemd inside a lab host, with the units as they are shipped.

It is process 1 of a process and a mount namespace of the host: what it starts has the host's
kernel, its SCSI targets and its files, but a /run and a configuration of systemd of its own.
Nothing is left of it when its first process is killed.
"""
from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lio_handover import dbus_names
from lio_handover.scsi.endpoint_holder import Holders
from tests.support import inbus, inhandover, inhost

T = TypeVar("T")
DAEMON, BOOT, RECOVER = (f"lio-handover{one}.service" for one in ("d", "-boot", "-recover"))
RESTORE = "rtslib-fb-targetctl.service"     # targetcli's, as Debian ships it

#: What has nothing to do here, or would empty /tmp, where the hosts' shared folder is.
MASKED = ("systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service",
          "systemd-tmpfiles-clean.timer", "systemd-logind.service", "getty.target",
          "systemd-binfmt.service", "systemd-sysusers.service", "systemd-sysctl.service",
          "systemd-modules-load.service",
          "systemd-journal-flush.service", "systemd-update-utmp.service",
          "systemd-update-utmp-runlevel.service", "systemd-user-sessions.service",
          "systemd-ask-password-wall.path", "kmod-static-nodes.service", "dev-mqueue.mount",
          "dev-hugepages.mount", "sys-fs-fuse-connections.mount",
          "proc-sys-fs-binfmt_misc.automount", "systemd-initctl.socket")
#: Masked, too, unless a test wants devices to be named as a machine's udev names them.
UDEV = ("systemd-udevd.service", "systemd-udev-trigger.service")
#: Of what is there at the boot, only disks: the network is the lab's.  Links are there once it ran.
_TRIGGER = """[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=block --subsystem-match=module
ExecStart=udevadm settle
"""
#: configfs is left to systemd's own unit; generators would look for the machine's disks.
_FIRST = f"""
umount /sys/kernel/config
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /      # as process 1 of a machine does, and of a container does not
cd /etc/systemd/system
for unit in {" ".join(MASKED)} $1; do ln -s /dev/null $unit; done
shift
rm -rf /dev/disk
mkdir systemd-udev-trigger.service.d
echo '{_TRIGGER}' >systemd-udev-trigger.service.d/lab.conf
[ $# = 0 ] || systemctl enable "$@"
exec env -i container=lab PATH="$PATH" LANG=C.UTF-8 \\
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"""


def start(settings: str, enabled: Sequence[str] = (), udev: bool = False,
          staged: str = "") -> str:
    """Install the service and boot systemd with these units enabled; "running", or "degraded" where
    one of them failed.  With ``udev`` disks, those that come later, too, get their links below
    /dev/disk."""
    inbus.install(settings, staged)
    with open("/dev/console", "r+b", buffering=0) as console:
        subprocess.Popen(["unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-ec",
                          _FIRST, "first", "" if udev else " ".join(UDEV), *enabled],
                         stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                         start_new_session=True)
    return within(_booted)


def _booted() -> str:
    until = time.monotonic() + 50
    while True:
        said = run("systemctl", "is-system-running", "--wait")
        if said in ("running", "degraded"):
            return said
        assert time.monotonic() < until, said
        time.sleep(0.05)


def _first() -> int:
    """Process 1 of the namespace, as the host calls it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                numbers = path.read_text().partition("\nNSpid:")[2].partition("\n")[0].split()
            except OSError:
                continue
            if len(numbers) == 2 and numbers[1] == "1":
                return int(numbers[0])
        time.sleep(0.05)
    raise AssertionError("no systemd is running")


def within(function: Callable[..., T], *args: Any) -> T:
    """Run a function beside what systemd runs.  The caller is a fork of the host's agent, which has
    nothing else to do."""
    first, libc = _first(), ctypes.CDLL(None, use_errno=True)
    for kind in ("pid", "mnt"):
        with open(f"/proc/{first}/ns/{kind}") as namespace:
            assert libc.setns(namespace.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
    return inbus.as_user(0, function, *args)    # type: ignore[no-any-return] # the fork enters it


def entering(argv: Sequence[str]) -> list[str]:
    """The command that starts a program there."""
    return ["nsenter", f"--target={_first()}", "--pid", "--mount", "--", *argv]


def run(*argv: str, timeout: float = 60) -> str:
    """What a program said, whatever it came to."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
    return done.stdout.strip()


def show(unit: str, *properties: str) -> dict[str, str]:
    """What systemd says of a unit."""
    said = run("systemctl", "show", unit, f"--property={','.join(properties)}")
    return dict(line.split("=", 1) for line in said.splitlines())


def begin_import(data: bytes, given: Mapping[str, Any]) -> None:
    """Have the service import a document, and not wait for it."""
    fd = os.memfd_create("document")
    os.write(fd, data)
    inbus.Client().manager("Import", "aha{sv}", inbus.descriptors(fd), inbus.options(given))


def verb(path: str, member: str, given: Mapping[str, Any] = {}  # noqa: B006
         ) -> dict[str, Any]:
    """The job of a verb of a handover."""
    client = inbus.Client()
    handover = dbus_names.decode(path.rpartition("/")[2])
    return client.job(inbus.object_verb(client, handover, member, given))


def holders(*wwpns: str) -> list[int | None]:
    """Who occupies these endpoints."""
    found = Holders(inhost.SETTINGS.state_directory)
    return [found.pid_of(one) for one in wwpns]


def let_go(*wwpns: str) -> None:
    for one in wwpns:
        Holders(inhost.SETTINGS.state_directory).release(one)


def times(unit: str) -> tuple[int, int]:
    """When a unit of type oneshot began, and when it had done its work, in microseconds."""
    told = show(unit, "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
    began, done = (int(one) for one in told.values())
    return began, done


def saved() -> str:
    """What targetcli would restore."""
    return Path(inhandover.SAVED).read_text()


def save(text: str) -> None:
    Path(inhandover.SAVED).write_text(text)


def write(files: Mapping[str, str]) -> None:
    """Files by their paths, as systemd sees them."""
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
