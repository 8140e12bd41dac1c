"""The bed itself: what the other tests rest on."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import barehands, blocks, inside

TARGET = "iqn.2003-01.org.example:bed"
SERVICE = "198.18.0.100"
SIZE = 16 * lab.MiB


def test_every_kernel_boots_and_says_its_version(each_host: lab.Host) -> None:
    release = each_host.run(["uname", "-r"]).stdout.strip()
    print(each_host)
    assert release == each_host.release
    assert each_host.run(["cat", "/sys/kernel/config/target/dbroot"]).stdout == "/etc/target\n"
    assert each_host.call(inside.leftovers) == []


def test_kernels_differ(hosts: HostsOf) -> None:
    releases = [tuple(int(number) for number in host.release.split("-")[0].split(".")[:2])
                for host in hosts(*lab.ROLES)]
    assert releases == sorted(set(releases))


# ── running things in a host ─────────────────────────────────────────────────────────────────

def fail_with(text: str) -> None:
    raise ValueError(text)


def echo(data: bytes) -> bytes:
    return data


def test_an_exception_comes_back_with_its_traceback(stable: lab.Host) -> None:
    with pytest.raises(ValueError, match="from afar") as caught:
        stable.call(fail_with, "from afar")
    assert "fail_with" in "".join(caught.value.__notes__)


def test_a_call_that_hangs_is_ended_and_the_host_goes_on(stable: lab.Host) -> None:
    with pytest.raises(lab.HostTimeout, match="did not end"):
        stable.call(time.sleep, 30, timeout=0.5)
    assert stable.call(echo, b"still there") == b"still there"


@pytest.mark.parametrize("size", [0, 3500, 4096, 100_000, 3_000_000])
def test_anything_passes_the_line_unchanged(stable: lab.Host, size: int) -> None:
    data = os.urandom(size)
    assert stable.call(echo, data) == data
    assert stable.run(["cat"], input=data, text=False).stdout == data


def test_a_program_fails_with_what_it_said(stable: lab.Host) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        stable.run(["sh", "-c", "echo trouble >&2; exit 3"])
    assert caught.value.returncode == 3
    assert caught.value.stderr == "trouble\n"
    assert stable.run(["false"], check=False).returncode == 1
    assert stable.run(["no-such-program"], check=False).returncode == 127


def test_a_program_runs_on_while_other_things_happen(stable: lab.Host) -> None:
    program = stable.popen(["sh", "-c", "echo started; exec sleep 60"])
    while b"started" not in program.stdout_so_far():
        time.sleep(0.02)
    assert stable.call(echo, b"meanwhile") == b"meanwhile"
    assert program.poll() is None
    program.kill(signal.SIGTERM)
    assert program.wait(5) == -signal.SIGTERM


def test_a_daemon_does_not_keep_its_caller_waiting(stable: lab.Host) -> None:
    started = time.monotonic()
    stable.run(["sh", "-c", "sleep 60 &"])
    assert time.monotonic() - started < 10


# ── a host is not the machine ────────────────────────────────────────────────────────────────

def test_what_a_host_writes_does_not_reach_the_machine(stable: lab.Host) -> None:
    for path in ("/etc/lab-was-here", "/lab-was-here", "/usr/bin/lab-was-here"):
        stable.run(["touch", path])
        assert not Path(path).exists()
    stable.run(["sh", "-c", "mount -o remount,rw /; rm -f /etc/hostname"])
    assert Path("/etc/hostname").exists()


def test_hosts_have_names_and_boots_of_their_own(hosts: HostsOf) -> None:
    a, b = hosts("oldest", "newest")
    assert a.run(["hostname"]).stdout != b.run(["hostname"]).stdout
    assert a.run(["cat", "/etc/machine-id"]).stdout != b.run(["cat", "/etc/machine-id"]).stdout
    assert a.boot_id != b.boot_id


# ── shared storage ───────────────────────────────────────────────────────────────────────────

def test_a_file_is_shared(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("oldest", "newest")
    path = bed.shared / "file"
    a.run(["dd", f"of={path}", "conv=fsync"], input=b"from a")
    assert path.read_bytes() == b"from a"
    assert b.run(["cat", path]).stdout == "from a"


def test_a_file_opened_anew_is_read_anew(bed: lab.Lab, hosts: HostsOf) -> None:
    """As on shared file systems: a target that went and comes back must not see old pages."""
    path = bed.shared / "file"
    for here, there in (hosts("oldest", "newest"), hosts("newest", "stable")):
        for text in ("one", "two", "six"):
            here.run(["dd", f"of={path}", "conv=fsync"], input=text.encode())
            assert there.run(["cat", path]).stdout == text
            there.run(["dd", f"of={path}", "conv=fsync,notrunc"], input=text.upper().encode())
            assert here.run(["cat", path]).stdout == text.upper()


def test_a_backstore_made_anew_reads_anew(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("oldest", "newest")
    path = bed.shared / "file"
    for number in range(3):
        for host in (a, b):
            host.call(barehands.fileio, "one", str(path), SIZE)
            disk = host.call(barehands.loopback, "one")
            before = bytes([number * 2 + (host is b)]) * 4096
            if number or host is b:
                assert host.call(blocks.read, disk, 8192, 4096) == before
            host.call(blocks.write, disk, 8192, bytes([before[0] + 1]) * 4096)
            host.call(inside.clear_targets)


def test_the_disk_is_shared(hosts: HostsOf) -> None:
    a, b = hosts("oldest", "newest")
    data = os.urandom(4096)
    a.call(blocks.write, "/dev/ubda", 8192, data)
    assert b.call(blocks.read, "/dev/ubda", 8192, 4096) == data
    b.call(blocks.write, "/dev/ubda", 8192, bytes(4096))
    assert a.call(blocks.read, "/dev/ubda", 8192, 4096) == bytes(4096)


# ── targets and initiators ───────────────────────────────────────────────────────────────────

def serve(bed: lab.Lab, host: lab.Host) -> None:
    """Two LUNs on shared storage behind the service address."""
    one = host.call(barehands.fileio, "one", str(bed.shared / "one"), SIZE)
    two = host.call(barehands.iblock, "two", "/dev/ubda")
    host.call(barehands.iscsi, TARGET, SERVICE, {0: one, 1: two})


def test_libiscsi_sees_a_target(bed: lab.Lab, each_host: lab.Host) -> None:
    bed.move_address(SERVICE, None, each_host)
    serve(bed, each_host)
    libiscsi = lab.Libiscsi(bed)
    assert TARGET in libiscsi.targets(SERVICE)
    assert "Vendor:LIO-ORG" in libiscsi.inquiry(SERVICE, TARGET, 0)
    assert "IBLOCK" in libiscsi.inquiry(SERVICE, TARGET, 1)


def test_chap_is_asked_for(bed: lab.Lab, stable: lab.Host, client: lab.OpenIscsi) -> None:
    bed.move_address(SERVICE, None, stable)
    one = stable.call(barehands.fileio, "one", str(bed.shared / "one"), SIZE)
    name = "iqn.2003-01.org.example:with-a-secret"
    stable.call(barehands.iscsi, TARGET, SERVICE, {0: one}, {name: ("user", "longpassword1")})
    right, wrong = lab.Chap("user", "longpassword1"), lab.Chap("user", "longpassword2")
    assert "LIO-ORG" in lab.Libiscsi(bed, name, right).inquiry(SERVICE, TARGET)
    with pytest.raises(lab.LabError):
        lab.Libiscsi(bed, name, wrong).inquiry(SERVICE, TARGET)
    with pytest.raises(subprocess.CalledProcessError):
        client.login(TARGET, SERVICE, name, wrong)
    assert list(client.login(TARGET, SERVICE, name, right).disks()) == [0]


def test_an_initiator_reserves_and_comes_back_elsewhere(
        bed: lab.Lab, hosts: HostsOf, client: lab.OpenIscsi) -> None:
    a, b = hosts("oldest", "newest")
    bed.move_address(SERVICE, None, a)
    serve(bed, a)
    assert client.discover(SERVICE) == [(f"{SERVICE}:3260", TARGET)]
    first = client.login(TARGET, SERVICE)
    second = client.login(TARGET, SERVICE, name="iqn.2003-01.org.example:second")
    assert list(first.disks()) == [0, 1]
    disk, other = first.disk(0), second.disk(0)
    assert disk.size() == SIZE

    data = os.urandom(8192)
    disk.write(4096, data)
    assert other.read(4096, 8192) == data

    disk.register(0xabc)
    disk.reserve(0xabc, 5)
    assert disk.keys() == [0xabc]
    assert other.reservation() == (0xabc, 5)
    with pytest.raises(OSError):
        other.write(0, bytes(4096))
    other.register(0xdef, aptpl=True)
    other.write(0, bytes(4096))

    a.run(["sh", "-c", "for e in /sys/kernel/config/target/iscsi/*/tpgt_1/enable; do "
                       "echo 0 > $e; done"])
    serve(bed, b)
    bed.move_address(SERVICE, a, b)
    assert first.wait_for("LOGGED_IN", 30) < 30
    assert disk.read(4096, 8192) == data
    assert disk.reservation() is None       # nobody carried it over: that is the product's part


def test_a_cable_can_be_pulled(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    ping = ["busybox", "ping", "-c1", "-W1", b.address]
    assert a.run(ping).returncode == 0
    bed.cut(b)
    assert a.run(ping, check=False).returncode == 1
    assert b.call(echo, b"the line is another") == b"the line is another"
    bed.heal(b)
    assert a.run(ping).returncode == 0


def test_what_hangs_in_the_kernel_is_told(bed: lab.Lab, stable: lab.Host,
                                          client: lab.OpenIscsi) -> None:
    bed.move_address(SERVICE, None, stable)
    serve(bed, stable)
    session = client.login(TARGET, SERVICE)
    disk = session.disk(0)
    bed.cut(stable)
    with pytest.raises(lab.HostTimeout, match=r"(?s)cannot be killed.*Show Blocked State.*blkdev"):
        client.host.call(blocks.read, disk.node, 0, 4096, timeout=1)
    bed.heal(stable)
    assert session.wait_for("LOGGED_IN", 30) < 30
    assert disk.read(0, 4096) == bytes(4096)


# ── power and cleanliness ────────────────────────────────────────────────────────────────────

def test_a_host_loses_its_power_and_boots_again(bed: lab.Lab, stable: lab.Host) -> None:
    serve(bed, stable)
    waiting = stable.popen(["sleep", "60"])
    before = stable.boot_id
    stable.kill()
    with pytest.raises(lab.HostDied):
        waiting.wait(5)
    with pytest.raises(lab.HostDied):
        stable.call(echo, b"")
    stable.boot()
    assert stable.boot_id != before
    assert stable.call(inside.leftovers) == []


def test_a_host_that_went_off_is_told_with_its_console(stable: lab.Host) -> None:
    with pytest.raises(lab.HostDied, match="sysrq: Power Off"):
        stable.run(["sh", "-c", "echo o > /proc/sysrq-trigger; sleep 5"])
    assert not stable.alive


def test_wiping_leaves_nothing(bed: lab.Lab, each_host: lab.Host, client: lab.OpenIscsi) -> None:
    bed.move_address(SERVICE, None, each_host)
    serve(bed, each_host)
    session = client.login(TARGET, SERVICE)
    session.disk(0).register(1, aptpl=True)
    each_host.popen(["sleep", "600"])
    each_host.run(["sh", "-c", "echo x > /etc/target/saveconfig.json"])
    kinds = {line.split()[0] for line in each_host.call(inside.leftovers)}
    assert kinds == {"target", "process", "address", "file"}
    each_host.wipe()
    assert each_host.call(inside.leftovers) == []
    # The target went from under its feet: the initiator comes clean all the same.
    client.host.wipe()
    assert client.host.call(inside.leftovers) == []


# ── nothing is left on the machine ───────────────────────────────────────────────────────────

_CHILD = """
import sys, time
from tests import lab
with lab.Lab() as bed:
    bed.host("stable")
    print(bed.folder, flush=True)
    if sys.argv[1] == "error":
        raise RuntimeError("on purpose")
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize(("how", "number"), [
    ("return", 0), ("error", 0), ("wait", signal.SIGINT), ("wait", signal.SIGTERM),
    ("wait", signal.SIGKILL)])
def test_however_a_lab_ends_nothing_is_left(how: str, number: int) -> None:
    mounts = Path("/proc/mounts").read_text()
    child = subprocess.Popen([sys.executable, "-c", _CHILD, how], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True,
                             cwd=Path(__file__).resolve().parents[2])
    assert child.stdout
    with child.stdout:
        folder = child.stdout.readline().strip()
        assert folder
        if number:
            assert _processes_of(folder)
            child.send_signal(number)
        child.wait(30)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (_processes_of(folder) or Path(folder, "hosts").exists()):
        time.sleep(0.05)
    assert _processes_of(folder) == []
    assert not Path(folder, "hosts").exists()
    assert not Path(folder, "disk").exists()
    if how == "error" or number == signal.SIGINT:       # then the consoles are worth keeping
        for console in Path(folder, "consoles").iterdir():
            console.unlink()
        Path(folder, "consoles").rmdir()
        Path(folder, "keep").unlink()
        Path(folder).rmdir()
    assert not Path(folder).exists()
    assert Path("/proc/mounts").read_text() == mounts


def _processes_of(folder: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and folder.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found
