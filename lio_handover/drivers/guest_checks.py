"""The questions to both QEMUs before a guest moves: a row of CHECKS each, all findings at once.

A check takes what ``ask`` has read of both QEMUs and changes nothing.  QEMU itself looks at little
of this, and late: another machine type, RAM size or number of queues fails the migration when the
guest stands still, and nothing at all compares WWPNs (hw/scsi/vhost-scsi.c has no state of its own
in the stream).
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

from .. import errors
from ..document.json_types import check_fields
from ..protocol.table import DESTINATION, SOURCE
from .qmp import Monitor

#: Capabilities that a live move switches on; those with which a migration is another thing; those
#: of the stream, which both QEMUs have to read alike.
NEEDED = ("events", "return-path", "pause-before-switchover")
UNWANTED = ("postcopy-ram", "x-colo", "background-snapshot", "mapped-ram", "x-ignore-shared",
            "block")
ALIKE = ("multifd", "compress", "rdma-pin-all", "postcopy-preempt", "zero-copy-send",
         "validate-uuid")
#: Properties of vhost-scsi that the guest sees, or that size what QEMU sends of it.  The others
#: (vhostfd, migratable, worker_per_virtqueue, bootindex) are of one host.  A QEMU that does not
#: know one has it off: hotplug came with 10.1, in_order after that.
PROPERTIES = ("boot_tpgt", "num_queues", "virtqueue_size", "seg_max_adjust", "max_sectors",
              "cmd_per_lun", "t10_pi", "hotplug", "event_idx", "indirect_desc", "packed",
              "in_order", "vectors", "iommu_platform", "disable-legacy", "disable-modern", "addr")
#: The parameter `mode`, from QEMU 8.2 on, of a migration that is none of QEMU in place (cpr-reboot,
#: cpr-transfer, cpr-exec).
NORMAL = "normal"
#: Where QEMU keeps the devices that it was given, with an id and without.
PLACES = ("/machine/peripheral", "/machine/peripheral-anon")
DISK, VMSTATE = "vhost-scsi", "dbus-vmstate"
#: The Ids of our own helper's states begin so.
OUR_ID = "lio-handover"


@dataclass
class Qemu:
    """The answers of one QEMU.  ``alike``: what must be the same on both sides, in words →
    value; ``disks``: WWPN → properties; ``vmstates``: (id of the object, its id-list)."""

    status: str
    migration: str
    blocked: Tuple[str, ...]
    alike: Mapping[str, Union[str, int]]
    memory: int
    bandwidth: int
    mode: str
    threads: Tuple[int, ...]
    capabilities: Mapping[str, bool]
    devices: Mapping[str, int]
    disks: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    vmstates: List[Tuple[str, str]] = field(default_factory=list)


def ask(monitor: Monitor) -> Qemu:
    """Raises GuestFailed, also for an answer that nobody knows: the monitor may be anybody's."""
    try:
        qemu = _asked(monitor)
        check_fields(qemu)
        return qemu
    except errors.MISSHAPEN:
        raise errors.GuestFailed(f"{monitor.name} answers with something unknown") from None


def _asked(monitor: Monitor) -> Qemu:
    migrate, cpus = monitor.execute("query-migrate"), monitor.execute("query-cpus-fast")
    memory = monitor.execute("query-memory-size-summary")
    size = memory["base-memory"] + memory.get("plugged-memory", 0)
    parameters = monitor.execute("query-migrate-parameters")
    devices = [device for place in PLACES for device in _children(monitor, place)]
    objects = [(path, kind) for path, kind in _children(monitor, "/objects") if kind == VMSTATE]
    return Qemu(
        monitor.execute("query-status")["status"], migrate.get("status", "none"),
        tuple(migrate.get("blocked-reasons", ())),
        {"architecture": monitor.execute("query-target")["arch"],
         "machine type": _get(monitor, "/machine", "type"), "number of CPUs": len(cpus),
         "CPU model": _get(monitor, cpus[0]["qom-path"], "type"), "RAM size in bytes": size},
        size, parameters.get("max-bandwidth", 0), parameters.get("mode", NORMAL),
        tuple(cpu["thread-id"] for cpu in cpus),
        {row["capability"]: row["state"] for row in
         monitor.execute("query-migrate-capabilities")},
        dict(Counter(kind for _, kind in devices)),
        dict(_disk(monitor, path) for path, kind in devices if kind.startswith(DISK)),
        [(path.rpartition("/")[2], _get(monitor, path, "id-list") or "") for path, _ in objects])


def _children(monitor: Monitor, place: str) -> List[Tuple[str, str]]:
    """(path, type) of the objects below an object."""
    return [(f"{place}/{row['name']}", row["type"][len("child<"):-1])
            for row in monitor.execute("qom-list", {"path": place})
            if row["type"].startswith("child<")]


