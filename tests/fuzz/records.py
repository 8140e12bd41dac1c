"""This host's own files, as a disk, another version, an editor or a thief may have left them."""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lio_handover import configuration, errors, settings
from lio_handover.actions import aptpl_copies, savefile_actions
from lio_handover.cli import boot
from lio_handover.handover.engine import HandoverEngine
from lio_handover.host import guests
from lio_handover.host.verbs import HostVerbs
from lio_handover.model.keys import backstore_key
from lio_handover.model.reservations import reservations_tree
from lio_handover.records import pr_record
from lio_handover.records.journal import FOLLOWED, SAVED, Handover, Journal, begun, ids
from lio_handover.records.ownership import OwnershipFile
from lio_handover.records.record_kinds import KINDS, NUMBER_OF, TEXT_OF, TEXTS
from lio_handover.savefile import (outline, parsed, places, rtslib_entries, rtslib_names, save_file,
                                   writers)
from lio_handover.savefile.json_splice import Splice
from lio_handover.settings import Settings
from tests.support import samples

ID = "11111111-0000-4000-8000-000000000000"
TARGET = f"iscsi/{samples.IQN}"
DIGEST = "ab" * 32


@lru_cache(maxsize=None)
def folder() -> Path:
    """This process's folder, which is gone when it ends."""
    import atexit
    path = Path(tempfile.mkdtemp(prefix="fuzz", dir="/dev/shm" if os.path.isdir("/dev/shm")
                                 else None))
    atexit.register(shutil.rmtree, path, True)
    return path


def _written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _same(path: Path, data: bytes) -> None:
    assert path.read_bytes() == data, "reading has changed the file"


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(record, sort_keys=True).encode() + b"\n" for record in records)


# ---- the journal -------------------------------------------------------------------------------
_VALUES: Mapping[Any, Any] = {int: 1, str: "boot", float: 1.5, bool: True, TEXTS: ["a"],
                              TEXT_OF: {"a": "b"}, NUMBER_OF: {"a": 1}}
_NEW = {"record": "new", "version": 1, "role": "source", "mode": "iscsi", "targets": [TARGET],
        "stores": {"fileio/disk0": "serial"}, "maps": [], "local": [], "peer": "b", "at": 1.5}
_GATES = {TARGET: {"1": "1"}}


def _state(state: str, **more: Any) -> Mapping[str, Any]:
    return {"record": "state", "state": state, "epoch": 1, "boot": "boot", "at": 2.5, **more}


def journals() -> Sequence[bytes]:
    """Journals as they are written, and one with a record of each kind."""
    known: Mapping[str, Mapping[str, Any]] = {
        "kept": {"stores": {"a": "s"}, "opened": ""}, "objects": {"inodes": {TARGET: 77}},
        "shutting": {"gates": _GATES}}
    every = [{"record": name, **{member: _VALUES.get(kind) for member, kind in row.members.items()},
              **known.get(name, {})} for name, row in KINDS.items() if name not in ("new", "state")]
    plain = [_NEW, _state("prepared"), {"record": "begin", "verb": "freeze"},
             {"record": "step", "do": "gate close"},
             {"record": "kept", "digest": DIGEST, "stale": False},
             _state("frozen", gates=_GATES, dynamic={TARGET: {"1": ["iqn.x"]}}), {"record": "end"}]
    other = {**_NEW, "role": "destination", "mode": "vhost-inband", "local": [TARGET]}
    return [_lines(plain), _lines([_NEW, *every, _state("released", words=["force"], by="user 0")]),
            _lines([other, _state("staged"), _state("armed"),
                    {"record": "said", "message": "armed", "digest": DIGEST}])]


def read_journal(data: bytes) -> None:
    """Everything that looks at a journal, and changes nothing."""
    directory = str(folder())
    path = _written(f"handovers/{ID}/journal", data)
    try:
        assert begun(directory, ID) == (ID in ids(directory))
        try:
            known = Journal(directory, ID, tolerate_damage=True).handover
        except (errors.JournalBroken, errors.NoSuchHandover):
            known = None
        engine = HandoverEngine(HostVerbs(Settings(state_directory=directory)))
        try:
            listed = engine.list()
        except errors.JournalBroken:
            listed = []
        if known is not None:
            _plain(known)
            assert [handover.id for handover in listed] == [ID]
        Journal(directory, ID)
        if known is not None:
            engine.status(ID)
    finally:
        _same(path, data)


def _plain(handover: Handover) -> None:
    assert handover.role in ("source", "destination") and handover.over in (True, False)
    assert isinstance(handover.epoch, int) and isinstance(handover.since, float)
    for text in (handover.state, handover.mode, handover.boot_id, handover.digest, handover.error,
                 handover.busy, handover.peer, *handover.targets):
        assert type(text) is str, handover


