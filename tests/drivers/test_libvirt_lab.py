"""`virsh migrate --live` between two hosts with libvirt as Debian ships it, and a target that goes
along: hooks are called by libvirtd, helpers are started by their units, QEMU carries the state.

The kernels here have no vhost-scsi, so an iSCSI target stands in for the guest's (inlibvirt.py).
"""
from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import lab
from tests.conftest import Pool
from tests.manager.pair import MORE, Pair
from tests.support import inhandover, inhooks, inhost, inlibvirt
from tests.support.commandline import CHECKOUT
from tests.support.inlibvirt import GUEST, HELPER

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    """Hosts of their own: what is installed there stays."""
    yield Pair(bed, _pool.take_named(("stable", "libvirt"), ("newest", "libvirt2")))


@pytest.fixture
def newest_pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    """The same, with the newest libvirt and QEMU."""
    yield Pair(bed, _pool.take_named(("stable", "libvirt3"), ("newest", "libvirt4")), "newest")


def test_virsh_migrates_a_guest_with_its_target_and_back(pair: Pair) -> None:
    """A minute and a half: by virsh's own connections, then by libvirtd's (--p2p); what fails on
    the way leaves guest and target where they were."""
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    here = pair.systemd[0]

    def stays() -> None:
        pair.until(inlibvirt.domain_state, "running", "")
        assert pair.each(inlibvirt.target_is_here) == [True, False]

    # Our own hook on b refuses; then another program's does, once the target is staged.
    pair.hosts[1].call(inhooks.configure, [], "here = b\n", MORE)
    code, said = pair.migrate(0)
    assert code == 1 and "no peer is configured that could serve the guest's targets" in said, said
    assert pair.each(inlibvirt.state) == ["", ""]
    stays()
    pair.configure()
    pair.systemd[1].call(inlibvirt.add_hook, '[ "$2" != start ] || exit 1')
    code, said = pair.migrate(0)
    assert code == 1 and "Hook script execution failed" in said, said
    pair.until(inlibvirt.state, "idle", "none")
    stays()
    pair.systemd[1].call(inlibvirt.remove_hook)

    # It is cancelled while its memory is copied.
    with ThreadPoolExecutor(1) as other:
        migrating = other.submit(pair.migrate, 0, "--bandwidth", "1")
        assert pair.call(0, inlibvirt.aborted_job) == (0, "")
        code, said = migrating.result()
    assert code == 1 and "canceled" in said, said
    pair.until(inlibvirt.state, "idle", "none")
    stays()

    for source, more, states in ((0, (), ("retired", "confirmed")),
                                 (1, ("--p2p",), ("confirmed", "retired"))):
        code, said = pair.migrate(source, *more)
        assert (code, said) == (0, ""), (said, pair.told())
        pair.until(inlibvirt.state, *states)
        there = states.index("confirmed")
        assert pair.each(inlibvirt.target_is_here) == [not there, bool(there)]
        assert pair.each(inlibvirt.domain_state) == ["running", ""][::-1 if there else 1]
    assert held(pair.hosts[0]) and here.call(inlibvirt.domain_state) == "running"


def held(host: lab.Host) -> bool:
    """Whether the target has its registrations."""
    return any(store.reservations.registrations for store in host.call(inhost.read_all).backstores)


def test_a_guest_that_is_saved_comes_back_on_its_host_alone(pair: Pair) -> None:
    """A minute: `virsh save`, and managed save; another host says why not."""
    image = str(pair.bed.shared / "saved")
    assert pair.virsh(0, "define", data=inlibvirt.xml()) == (0, ""), pair.told()
    assert pair.virsh(0, "start", GUEST) == (0, "")
    assert pair.virsh(0, "save", GUEST, image) == (0, "")
    code, said = pair.virsh(1, "restore", image)
    assert code == 1 and "vm1 can't start here: this host has no" in said, said
    assert pair.virsh(0, "restore", image) == (0, ""), pair.told()
    assert pair.virsh(0, "managedsave", GUEST) == (0, "")
    assert pair.virsh(0, "start", GUEST) == (0, ""), pair.told()
    assert pair.each(inlibvirt.domain_state) == ["running", ""]
    assert pair.each(inlibvirt.state) == ["", ""]


def test_a_snapshot_is_of_the_guest_on_its_host(pair: Pair) -> None:
    """Two minutes: with its memory, within its disk and in files; libvirt migrates no guest that
    has one."""
    disk = "/var/lib/libvirt/qemu/disk"
    pair.systemd[0].call(inlibvirt.make_disk, disk)
    assert pair.virsh(0, "define", data=inlibvirt.xml(disk=disk)) == (0, ""), pair.told()
    assert pair.virsh(0, "start", GUEST) == (0, "")
    code, said = pair.virsh(0, "snapshot-create-as", GUEST, "inside")
    assert code == 0, (said, pair.told())
    code, said = pair.migrate(0)
    assert code == 1 and "snapshot" in said, said
    code, said = pair.virsh(0, "snapshot-revert", GUEST, "inside")
    assert code == 0, (said, pair.told())
    assert pair.systemd[0].call(inlibvirt.domain_state) == "running"
    assert pair.virsh(0, "snapshot-delete", GUEST, "inside")[0] == 0
    code, said = pair.virsh(0, "snapshot-create-as", GUEST, "beside", "--memspec",
                            f"file={disk}.memory,snapshot=external", "--live")
    assert code == 0, (said, pair.told())
    assert pair.each(inlibvirt.domain_state) == ["running", ""]
    assert pair.each(inlibvirt.state) == ["", ""] and pair.each(inlibvirt.target_is_here) == [
        True, False]
    told = pair.systemd[0].call(inlibvirt.told, HELPER)
    assert told.count("no handover: the guest stays on this host") == 2
    assert "vm1 stays on this host: nothing is done" in told


