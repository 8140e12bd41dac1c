"""The bed's emulated hosts: what they have in common with the others, and what only they have."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import barehands, blocks, inside
from tests.lab.qemu import DISK, ROLES
from tests.testbed.test_lab import echo

TARGET = "iqn.2003-01.org.example:emulated"
SERVICE = "198.18.0.101"


@pytest.fixture(params=ROLES)
def host(request: pytest.FixtureRequest, hosts: HostsOf) -> lab.Host:
    return hosts(str(request.param))[0]


def test_the_kernels_are_older_and_newer_than_dirty_logging(hosts: HostsOf) -> None:
    releases = {one.role: tuple(map(int, one.release.split(".")[:2])) for one in hosts(*ROLES)}
    assert releases["vhost-oldest"] == (6, 1)
    assert releases["vhost-newest"] >= (7, 2)


def test_an_emulated_host_is_clean_and_not_the_machine(host: lab.Host) -> None:
    assert host.run(["uname", "-r"]).stdout.strip() == host.release
    assert host.call(inside.leftovers) == []
    assert host.run(["cat", "/sys/kernel/config/target/dbroot"]).stdout == "/etc/target\n"
    for path in ("/etc/lab-was-here", "/lab-was-here"):
        host.run(["touch", path])
        assert not Path(path).exists()
    # What is not under the overlay is the machine itself, and QEMU lets nothing through.
    done = host.run(["sh", "-c", "mount -o remount,rw /usr/lib/modules && "
                                 "touch /usr/lib/modules/lab-was-here"], check=False)
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    assert [entry.name for entry in host.kernel.modules.parent.iterdir()] == [host.release]


def test_anything_passes_the_line_unchanged(hosts: HostsOf) -> None:
    data = os.urandom(3_000_000)
    assert hosts(ROLES[-1])[0].call(echo, data) == data


def test_both_kinds_of_hosts_share_files_disk_and_network(bed: lab.Lab, hosts: HostsOf) -> None:
    one, two, other = hosts(*ROLES, "stable")
    path = bed.shared / "file"
    one.run(["dd", f"of={path}", "conv=fsync"], input=b"from one")
    assert {host.run(["cat", path]).stdout for host in (two, other)} == {"from one"}
    data = os.urandom(4096)
    two.call(blocks.write, DISK, 8192, data)
    assert one.call(blocks.read, DISK, 8192, 4096) == data
    assert other.call(blocks.read, "/dev/ubda", 8192, 4096) == data
    assert two.run(["busybox", "ping", "-c1", "-W1", other.address]).returncode == 0


def test_an_emulated_host_serves_iscsi(bed: lab.Lab, host: lab.Host) -> None:
    bed.move_address(SERVICE, None, host)
    disks = {0: host.call(barehands.fileio, "one", str(bed.shared / "one"), 4 * lab.MiB),
             1: host.call(barehands.iblock, "two", DISK)}
    host.call(barehands.iscsi, TARGET, SERVICE, disks)
    libiscsi = lab.Libiscsi(bed)
    assert "FILEIO" in libiscsi.inquiry(SERVICE, TARGET, 0)
    assert "IBLOCK" in libiscsi.inquiry(SERVICE, TARGET, 1)


def test_a_host_that_ended_is_told_and_boots_again(hosts: HostsOf) -> None:
    host, = hosts("vhost-oldest")
    before = host.boot_id
    with pytest.raises(lab.HostDied, match="sysrq: Resetting"):
        host.run(["sh", "-c", "echo b > /proc/sysrq-trigger; sleep 5"])
    assert not host.alive
    host.boot()
    assert host.boot_id != before
    assert host.call(inside.leftovers) == []
