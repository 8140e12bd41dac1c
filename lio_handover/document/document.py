"""What travels between two hosts: canonical JSON, sealed by a digest, believed in nothing.

``dumps`` writes it and ``loads`` reads it; both judge it by the same rules, so that a document
which can't be imported is found out on the host where it is made.  Whatever is wrong with the
input is a DocumentError (see errors.py) whose message says where (``$.state.targets[0].wwn``)
and never holds a secret's value.

The bytes are UTF-8 (ASCII, in fact), keys sorted, a line for each object, ending in a newline.
``digest`` is their first member, the SHA-256 of all the others::

    {
     "digest": "…64 hex digits…",
     "frozen": true,
     "host": {"fileio/disk0": {"attrib/hw_block_size": "512"}},
     "notes": [],
     "origin": {"boot_id": "…", "host": "…", "kernel": "…"},
     "state": {"backstores": […], "common": {"backstore/fileio": {…}, …}, "lu_groups": […],
               "targets": […]},
     "storage": {"fileio/disk0": {"kind": "file", "size": 67108864, …}},
     "version": 1
    }

``state`` says the same of the same thing on every host: no HBA numbers, no link names, no order
in which a host happened to be walked.  ``common`` has the attributes in which all objects of a
kind agree, where there are several; with an object stand its own.  Where it has iSCSI targets
there is ``discovery_auth`` in it, too, but for documents made before that was carried: then
nothing is known of it.  Documents hold CHAP secrets: keep them 0600.

Here a Document becomes JSON objects and comes back; the bytes of those are made and opened in
envelope.py, and what they may say is judged in json_types.py, values.py and decode.py.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, Iterable, Mapping, Set, Tuple, Union

from ..errors import BadStructure, BadValue
from ..model import objects
from ..model.attributes import owner_of
from ..model.objects import Key, State
from ..system import document_file
from .decode import label, state_of
from .envelope import MAX_BYTES, VERSION, body_of, decode, digest_of, encode, text_of, with_digest
from .json_types import (an_object, any_object, entries, fail, plain_name, plain_text, show, string,
                         true_or_false, whole)
from .values import U64, attribute_path

__all__ = ["MAX_BYTES", "VERSION", "Carried", "Document", "Evidence", "Origin", "canonical",
           "check", "dumps", "loads", "encode", "state_bytes"]

Evidence = Mapping[str, Union[str, int, bool]]
#: Marks a State whose lists are in their one order.
_SORTED = "_sorted"
#: The attributes of an object which stand with it, not with what is common to its kind.
Own = Callable[[objects.Object], Mapping[str, str]]


@dataclass(frozen=True)
class Origin:
    """Where a document was made."""

    host: str = ""
    kernel: str = ""
    boot_id: str = ""


@dataclass(frozen=True)
class Carried:
    """The handover by file that a document is of: its id, epoch and targets, as the source named
    them."""

    id: str
    epoch: int
    targets: Tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """What one host says it serves.

    ``state`` is put in its one order when a document is made of it (canonical).
    ``storage`` is the evidence of what each backstore opens (storage_evidence), by the
    backstore's name as model.say gives it.
    """

    state: State
    frozen: bool = False
    origin: Origin = Origin()
    storage: Mapping[str, Evidence] = field(default_factory=dict)
    #: what the source has to tell of what is not quite as it was there
    notes: Tuple[str, ...] = ()
    version: int = VERSION
    #: none where it was not exported of targets that were frozen for it
    carried: Tuple[Carried, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", canonical(self.state))

    @property
    def targets(self) -> Tuple[str, ...]:
        """FABRIC/WWN of each."""
        return tuple(target.name for target in self.state.targets)

    def save(self, path: str) -> None:
        """Write it to a file of mode 0600, whole or not at all.  Raises BadFile, and a
        DocumentError where ``loads`` could not read it."""
        document_file.write(path, dumps(self))

    @property
    def host(self) -> Dict[str, Mapping[str, str]]:
        """{backstore: its HOST attributes}: compared, never written."""
        return {objects.say(backstore.key): backstore.host for backstore in self.state.backstores
                if backstore.host}

    @cached_property
    def tree(self) -> Dict[str, Any]:
        """What JSON is made of."""
        return _tree(self)

    @cached_property
    def body(self) -> bytes:
        """All of its bytes but for the digest."""
        return body_of(self.tree)

    @cached_property
    def digest(self) -> str:
        """64 hex digits; the same for the same document everywhere."""
        return digest_of(self.body)

    @property
    def size(self) -> int:
        """How many bytes it has, though ``loads`` may not take them."""
        return len(with_digest(self.body, self.digest))

    @cached_property
    def judged(self) -> bool:
        """True where it can be read again, else a DocumentError."""
        _document(self.tree)
        return True


# --- writing -------------------------------------------------------------------------------------
def canonical(state: State) -> State:
    """The same state with every list in its one order; registrations keep theirs (READ KEYS).

    A state that this has returned is returned as it is."""
    if vars(state).get(_SORTED):
        return state

    def tpg(one: objects.Tpg) -> objects.Tpg:
        acls = (replace(acl, mapped_luns=tuple(sorted(acl.mapped_luns, key=_number)))
                for acl in one.acls)
        return replace(one, portals=tuple(sorted(one.portals, key=_key)),
                       luns=tuple(sorted(one.luns, key=_number)),
                       acls=tuple(sorted(acls, key=_key)))

    in_order = State(
        lu_groups=tuple(sorted(state.lu_groups, key=_key)),
        backstores=tuple(
            replace(backstore, alua_groups=tuple(sorted(backstore.alua_groups, key=_key)))
            for backstore in sorted(state.backstores, key=_key)),
        targets=tuple(
            replace(target, tpgs=tuple(sorted(map(tpg, target.tpgs), key=lambda tpg: tpg.tag)))
            for target in sorted(state.targets, key=_key)),
        discovery_auth=state.discovery_auth)
    vars(in_order)[_SORTED] = True
    return in_order


def dumps(document: Document) -> bytes:
    """The document's bytes.

    Raises a DocumentError where ``loads`` would: what can't be read is not written.
    """
    check(document)
    return with_digest(document.body, document.digest)


def check(document: Document) -> None:
    """Raises the DocumentError that ``dumps`` would."""
    assert document.judged


def state_bytes(document: Document) -> bytes:
    """The ``state`` part alone, as bytes: equal wherever the same thing is served."""
    return text_of(_state_tree(document.state)).encode("ascii")


def _key(one: objects.Object) -> Key:
    return one.key


def _number(one: Union[objects.Lun, objects.MappedLun]) -> int:
    return one.number


def _tree(document: Document) -> Dict[str, Any]:
    origin = document.origin
    return {
        "version": document.version,
        "frozen": document.frozen,
        "origin": {"host": origin.host, "kernel": origin.kernel, "boot_id": origin.boot_id},
        "storage": {name: dict(one) for name, one in document.storage.items()},
        "host": {name: dict(one) for name, one in document.host.items()},
        "notes": list(document.notes),
        "state": _state_tree(document.state),
        **({"handovers": [{"id": one.id, "epoch": one.epoch, "targets": list(one.targets)}
                          for one in document.carried]} if document.carried else {}),
    }


def _state_tree(state: State) -> Dict[str, Any]:
    common = _common(state)

    def own(one: objects.Object) -> Mapping[str, str]:
        shared = None if _bare(one) else common.get(label(one.kind, owner_of(one.key)))
        return dict(one.attributes.items() - shared.items()) if shared else one.attributes

    discovery = state.discovery_auth
    return {
        **({"discovery_auth": discovery.attributes} if discovery else {}),
        "common": common,
        "lu_groups": [{"name": group.name, "attributes": own(group)} for group in state.lu_groups],
        "backstores": [_backstore_tree(backstore, own) for backstore in state.backstores],
        "targets": [{"fabric": target.fabric, "wwn": target.wwn, "attributes": own(target),
                     "tpgs": [_tpg_tree(tpg, own) for tpg in target.tpgs]}
                    for target in state.targets],
    }


def _common(state: State) -> Dict[str, Dict[str, str]]:
    """{kind of object: the attributes that all of them have}, where there are several."""
    first: Dict[str, Mapping[str, str]] = {}
    common: Dict[str, Dict[str, str]] = {}
    for obj in state.objects():
        if _bare(obj):
            continue
        kind = label(obj.kind, owner_of(obj.key))
        known = common.get(kind)
        if known is None:
            if kind not in first:
                first[kind] = obj.attributes
                continue
            known = dict(first[kind])
        if known and known != obj.attributes:
            known = {name: value for name, value in known.items()
                     if obj.attributes.get(name) == value}
        common[kind] = known
    return {kind: known for kind, known in common.items() if known}


def _bare(one: objects.Object) -> bool:
    """Whether it has no attributes yet: a LUN, or mapped LUN, without its link."""
    return isinstance(one, objects.Lun) and one.backstore is None \
        or isinstance(one, objects.MappedLun) and one.lun is None


def _backstore_tree(one: objects.Backstore, own: Own) -> Dict[str, Any]:
    held = one.reservations
    return {
        "plugin": one.plugin, "name": one.name,
        "parameters": one.parameters, "attributes": own(one),
        "alua_groups": [{"name": group.name, "attributes": own(group)}
                        for group in one.alua_groups],
        "reservations": {
            "generation": held.generation, "aptpl": held.aptpl, "type": held.type,
            "holder": held.holder,
            "registrations": [{
                "initiator": registration.initiator, "isid": registration.isid,
                "key": f"0x{registration.key:016x}",
                "fabric": registration.fabric, "target": registration.target,
                "tpgt": registration.tpgt,
                "lun": registration.lun, "mapped_lun": registration.mapped_lun,
                "all_tg_pt": registration.all_tg_pt,
            } for registration in held.registrations]},
    }


def _tpg_tree(one: objects.Tpg, own: Own) -> Dict[str, Any]:
    return {
        "tag": one.tag, "attributes": own(one),
        "portals": [{"address": portal.address, "attributes": own(portal)}
                    for portal in one.portals],
        "luns": [{"number": lun.number, "attributes": own(lun),
                  "backstore": None if lun.backstore is None else objects.say(lun.backstore)}
                 for lun in one.luns],
        "acls": [{"initiator": acl.initiator, "attributes": own(acl),
                  "mapped_luns": [{"number": lun.number, "lun": lun.lun, "attributes": own(lun)}
                                  for lun in acl.mapped_luns]}
                 for acl in one.acls],
    }


# --- reading -------------------------------------------------------------------------------------
def loads(data: bytes, limit: int = MAX_BYTES) -> Document:
    """The document in ``data``.  Raises a DocumentError, and nothing else, for any other bytes."""
    return _document(decode(data, limit))


def _document(tree: Any) -> Document:
    carried: Tuple[Carried, ...] = ()
    if type(tree) is dict and "handovers" in tree:
        carried = tuple(_carried(one, at) for at, one in entries(tree["handovers"], "$.handovers"))
        tree = {name: one for name, one in tree.items() if name != "handovers"}
    top = an_object(tree, "$", "version", "frozen", "origin", "storage", "host", "notes", "state")
    where = an_object(top["origin"], "$.origin", "host", "kernel", "boot_id")
    origin = Origin(*(plain_text(where[name], f"$.origin.{name}", 255)
                      for name in ("host", "kernel", "boot_id")))
    state = state_of(top["state"], "$.state")
    names = {objects.say(backstore.key) for backstore in state.backstores}
    storage = {name: _evidence(one, at) for name, at, one in
               _about(top["storage"], "$.storage", names)}
    host: Dict[str, Dict[str, str]] = {}
    for name, at, one in _about(top["host"], "$.host", names):
        host[name] = {}
        for path, text in any_object(one, at).items():
            attribute_path(path, f"{at}[{show(path)}]")
            host[name][path] = plain_text(text, f"{at}[{show(path)}]")
    state = replace(state, backstores=tuple(
        replace(backstore, host=host.get(objects.say(backstore.key), {}))
        for backstore in state.backstores))
    notes = tuple(plain_text(one, at) for at, one in entries(top["notes"], "$.notes"))
    return Document(state, true_or_false(top["frozen"], "$.frozen"), origin, storage, notes,
                    carried=carried)


def _carried(value: Any, where: str) -> Carried:
    one = an_object(value, where, "id", "epoch", "targets")
    name = string(one["id"], f"{where}.id")
    if not re.fullmatch(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", name):
        fail(BadValue, f"{where}.id is no UUID in small letters")
    targets = tuple(plain_text(each, at, 300)
                    for at, each in entries(one["targets"], f"{where}.targets"))
    if not targets:
        fail(BadStructure, f"{where}.targets is empty")
    return Carried(name, whole(one["epoch"], f"{where}.epoch", 1, (1 << 53) - 1), targets)


def _about(value: Any, where: str, names: Set[str]) -> Iterable[Tuple[str, str, Any]]:
    for name, one in any_object(value, where).items():
        if name not in names:
            fail(BadStructure, f"{where} is about {show(name)}, which is no backstore of it")
        yield name, f"{where}[{show(name)}]", one


def _evidence(value: Any, where: str) -> Dict[str, Union[str, int, bool]]:
    made: Dict[str, Union[str, int, bool]] = {}
    for name, one in any_object(value, where).items():
        at = f"{where}[{show(name)}]"
        plain_name(name, at, 63)
        if isinstance(one, bool):
            made[name] = one
        elif isinstance(one, int):
            made[name] = whole(one, at, 0, U64)
        else:
            made[name] = plain_text(one, at)
    return made