def _get(monitor: Monitor, path: str, name: str) -> Any:
    return monitor.execute("qom-get", {"path": path, "property": name})


def _disk(monitor: Monitor, path: str) -> Tuple[str, Dict[str, Any]]:
    """(WWPN, the properties that this QEMU knows)."""
    known = {row["name"] for row in monitor.execute("qom-list", {"path": path})}
    return _get(monitor, path, "wwpn"), {
        name: _get(monitor, path, name) for name in ("migratable", *PROPERTIES) if name in known}


class Pair(NamedTuple):
    """Both QEMUs of one guest.  ``moved``: the WWPN of each vhost target of the move → its WWPN on
    the destination."""

    source: Qemu
    destination: Qemu
    moved: Mapping[str, str]

    def of(self, role: str) -> Qemu:
        return self.source if role == SOURCE else self.destination

    def mine(self) -> Iterator[Tuple[str, str]]:
        """The moved WWPNs that this guest has, and what they become."""
        return ((here, there) for here, there in self.moved.items() if here in self.source.disks)


class Check(NamedTuple):
    """``finds``: what of a QEMU, in each element one finding's part of ``words``; ``asks``: by what
    QMP it is known; ``override``: what --allow takes."""

    roles: Tuple[str, ...]
    asks: str
    finds: Callable[[Pair, str], Iterator[str]]
    words: str
    do: str
    override: str = ""


BOTH = (SOURCE, DESTINATION)


# ---- findings ----------------------------------------------------------------------------------
def _stands(pair: Pair, role: str) -> Iterator[str]:
    if pair.source.status != "running":
        yield pair.source.status


def _same(pair: Pair, role: str) -> bool:
    """One QEMU has one set of threads, and is in one state."""
    source, destination = pair.source, pair.destination
    return (source.threads, source.status) == (destination.threads, destination.status)


def _is_source(pair: Pair, role: str) -> Iterator[str]:
    if _same(pair, role):
        yield ""


def _no_wait(pair: Pair, role: str) -> Iterator[str]:
    if pair.destination.status != "inmigrate" and not _same(pair, role):
        yield pair.destination.status


def _not_deferred(pair: Pair, role: str) -> Iterator[str]:
    if pair.destination.status == "inmigrate" and pair.destination.migration != "none":
        yield pair.destination.migration


def _not_migratable(pair: Pair, role: str) -> Iterator[str]:
    for wwpn, properties in pair.of(role).disks.items():
        if not properties.get("migratable"):
            yield wwpn


def _blocked(pair: Pair, role: str) -> Iterator[str]:
    """Without what the row before says better."""
    ours = tuple(_not_migratable(pair, role))
    for reason in pair.of(role).blocked:
        if not (ours and reason.startswith(DISK)):
            yield reason


def _also_has(pair: Pair, role: str) -> Iterator[str]:
    yield from (wwpn for wwpn in pair.source.disks if wwpn not in pair.moved)


def _lacks_disk(pair: Pair, role: str) -> Iterator[str]:
    has = ", ".join(pair.destination.disks) or "none"
    for _, there in pair.mine():
        if there not in pair.destination.disks:
            yield f"{there} (it has {has})"


def _differs(pair: Pair, role: str) -> Iterator[str]:
    for what, here in pair.source.alike.items():
        there = pair.destination.alike.get(what)
        if there != here:
            yield f"{what} is {there}, that of the source {here}"


def _other_devices(pair: Pair, role: str) -> Iterator[str]:
    here, there = Counter(pair.source.devices), Counter(pair.destination.devices)
    lacking, more = " ".join((here - there).elements()), " ".join((there - here).elements())
    if lacking or more:
        yield " and ".join(filter(None, (lacking and f"lacks {lacking}",
                                         more and f"has {more} besides")))


def _other_properties(pair: Pair, role: str) -> Iterator[str]:
    for here, there in pair.mine():
        mine, its = pair.source.disks[here], pair.destination.disks.get(there, {})
        for name in PROPERTIES:
            if its and mine.get(name, False) != its.get(name, False):
                yield (f"{there} has {name}={_said(its.get(name, False))}, that of the source "
                       f"{_said(mine.get(name, False))}")


def _said(value: Any) -> str:
    return {True: "on", False: "off", None: "none"}.get(value, str(value)) \
        if value is None or isinstance(value, bool) else str(value)


def _lacking_capabilities(pair: Pair, role: str) -> Iterator[str]:
    yield from (name for name in NEEDED if name not in pair.of(role).capabilities)


def _unwanted_capabilities(pair: Pair, role: str) -> Iterator[str]:
    yield from (name for name in UNWANTED if pair.of(role).capabilities.get(name))


def _other_mode(pair: Pair, role: str) -> Iterator[str]:
    if pair.of(role).mode != NORMAL:
        yield pair.of(role).mode