def test_a_switch_that_fails_leaves_the_guest_where_it_was(pair: Pair) -> None:
    """A minute: b's helper is gone when QEMU asks for it, after the target was staged."""
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    pair.systemd[1].call(
        inlibvirt.add_hook, f'[ "$2" != started ] || systemctl stop --no-block {HELPER}')
    code, said = pair.migrate(0)
    pair.systemd[1].call(inlibvirt.remove_hook)
    assert code == 1, said
    # virsh has QEMU's words where libvirtd heard of its end first; its log has them always.
    assert "Required VMState Id are missing" in pair.systemd[1].run(
        "cat", f"/var/log/libvirt/qemu/{GUEST}.log"), (said, pair.told())
    pair.until(inlibvirt.state, "idle", "none")
    pair.until(inlibvirt.domain_state, "running", "")
    assert pair.each(inlibvirt.target_is_here) == [True, False]
    assert "runs here again: the migration failed or was cancelled" in pair.systemd[0].call(
        inlibvirt.told, HELPER)


def test_what_the_manual_has_a_newcomer_type(pair: Pair) -> None:
    """A minute and a half: docs/operations/live-migration.md, libvirt, step by step."""
    manual = (CHECKOUT / "docs/operations/live-migration.md").read_text()
    section = manual.split("\n## libvirt\n")[1].split("\n### ")[0].replace(
        "vhost/naa.5001405000000001", inhandover.TARGET)
    files = re.findall(r"`(/etc/\S+\.conf)`(?:(?!```).)*```\n(.*?)```", section, re.S)
    commands = re.findall(r"^ *([ab]?)# (.+?)(?: {2,}#.*)?$", section, re.M)
    assert len(files) == 2 and len(commands) == 5, (files, commands)
    more = {"peers.conf": "[hooks]\nhere = {}\ndeadline = 200\n", "vm1.conf": MORE}
    for number, name in enumerate("ab"):
        pair.systemd[number].call(inlibvirt.forget_setup)
        for path, text in files:
            text = textwrap.dedent(text) + more[path.rpartition("/")[2]].format(name)
            pair.hosts[number].call(inlibvirt.write, path, text.replace(
                "    a\n", f"    {'ba'[number]}\n"))

    def type_in(names: str, words: str) -> str:
        done = [pair.call("ab".index(name), inlibvirt.typed, words) for name in names]
        assert all(code == 0 for code, _ in done), (words, done, pair.told())
        return "".join(said for _, said in done)

    for where, words in commands[:2]:
        assert where == ""
        type_in("ab", words)
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    said = {words.split()[0]: type_in(where, words) for where, words in commands[2:]}
    assert inhandover.TARGET in said["lio-handover"] and "APTPL" in said["lio-handover"]
    assert "is staged here" in said["journalctl"]
    assert pair.each(inlibvirt.domain_state) == ["", "running"]
    pair.until(inlibvirt.state, "retired", "confirmed")


def test_the_newest_libvirt_migrates_a_guest_with_its_target_and_back(newest_pair: Pair) -> None:
    """Two minutes: one migration that another program's hook fails, one there, one back."""
    pair = newest_pair
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    assert pair.virsh(0, "version")[1].splitlines()[-1].split()[-1].startswith("11.")
    pair.systemd[1].call(inlibvirt.note_hooks, '[ "$2" != start ] || exit 1')
    code, said = pair.migrate(0)
    assert code == 1 and "Hook script execution failed" in said, said
    pair.until(inlibvirt.state, "idle", "none")
    pair.until(inlibvirt.domain_state, "running", "")
    assert pair.systemd[1].call(inlibvirt.hooks_called) == [
        "migrate begin -", "prepare begin -", "start begin -", "stopped end -",
        "release end failed"]

    for systemd in pair.systemd:
        systemd.call(inlibvirt.note_hooks)
    for source, more, states in ((0, (), ("retired", "confirmed")),
                                 (1, ("--p2p",), ("confirmed", "retired"))):
        code, said = pair.migrate(source, *more)
        assert (code, said) == (0, ""), (said, pair.told())
        pair.until(inlibvirt.state, *states)
        assert pair.each(inlibvirt.target_is_here) == [bool(source), not source]
    came = ["migrate begin -", "prepare begin -", "start begin -", "started begin -"]
    went = ["stopped end -", "release end migrated"]
    assert pair.each(inlibvirt.hooks_called) == [went + came, came + went]
    assert held(pair.hosts[0])
    pair.one_guest()
