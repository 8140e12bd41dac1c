"""Facts that a host tells only an initiator, asked through a scratch nexus of our own.

Each probe makes its scratch objects by a plan and takes them away by another, also when it fails.
"""
from __future__ import annotations

from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from .. import errors
from ..execute.executor import apply
from ..execute.verify import Scope
from ..kernel.configfs import Configfs
from ..kernel.reader import Reader
from ..kernel.scsi_bus import Drivers, sg_of
from ..model import plugins
from ..model.keys import backstore_key, display, lun_key, target_key, tpg_key
from ..model.objects import Backstore, Key, Lun, State, Target, Tpg
from ..model.plugins import Opens
from ..model.reservations import FullStatusDescriptor
from ..plan.plan import SCRATCH_NEXUS, SCRATCH_TARGET
from ..plan.planner import plan
from ..scsi import cdb, replies
from ..scsi.fingerprint import drain
from ..scsi.sg import Device
from ..scsi.vhost import probe_dirty_logging
from ..system.inotify import Watch

#: Reads, and looks between, by which an access is known to be the backstore's own.
READS = 3


def full_status(fs: Configfs, names: Sequence[Tuple[str, str]]) -> Dict[Key,
                                                                        List[FullStatusDescriptor]]:
    """The answer of READ FULL STATUS (SPC-4 6.15.5) for each backstore of these targets that has
    registrations: all that configfs does not show of them.

    The probe leaves traces: while the scratch nexus is there, initiators see one port more, and up
    to 6.1 the next link of the backstore gets a higher relative port.  Raises CannotRepresent where
    the device does not answer.
    """
    have = Reader(fs, reservations=False).state(names)
    stores = [store for store in have.backstores if _registered(fs, store)]
    if not stores:
        return {}
    with _luns(fs, stores) as paths:
        return {store.key: _ask(store, path) for store, path in zip(stores, paths)}


@contextmanager
def _luns(fs: Configfs, stores: Sequence[Backstore]) -> Iterator[List[str]]:
    """A sg node for each of the backstores, while they are LUNs of this host's own."""
    drivers = Drivers()
    drivers.off()
    try:
        with _scratch(fs, _target("loopback", stores)) as path:
            address = fs.read(f"{path}/tpgt_1/address").strip()
            yield [sg_of(address, number) for number in range(len(stores))]
    finally:
        drivers.on()


def reads(fs: Configfs, names: Sequence[Tuple[str, str]]) -> Dict[Key, Optional[bool]]:
    """Whether what these targets' fileio backstores read from is what their paths lead to, by
    having each read a block while its path is watched; None where that does not tell.

    With the same traces as full_status, and the block is not looked at.
    """
    have = Reader(fs, reservations=False).state(names)
    stores = [store for store in have.backstores if plugins.opened_by(store.plugin) is Opens.FILE]
    if not stores:
        return {}
    with _luns(fs, stores) as paths:
        return {store.key: _reads(store, path) for store, path in zip(stores, paths)}


def _reads(store: Backstore, path: str) -> Optional[bool]:
    if "fd_async_io" in store.parameters:
        return None  # which tells no watcher (target_core_file.c:fd_execute_rw_aio)
    block = int(store.attributes.get("attrib/block_size", "512"))
    read = cdb.read_16(0, 1, block)
    try:
        with Watch(store.path) as watch, Device(path) as device:
            drain(device.execute)
            told = []
            for _ in range(READS):
                watch.accesses()
                if not device.execute(*read).good:
                    return None  # reserved, or not in a state to read
                told.append(watch.accesses())
            quiet = all(watch.accesses() == 0 for _ in range(READS))
    except OSError:
        return None
    return True if all(told) and quiet else False if not any(told) else None


def _registered(fs: Configfs, store: Backstore) -> bool:
    text = fs.read(f"core/{store.hba}/{store.name}/pr/res_pr_registered_i_pts")
    return text.count("\n") > 1 and not text.endswith("None\n")


def _ask(store: Backstore, path: str) -> List[FullStatusDescriptor]:
    with Device(path) as device:
        drain(device.execute)
        result = device.execute(*cdb.read_full_status())
    if not result.good:
        raise errors.CannotRepresent(
            f"{display(store.key)}: READ FULL STATUS answered status {result.status:#x}")
    return list(replies.decode_full_status(result.data).registrations)


def logs_guest_writes(fs: Configfs) -> bool:
    """Whether this kernel's vhost-scsi tells a live migration which guest memory it wrote.

    Found out by function, with a scratch disk in memory: kernels before 6.16 take the feature
    bit and log nothing.
    """
    store = Backstore(backstore_key("rd_mcp", "lio-handover-probe"), {"rd_pages": "16"})
    with _scratch(fs, _target("vhost", [store]), store):
        return probe_dirty_logging(SCRATCH_TARGET[2])


def _target(fabric: str, stores: Sequence[Backstore]) -> Target:
    """A target that nobody else knows, with a LUN for each of the backstores."""
    key = target_key(fabric, SCRATCH_TARGET[2])
    tpg = tpg_key(key, 1)
    return Target(key, {}, (Tpg(tpg, {"nexus": SCRATCH_NEXUS}, luns=tuple(
        Lun(lun_key(tpg, number), store.key) for number, store in enumerate(stores))),))


@contextmanager
def _scratch(fs: Configfs, target: Target, *stores: Backstore) -> Iterator[str]:
    """The target's directory, while it is there.  Nothing else is looked at or touched."""
    want = State((), stores, (target,))
    scope = Scope.of(want)

    def away() -> None:
        now = scope.part_of(scope.read(fs, reservations=False))
        facts = Reader(fs).facts()
        apply(fs, plan(now, State(), facts, fabrics, verify=False), now, facts,
              reservations=False)

    fabrics = Reader(fs).fabrics()
    try:
        away()  # what a probe that was killed has left
        apply(fs, plan(State(), want, Reader(fs).facts(), verify=False, partial=True), State(),
              Reader(fs).facts(), reservations=False)
        yield "/".join(target.key[1:])
    finally:
        try:
            away()
        except BaseException:  # which has put it back
            away()
            raise