def owners() -> Sequence[bytes]:
    entry = {"epoch": 3, "aborted": 2, "handover": ID, "before": ""}
    return [json.dumps({"version": 1, "targets": {TARGET: entry, "vhost/naa.1": entry}}).encode()]


def read_owners(data: bytes) -> None:
    path = _written("owners/owners.json", data)
    for name, epochs in OwnershipFile(str(path.parent)).load().items():
        assert {type(name), type(epochs.handover), type(epochs.before)} == {str}
        assert {type(epochs.epoch), type(epochs.aborted)} == {int}
    _same(path, data)


def read_boot(data: bytes) -> None:
    """The short answer of `recover --boot`, which is given only where a journal is whole."""
    owner, _, journal = data.partition(b"\n\n")
    where = folder() / "boot"
    _written("boot/owners.json", owner)
    _written(f"boot/handovers/{ID}/journal", journal)
    config = _written("boot/conf", f"[host]\nstate_directory = {where}\n".encode())
    if boot.nothing_to_do(str(config)):
        for name in ids(str(where)):
            Journal(str(where), name)
        for handover in HandoverEngine(HostVerbs(Settings(state_directory=str(where)))).list():
            assert not handover.state or handover.over or handover.state == "idle" \
                or OwnershipFile(str(where)).load()


def boots() -> Sequence[bytes]:
    idle = _lines([_NEW, _state("prepared"), _state("idle")])
    return [owners()[0] + b"\n\n" + journal for journal in (idle, *journals())]


def restored() -> Sequence[bytes]:
    tree = reservations_tree(samples.registrations(3, aptpl=True), key=int)
    return [json.dumps({"version": 1, "boot_id": "boot",
                        "backstores": {"fileio/disk0": tree}}).encode()]


def read_restored(data: bytes) -> None:
    path = _written("restored/restored.json", data)
    for key, reservations in pr_record.load(str(path.parent), "boot").items():
        assert key == backstore_key(*key[1:])
        assert type(reservations.generation) is int and type(reservations.type) is int
        assert reservations.holder is None or reservations.registrations[reservations.holder]
        for registration in reservations.registrations:
            assert {type(registration.initiator), type(registration.isid),
                    type(registration.target)} == {str}
            assert {type(registration.key), type(registration.lun)} == {int}
    _same(path, data)


def _beside(name: str, data: bytes) -> Journal:
    _written(f"beside/handovers/{ID}/journal", journals()[0])
    _written(f"beside/handovers/{ID}/{name}", data)
    return Journal(str(folder() / "beside"), ID)


def followed() -> Sequence[bytes]:
    return [json.dumps({"version": 1, "boot": "boot", "at": 1.5, "kept": DIGEST, "ended": False,
                        "files": {"serial": {"at": 1.5, "mtime": 7, "data": "PR_REG"}}}).encode()]


def read_followed(data: bytes) -> None:
    journal = _beside(FOLLOWED, data)
    copies = aptpl_copies.load(journal)
    assert copies is None or all(isinstance(file.data, bytes) for file in copies.files.values())
    assert "\n" not in aptpl_copies.unread(journal)


def kept_entries() -> Sequence[bytes]:
    return [json.dumps({"version": 1, "files": {"/etc/target/saveconfig.json": ["{}", "{ }"]}})
            .encode()]


def read_kept_entries(data: bytes) -> None:
    for path, (was, now) in savefile_actions._kept(
            SimpleNamespace(journal=_beside(SAVED, data))).items():  # type: ignore[arg-type]
        assert {type(path), type(was), type(now)} == {str}


# ---- settings ----------------------------------------------------------------------------------
SHIPPED = Path(__file__).resolve().parents[2] / "etc" / "lio-handover" / "lio-handover.conf"
_CONF = """\
[storage]
roots =
    /srv
    /mnt/images
devices = /dev/disk/by-id/*
[host]
state_directory = /var/lib/lio-handover
savefiles = /etc/target/saveconfig.json
[limits]
document = 8M
[service]
group = storage
peers = root@b
    c
[late drbd]
paths = /dev/drbd*
acquire = /usr/sbin/drbdadm
    primary
release = /usr/sbin/drbdadm
timeout = 20
[fence]
program = /usr/sbin/fence_ipmilan
timeout = 90
[hooks]
deadline = 30
here = root@b
"""


def configurations() -> Sequence[bytes]:
    return [_CONF.encode(), SHIPPED.read_bytes()]


def read_settings(data: bytes) -> None:
    """The first half is the file, the second a drop-in."""
    main, _, dropin = data.partition(b"[late")
    path = _written("etc/conf", main)
    _written("etc/conf.d/10.conf", b"[late" + dropin if dropin else b"")
    assert configuration.files(str(path))
    settings.load(str(path))


