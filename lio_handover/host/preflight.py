"""The findings against a handover: all at once, before the kernel is asked for anything.

Each function looks and returns findings; none raises for what it finds, none changes anything.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

from .. import errors
from ..document import representable
from ..document.document import Document
from ..document.values import admits_nobody
from ..errors import Finding
from ..execute.verify import describe
from ..kernel import dbroot, placement, portals, tcmu
from ..kernel.facts import Facts, kernel_symbols
from ..kernel.reader import Reader
from ..model import attributes, dynamic_acls, fabrics, plugins, pr_texts
from ..model.diff import diff
from ..model.fabrics import Gate
from ..model.keys import backstore_key, display
from ..model.objects import Backstore, Key, State
from ..model.plugins import HCTL, Data, Opens
from ..plan import unit_serials
from ..plan.plan import Plan
from ..settings import Settings
from ..storage import device_limits, exclusive, memory, opened, policy, trusted
from ..storage.block_devices import HostSnapshot


def looks(reader: Reader) -> opened.Looks:
    """The opened files of the host, found out once for all that is looked at together."""
    return placement.remembered(reader.fs, "files", lambda: opened.Looks(asked=reader.asked))


def source(state: State, reader: Reader, settings: Settings) -> List[Finding]:
    """Findings against handing these targets over as they are; ``reader.unsure`` gets sentences on
    facts that could not be known."""
    here = reader.outline(state.backstores)
    elsewhere, reader.unsure = opened.judge(state.backstores, reader.asked, looks(reader))
    return [*twins(state.backstores, here), *elsewhere,
            *trusted.findings(state.backstores, settings.fuse),
            *_unsupported_backstores(state), *_shared_backstores(state, reader),
            *_shared_storage(state, here),
            *unit_serials.findings(state.backstores, here.backstores, reader),
            *_dynamic(state), *_dead_mappings(state), *all_ports(state),
            *dbroot.findings(reader.fs),
            *hidden_reservations(state, errors.CannotRepresent)]


def twins(stores: Iterable[Backstore], here: State) -> Iterator[Finding]:
    """Findings on backstores of ``here`` that share plugin and name with one of ``stores``, in
    another HBA: a kernel's names are unique below an HBA only, a document's are without one."""
    twins: Dict[Key, List[str]] = {}
    for backstore in here.backstores:
        if backstore.name != backstore.key[2]:
            twins.setdefault(backstore_key(backstore.plugin, backstore.name), []).append(
                f"core/{backstore.hba}/{backstore.name}")
    for store in stores:
        paths = twins.get(backstore_key(store.plugin, store.name), ())
        if paths:
            yield Finding(errors.CannotRepresent, display(store.key),
                          f"{' and '.join(paths)} of this host have one name, and nothing but the "
                          "name tells backstores apart in a document",
                          do="remove one of them, and make it again under another name")


def live_migration(logs_guest_writes: bool) -> List[Finding]:
    """Commit "vhost-scsi: log write descriptors" (2025): without it the pages that a READ filled
    after they were copied are missing on the destination."""
    if logs_guest_writes:
        return []
    return [Finding(errors.CannotRepresent, "this kernel",
                    "its vhost-scsi does not log what it writes into a guest's memory: a live "
                    "migration would corrupt the guest", "stopped-guest",
                    "stop the guest before its memory is copied")]


def _unsupported_backstores(state: State) -> Iterator[Finding]:
    for store in state.backstores:
        if store.serial and not pr_texts.has_file(store.serial):
            why = "has a /" if "/" in store.serial else "has more than 249 bytes"
            yield Finding(errors.CannotRepresent, display(store.key),
                          f"its unit serial {errors.one_line(store.serial)} {why}, so the kernel "
                          "can't keep registrations in a file of that name")
        plugin = plugins.of(store.plugin)
        if plugin.data is Data.MEMORY and store.parameters.get("rd_nullio") != "1":
            yield Finding(errors.CannotRepresent, display(store.key),
                          "its data is in this host's memory, and does not go with it", "ramdisk")
        elif plugin.data is Data.HANDLER:
            yield Finding(errors.CannotRepresent, display(store.key),
                          "its data is behind a program in user space: whether all of it is on "
                          "storage, and on the same on both hosts, can't be seen", "unseen-data",
                          "make sure of it with that program")
        elif plugin.opens is Opens.SCSI:
            yield from _pscsi(store)
        if store.attributes.get("attrib/pgr_support") == "0":
            yield Finding(errors.CannotRepresent, display(store.key),
                          "reservations go to the physical device, past LIO, which knows them as "
                          "this host's"
                          + (", and so does ALUA" if plugin.opens is Opens.SCSI else ""),
                          "pgr-passthrough", "let the initiators register again afterwards")
    for target in state.targets:
        if target.fabric not in fabrics.FABRICS:
            yield Finding(errors.CannotRepresent, target.name,
                          f"the {target.fabric} fabric is not handed over yet")


def _pscsi(store: Backstore) -> Iterator[Finding]:
    if HCTL[0] not in store.parameters:
        yield Finding(errors.CannotRepresent, display(store.key),
                      "its HBA is a physical one (hba_mode), whose numbers are of this host alone")
    if not store.path:
        yield Finding(errors.CannotRepresent, display(store.key),
                      "it names no block device (udev_path), so nothing could show that the other "
                      "host has the same")


def untold(state: State, reader: Reader, ask: str = "") -> List[Finding]:
    """Findings on reservations that a freeze would end, or that an export could not tell for
    certain, and on state that it could not carry.  ``ask``: the command that has the devices asked.
    """
    findings = spc2(state, reader)
    if findings:
        return findings
    try:
        now = reader.state([(target.fabric, target.wwn) for target in state.targets])
    except errors.CannotRepresent as error:
        names = " ".join(target.name for target in state.targets)
        return [Finding(errors.CannotRepresent, "an export would be refused", error.what,
                        "unclear", error.do and (ask or f"lio-handover freeze --probe {names}"))]
    return representable.of_state(now)


def spc2(state: State, reader: Reader) -> List[Finding]:
    """A finding on an SPC-2 reservation: it ends with its initiator's session, and no document
    carries it."""
    for store in state.backstores:
        path = f"core/{store.hba}/{store.name}/pr/res_type"
        if reader.fs.exists(path) and reader.fs.read(path).strip() == pr_texts.SPC2:
            return [Finding(errors.CannotRepresent, display(store.key),
                            "an initiator holds an SPC-2 reservation, which ends with its session",
                            "spc2", "let it RELEASE first")]
    return []


def shared(state: State, reader: Reader) -> List[Finding]:
    """Findings on other targets and backstores, which stay, that serve the same storage."""
    return [finding for finding in (*_shared_backstores(state, reader),
                                    *_shared_storage(state, reader.outline(state.backstores)))
            if not finding.override]


def _shared_backstores(state: State, reader: Reader) -> Iterator[Finding]:
    mine = [target.name for target in state.targets]
    others = reader.exporters([store.key for store in state.backstores], mine)
    for key, exporters in others.items():
        names = sorted({*mine, *("/".join(path.split("/")[:2]) for path in exporters)})
        yield Finding(errors.InUse, display(key), "is exported by " + ", ".join(exporters) + " too",
                      do=f"hand those over together with it: {' '.join(names)}")


def _shared_storage(state: State, here: State) -> Iterator[Finding]:
    """Whoever is served by the other backstore would go on writing when this one has moved."""
    mine = {store.key for store in state.backstores}
    served = policy.Served(here, HostSnapshot())
    for store in state.backstores:
        for key in served.sharers_of(store):
            said = f"its storage is that of {display(key)}, too"
            if key not in mine:
                yield Finding(errors.InUse, display(store.key), said,
                              do="hand the targets of both over together, or remove that one")
            elif store.key < key:
                yield Finding(errors.InUse, display(store.key),
                              f"{said}, which does not know of its reservations", "shared-storage")


def _dynamic(state: State) -> Iterator[Finding]:
    """Findings on sessions by a dynamic ACL in a TPG that makes none any more.  A TPG that makes
    them has its sessions carried as explicit ACLs, see dynamic_acls."""
    for target in state.targets:
        for tpg in target.tpgs:
            for name in () if dynamic_acls.generates_acls(tpg) else dynamic_acls.sessions(tpg):
                yield Finding(
                    errors.CannotRepresent, display(tpg.key),
                    f"{name} is there by a dynamic ACL, and generate_node_acls was switched off "
                    "since, so nothing of it is carried and it could not come back",
                    "dynamic-acl", "give it an ACL of its own")


def _dead_mappings(state: State) -> Iterator[Finding]:
    """Findings on mapped LUNs whose LUN was unlinked and linked again: the kernel has forgotten the
    mapping, and its link is still there (target_core_device.c:core_clear_lun_from_tpg).  A document
    carries the mapped LUN without one."""
    for target in state.targets:
        for tpg in target.tpgs:
            for acl in tpg.acls:
                for mapped in acl.mapped_luns:
                    if mapped.dead:
                        yield Finding(
                            errors.CannotRepresent, display(mapped.key),
                            "its LUN was unlinked and linked again since it was mapped, so its "
                            "initiator has no such LUN, and would have none after a move either",
                            "dead-mapping", "unlink it and link it again, or remove it")


def nobody(state: State) -> Tuple[str, ...]:
    """Sentences on ACLs which no initiator can have."""
    return tuple(
        f"{display(acl.key)} admits nobody: the kernel makes an initiator's name small letters, "
        "then looks for its ACL; make it anew in small letters"
        for target in state.targets if fabrics.of(target.fabric).logins for tpg in target.tpgs
        for acl in tpg.acls if admits_nobody(acl.initiator))


def all_ports(state: State) -> List[Finding]:
    """Registrations of which the kernel does not show through which ports they hold."""
    findings = []
    for store in state.backstores:
        unknown = [registration for registration in store.reservations.registrations
                   if registration.all_tg_pt is None]
        if unknown:
            findings.append(Finding(
                errors.CannotRepresent, display(store.key),
                f"the kernel does not show ALL_TG_PT of {len(unknown)} registrations, which is "
                "nearly always 0", "all-tg-pt",
                "ask the device with --probe"))
    return findings


def destination(document: Document, have: State, reader: Reader, facts: Facts,
                settings: Settings, frozen: Sequence[str] = (),
                host: Optional[HostSnapshot] = None) -> List[Finding]:
    """Findings against importing this document here.  ``have``: the parts of it that are here
    already; ``frozen``: the targets of this host whose gates a thaw would open; ``host`` remembers
    what the paths led to."""
    findings: List[Finding] = []
    if not document.frozen:
        findings.append(Finding(
            errors.NotFrozen, _target_names(document.state),
            "the document was exported while the source could still serve it", "not-frozen",
            "freeze and export it on the source"))
    findings += _unsupported_backstores(document.state)
    findings += _already_present(document.state, have, reader)
    findings += _discovery(document.state, have, reader)
    here, snapshot = reader.outline(), host or HostSnapshot()
    served = policy.Served(here, snapshot)
    new = [store for store in document.state.backstores if have.backstore(store.key) is None]
    findings += memory.findings(new, settings.memory_reserve, snapshot)
    not_allowed = set()  # which is not looked at further
    for store in new:
        look = policy.findings_by_name if exclusive.rule_for(settings, store.path) \
            else policy.findings
        against = look(store, document.storage.get(display(store.key), {}), settings, served,
                       snapshot)
        findings += against
        if any(finding.error is errors.StorageNotAllowed for finding in against):
            not_allowed.add(store.key)
    findings += _shared_within_document(State(backstores=tuple(
        store for store in document.state.backstores if store.key not in not_allowed)))
    findings += twins(document.state.backstores, here)
    findings += unit_serials.findings(document.state.backstores)
    findings += handler(document.state, have)
    findings += serials(document.state, here)
    findings += _missing_attributes(document.state)
    findings += [*portals.findings(document.state, have, reader.fs), *dbroot.findings(reader.fs)]
    findings += device_limits.findings(document.state, have, not_allowed | {
        store.key for store in document.state.backstores
        if exclusive.rule_for(settings, store.path)}, document.storage)
    if facts.has_rtpi:
        findings += relative_ports(document.state, reader.relative_ports(frozen))
    else:
        findings += _no_relative_port(document.state)
    return findings


def planned(the_plan: Plan) -> List[Finding]:
    """The changes that the plan cannot make."""
    return list(the_plan.refused)


def _target_names(state: State) -> str:
    return ", ".join(target.name for target in state.targets) or "the document"


def _already_present(want: State, have: State, reader: Reader) -> Iterator[Finding]:
    there = {target.name for target in have.targets}
    linked = {lun.backstore for _, _, lun in have.all_luns()}
    stores = [store for store in have.backstores if store.key not in linked]
    differing: Dict[str, str] = {}
    for change in diff(have, want):
        name = "/".join(change.key[1:3])
        if name in there or change.key[0] == "backstore" and have.backstore(change.key[:3]):
            differing.setdefault(name, describe(change))
    for name, how in differing.items():
        yield Finding(errors.TargetDiffers, name, f"is on this host already and differs: {how}",
                      do="lio-handover diff")
    exporters = reader.exporters([store.key for store in stores])
    for store in stores:
        name = display(store.key)
        if name in differing:
            continue
        if store.key in exporters:
            yield Finding(errors.InUse, name,
                          "is on this host already, exported by " + exporters[store.key][0])
        else:
            yield Finding(
                errors.TargetDiffers, name, "is on this host already, and the kernel does not "
                "tell whether registrations wait in it", do=f"lio-handover remove {name}")


def _shared_within_document(want: State) -> Iterator[Finding]:
    """Two backstores of the document on one storage of this host."""
    served = policy.Served(want)
    for store in want.backstores:
        for key in served.sharers_of(store):
            if store.key < key:
                yield Finding(errors.StorageInUse, display(store.key),
                              f"its storage is that of {display(key)} of the same document, too, "
                              "which does not know of its reservations", "shared-storage")


def handler(want: State, have: State) -> Iterator[Finding]:
    """A tcmu backstore is made where a program serves it; its LUN serves nothing without."""
    stores = [store for store in want.backstores
              if plugins.of(store.plugin).data is Data.HANDLER
              and have.backstore(store.key) is None]
    there = tcmu.handler_listens() if stores else True
    for store in () if there else stores:
        asked = store.attributes.get("attrib/nl_reply_supported") != "-1"
        yield Finding(errors.CannotRepresent, display(store.key),
                      "no program on this host serves tcmu backstores" if there is False else
                      "whether a program on this host serves tcmu backstores can't be told",
                      "" if asked and there is False else "no-handler", "start tcmu-runner")


def _discovery(want: State, have: State, reader: Reader) -> Iterator[Finding]:
    """It is one for all iSCSI targets of the host: only where it is nobody's yet, it is taken."""
    wanted, here = want.discovery_auth, have.discovery_auth
    if wanted is None or here == wanted:
        return
    mine = {target.wwn for target in want.targets}
    others = [wwn for fabric, wwn in reader.target_names() if fabrics.of(fabric).logins
              and wwn not in mine]
    unset = {"enforce_discovery_auth": "0"}
    if here is None or dict(here.attributes) == unset:
        if not others or dict(wanted.attributes) == unset:
            return
        why = f"is not set on this host, whose {others[0]} it would be for, too"
    else:
        why = "differs on this host, and is for all iSCSI targets"
    yield Finding(errors.CannotRepresent, display(wanted.key), why, "discovery-auth",
                  "make it the same on both hosts, or keep this host's with --allow")