def _other_capabilities(pair: Pair, role: str) -> Iterator[str]:
    for name in ALIKE:
        here, there = (side.capabilities.get(name, False)
                       for side in (pair.source, pair.destination))
        if here != there:
            yield f"{name} {_said(there)}, the source {_said(here)}"


def _several_vmstates(pair: Pair, role: str) -> Iterator[str]:
    if len(pair.of(role).vmstates) > 1:
        yield " ".join(name for name, _ in pair.of(role).vmstates)


def _lone_vmstate(pair: Pair, role: str) -> Iterator[str]:
    here, there = pair.source.vmstates, pair.destination.vmstates
    if bool(here) != bool(there):
        yield "lacks the dbus-vmstate object that the source has" if here else \
            "has a dbus-vmstate object, and the source has none"


#: In the order in which they are told.
CHECKS = (
    Check((SOURCE,), "query-status", _stands, "does not run a guest: it is {}",
          "`cont` it first; a target whose guest is off moves by file: freeze, export, import"),
    Check((DESTINATION,), "query-cpus-fast, query-status", _is_source,
          "is the QEMU that runs the guest", "name another one with --guest-there"),
    Check((DESTINATION,), "query-status", _no_wait, "does not wait for a guest: it is {}",
          "start it with -incoming defer -S"),
    Check((DESTINATION,), "query-migrate", _not_deferred,
          "listens for a guest already (its migration is {})",
          "start it with -incoming defer -S, and let this driver say where it listens"),
    Check(BOTH, "qom-get migratable", _not_migratable, "can't migrate its vhost-scsi disk {}",
          "start it with -device vhost-scsi-pci,...,migratable=on"),
    Check(BOTH, "query-migrate", _blocked, "can't be migrated: {}",
          "start it without what blocks it"),
    Check((SOURCE,), "qom-get wwpn", _also_has, "has vhost/{}, too, which would stay behind",
          "name it as well"),
    Check((DESTINATION,), "qom-get wwpn", _lacks_disk, "has no vhost-scsi disk {}",
          "start it with the WWPN that the target has there (--map target:OLD=NEW)"),
    Check((DESTINATION,), "query-target, qom-get type, query-cpus-fast, query-memory-size-summary",
          _differs, "is another machine: its {}", "start both QEMUs alike"),
    Check((DESTINATION,), "qom-list", _other_devices, "has other devices: it {}",
          "start both QEMUs with the same devices"),
    Check((DESTINATION,), "qom-get", _other_properties, "has a disk that the guest sees otherwise: "
          "{}", "start both QEMUs with the same properties"),
    Check(BOTH, "query-migrate-capabilities", _lacking_capabilities, "does not know {}",
          "use a QEMU from 4.1 on"),
    Check(BOTH, "query-migrate-capabilities", _unwanted_capabilities,
          "has {} on, with which nobody could tell when the guest has left",
          "switch it off: migrate-set-capabilities"),
    Check(BOTH, "query-migrate-parameters", _other_mode,
          "would migrate in mode {}, which is another thing",
          "set it to normal: migrate-set-parameters"),
    Check((DESTINATION,), "query-migrate-capabilities", _other_capabilities, "has {}",
          "switch it alike on both: migrate-set-capabilities"),
    Check(BOTH, "qom-list /objects", _several_vmstates, "has several dbus-vmstate objects: {}",
          "leave one: object-del"),
    Check((DESTINATION,), "qom-list /objects", _lone_vmstate,
          "{}: the migration would fail", "have it on both, or on none"),
)


def asks_helpers(qemu: Qemu) -> str:
    """The dbus-vmstate object by which a QEMU asks lio-handover-vmstate while it migrates, or ""
    where it has none.  The helper leaves a handover in one of this driver's modes to the driver
    (vmstate/answers.py: `BESIDE`), so nothing speaks against it as long as it answers."""
    return next((name for name, ids in qemu.vmstates
                 if not ids or any(word.strip().startswith(OUR_ID) for word in ids.split(","))), "")


def findings(pairs: Sequence[Tuple[Mapping[str, str], Pair]], moved: Mapping[str, str]
             ) -> List[errors.Finding]:
    """All that speaks against moving these guests: ({role: name of the QEMU}, both QEMUs) each."""
    against = [errors.Finding(errors.GuestFailed, names[role],
                              check.words.format(errors.shown(part, 400)), check.override, check.do)
               for names, pair in pairs for check in CHECKS for role in check.roles
               for part in check.finds(pair, role)]
    has = [wwpn for _, pair in pairs for wwpn in pair.source.disks]
    for wwpn in moved:
        if has.count(wwpn) != 1:
            against.append(errors.Finding(
                errors.GuestFailed, f"vhost/{wwpn}",
                "is the disk of several guests that were named" if wwpn in has else
                f"no guest that was named has it (they have {', '.join(has) or 'no such disk'})",
                do="name its guest with --guest, and that QEMU's counterpart with --guest-there"))
    return against