def guest_files() -> Sequence[bytes]:
    return [b"[guest]\ntargets = vhost/naa.5001405000000001 vhost/naa.5001405000000002\n"
            b"id = lio-handover/vm\nbus = unix:path=/run/vm/bus\ndeadline = 10\npatience = 600\n",
            b"[guest]\ntargets =\n  vhost/naa.5001405000000001\nbus = system\n"
            b"allow = all-tg-pt\nmap =\n  rtpi:1=2\nprobe = yes\n"]


def read_guest(data: bytes) -> None:
    path = _written("guests/vm.conf", data)
    assert all("\n" not in line for line in guests.unready(
        ["vhost/naa.5001405000000001"], str(path.parent)))
    guests.load("vm", str(path.parent))


# ---- targetcli's ------------------------------------------------------------------------------
_STATE = samples.iscsi(luns=2, acls=2, chap=True)
_OTHER: Mapping[str, Any] = {
    "fabric": "iscsi", "wwn": "iqn.2026-11.org.example:other", "tpgs": [
        {"tag": 1, "enable": True, "attributes": {}, "parameters": {}, "node_acls": [],
         "portals": [{"ip_address": "[::]", "port": 3260}],
         "luns": [{"alias": "a", "index": 0, "storage_object": "/backstores/fileio/other"}]}]}


def save_files() -> Sequence[Any]:
    """What rtslib 2.1 writes, and what 2.2 adds."""
    old: Mapping[str, Any] = {"fabric_modules": [], "storage_objects": [
        {"attributes": {"block_size": 512}, "dev": "/srv/other.img", "name": "other",
         "plugin": "fileio", "size": 1048576, "wwn": "0ther"},
        *map(rtslib_entries.storage_object, _STATE.backstores)],
        "targets": [_OTHER, *map(rtslib_entries.target, _STATE.targets)]}
    return [old, {**old, "targets": [{**target, "parameters": {"cmd_completion_affinity": "-1"}}
                                     for target in old["targets"]], "from_later": {"kept": [1]}}]


def read_save_file(data: bytes) -> None:
    """Our entries are found, taken out and put in; all other bytes stay, in their order."""
    path = _written("target/saveconfig.json", data)
    before, places.KNOWN = places.KNOWN, (str(path), str(path))
    try:
        save_file.entries([TARGET])
        outline.differences(_STATE.targets)
        save_file.findings([TARGET])
    finally:
        places.KNOWN = before
        _same(path, data)
    content = parsed.read(str(path))[0]
    ours, stores = {TARGET}, {("fileio", "disk0"), ("fileio", "disk1")}
    gone = save_file._ours(content, ours, stores)
    without = save_file._without(ours, stores, content)
    _others_stay(content, without, gone)
    entries = {"storage_objects": [rtslib_entries.storage_object(store)
                                   for store in _STATE.backstores],
               "targets": [rtslib_entries.target(target) for target in _STATE.targets]}
    put = save_file._with(entries, Splice(without, parsed.LISTS))
    added = Splice(put, parsed.LISTS)
    assert any(TARGET in rtslib_names.targets(element.value)
               for element in added.elements("targets"))
    assert save_file._restored(content.text, without, ours, stores,
                               Splice(without, parsed.LISTS)) == content.text
    for element in content.elements("targets"):
        outline.of_entry(element.value)
        rtslib_entries.enabled(element.value)


def _others_stay(content: Splice, text: str, gone: Mapping[str, Sequence[Any]]) -> None:
    after = Splice(text, parsed.LISTS)
    for name in parsed.LISTS:
        starts = {element.start for element in gone[name]}
        assert [content.text_of(element) for element in content.elements(name)
                if element.start not in starts] == [
            after.text_of(element) for element in after.elements(name)], "an entry moved"


def identities() -> Sequence[bytes]:
    return [b'{"/etc/target/saveconfig.json": [1, 2, 3, 4]}']


def read_identities(data: bytes) -> None:
    path = _written("target/savefile-written.json", data)
    _written("target/saveconfig.json", b"{}")
    assert writers.others_write(f"{path.parent}/saveconfig.json", str(path.parent)) in (True, False)


def units() -> Sequence[bytes]:
    return [b"[Unit]\nDescription=Restore\n[Service]\nType=oneshot\n"
            b"ExecStart=/usr/bin/targetctl restore\nExecStop=/usr/bin/targetctl clear\n",
            b"[Service]\nExecStart=\nExecStart=-/usr/bin/targetctl restore \\\n /etc/a.json\n",
            b"[Service]\nExecStart=/usr/bin/targetcli restoreconfig savefile='/etc/a b.json'\n"]


def read_units(data: bytes) -> None:
    path = _written("units/target.service", data)
    before, places.FOLDERS = places.FOLDERS, (str(path.parent),) * 5
    try:
        assert all(type(name) is str for name in places.named(["/etc/mine.json"]))
        places.named()
    finally:
        places.FOLDERS = before