def serials(want: State, here: State) -> Iterator[Finding]:
    serials = {store.serial: display(store.key) for store in here.backstores if store.serial}
    for store in want.backstores:
        other = serials.get(store.serial)
        if other and other != display(store.key):
            yield Finding(errors.TargetDiffers, display(store.key),
                          f"its unit serial {store.serial} is that of {other} on this host")


def hidden_reservations(state: State, error: Type[errors.HandoverError]) -> Iterator[Finding]:
    """emulate_pr=0 hides registrations, and keeps them (target_core_configfs.c: res_* show)."""
    for store in state.backstores:
        if store.attributes.get("attrib/emulate_pr") == "0":
            yield Finding(error, display(store.key), "its emulate_pr is 0, so registrations, if "
                          "there are any, can't be seen", "hidden",
                          "write 1 to its attrib/emulate_pr, if it may be so")


def relative_ports(want: State, taken: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Looked at by the kernel only at the very gate (target_core_tpg.c:
    target_tpg_register_rtpi), when it is too late."""
    here: Dict[str, str] = {}
    for target in want.targets:
        for tpg in target.tpgs:
            port = tpg.attributes.get("rtpi", "0")
            if fabrics.gate_of(target.fabric) is not Gate.ENABLE or port == "0" \
                    or tpg.attributes.get("enable") != "1":
                continue
            others = [f"{other} on this host" for other in taken.get(port, ())
                      if not other.startswith(f"{target.name}/")]
            if port in here:
                others.append(f"{here[port]} of the same document")
            here[port] = display(tpg.key)
            for other in others:
                yield Finding(errors.CannotRepresent, display(tpg.key),
                              f"its relative port {port} is taken by {other}, and this kernel "
                              "gives each number once",
                              do=f"--map rtpi:{port}=fresh, if initiators may see other numbers")


def _missing_attributes(want: State) -> Iterator[Finding]:
    """Attributes which this kernel does not have, set to what it does not do without them."""
    asked = [(obj.key, row, value) for obj in want.objects()
             for name, value in obj.attributes.items()
             for row in [attributes.row(obj.kind, attributes.owner_of(obj.key), name)]
             if row is not None and row.symbol and row.path != "rtpi"
             # Symbols of a module that is not loaded yet cannot be known: the import will see.
             and (obj.kind != "acl"
                  or os.path.isdir(f"/sys/module/{fabrics.of(obj.key[1]).module}"))
             and value not in (row.if_absent, *row.unset)]
    there = kernel_symbols({row.symbol for _, row, _ in asked}) if asked else set()
    for key, row, value in asked:
        if row.symbol not in there:
            yield Finding(errors.CannotRepresent, display(key),
                          f"this kernel has no {row.path}, and {value} is not what it does without",
                          do=f"write {row.if_absent} to it on the source, if it may be so"
                          if row.if_absent else "")


def _no_relative_port(want: State) -> Iterator[Finding]:
    """From 6.4 on, vhost and loopback ports have the number 0 until one is written
    (target_core_tpg.c); before, a link always gives one."""
    for target in want.targets:
        for tpg in target.tpgs:
            gated = fabrics.gate_of(target.fabric) is Gate.ENABLE
            if not gated and "rtpi" not in tpg.attributes and any(
                    lun.backstore and "rtpi" not in lun.attributes for lun in tpg.luns):
                yield Finding(errors.CannotRepresent, display(tpg.key),
                              "its relative port is 0, and this kernel gives each at least 1",
                              "relative-port", "set its rtpi on the source")
