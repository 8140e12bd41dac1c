"""The document that travels between two hosts: canonical JSON with a digest.

``dumps`` writes a document and ``loads`` reads one; both validate it by the same rules, so that the
host that makes a document refuses one which could not be imported.  Every fault of the input is a
DocumentError (see errors.py) whose message says where (``$.state.targets[0].wwn``) and never holds
a secret's value.

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

``state`` is the same for the same targets on every host: it has no HBA numbers, no link names, and
one order of its lists.  ``common`` has the attributes in which all objects of a kind agree, where
there are several; an object has only its other attributes.  A state with iSCSI targets has
``discovery_auth``, too; a document without it says nothing about discovery.  Documents hold CHAP
secrets: keep them 0600.

This module turns a Document into JSON objects and back.  envelope.py encodes those as bytes;
json_types.py, values.py and decode.py validate them.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, Mapping, Tuple, Union

from ..errors import BadStructure, BadValue, quoted
from ..model import keys, objects
from ..model.attributes import owner_of
from ..model.objects import Key, State
from ..model.reservations import reservations_tree
from ..system import document_file
from . import collector
from .decode import decode_state, label
from .envelope import (MAX_BYTES, VERSION, body_of, decode, digest_of, digest_told, encode, text_of,
                       with_digest)
from .json_types import (expect_bool, expect_int, expect_list, expect_mapping, expect_name,
                         expect_object, expect_string, expect_text, reject)
from .values import U64, attribute_path

__all__ = ["MAX_BYTES", "VERSION", "Carried", "Document", "Evidence", "Origin", "canonical",
           "check", "digest_told", "dumps", "loads", "encode", "state_bytes"]

Evidence = Mapping[str, Union[str, int, bool]]
#: For so many bytes that are taken, one object or attribute may stand in them; those that objects
#: share stand at each of them.  A document that makes use of that has one in 20 to 60 bytes.
BYTES_OF_AN_OBJECT = 48
#: Marks a State whose lists are in their one order.
_SORTED = "_sorted"
#: A function that gives the attributes which an object does not share with all of its kind.
Own = Callable[[objects.Object], Mapping[str, str]]


@dataclass(frozen=True)
class Origin:
    """The host that made a document: its name, kernel release and boot id."""

    host: str = ""
    kernel: str = ""
    boot_id: str = ""


@dataclass(frozen=True)
class Carried:
    """The handover by file to which a document belongs: its id (a UUID), epoch and targets
    (FABRIC/WWN), as the source named them."""

    id: str
    epoch: int
    targets: Tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """The state of some targets of one host, with the evidence of their storage.

    A document puts its ``state`` into the one order (canonical).  ``storage`` has the evidence of
    each backstore's storage (storage/evidence.py) by the backstore's name (keys.display).
    """

    state: State
    frozen: bool = False
    origin: Origin = Origin()
    storage: Mapping[str, Evidence] = field(default_factory=dict)
    #: sentences for the user: what differs from the source
    notes: Tuple[str, ...] = ()
    version: int = VERSION
    #: empty unless the export froze the targets
    carried: Tuple[Carried, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", canonical(self.state))

    @property
    def targets(self) -> Tuple[str, ...]:
        """FABRIC/WWN of each target."""
        return tuple(target.name for target in self.state.targets)

    def save(self, path: str) -> None:
        """Write the document to a file of mode 0600, whole or not at all.  Raises BadFile, and a
        DocumentError where ``loads`` could not read the document."""
        document_file.write(path, dumps(self))

    def carried_by(self, *handovers: Carried) -> Document:
        """The same document, of these handovers by file; what was judged need not be again."""
        document = replace(self, carried=handovers)
        if "judged" in vars(self):
            vars(document)["judged"] = True
        return document

    @property
    def host(self) -> Dict[str, Mapping[str, str]]:
        """{backstore: its HOST attributes}: compared, never written."""
        return {keys.display(backstore.key): backstore.host for backstore in self.state.backstores
                if backstore.host}

    @cached_property
    def tree(self) -> Dict[str, Any]:
        """The document as JSON objects, without the digest."""
        return _tree(self)

    @cached_property
    def body(self) -> bytes:
        """The document's bytes without the digest."""
        return body_of(self.tree)

    @cached_property
    def digest(self) -> str:
        """64 hex digits; the same for the same document everywhere."""
        return digest_of(self.body)

    @property
    def size(self) -> int:
        """The number of bytes, which may be more than ``loads`` takes."""
        return len(with_digest(self.body, self.digest))

    @cached_property
    def judged(self) -> bool:
        """True where ``loads`` could read the document; raises a DocumentError where not."""
        _document(self.tree)
        return True


# --- writing -------------------------------------------------------------------------------------
def canonical(state: State) -> State:
    """The same state with every list in its one order; registrations keep theirs (READ KEYS).

    A state that this has returned is returned as it is."""
    if vars(state).get(_SORTED):
        return state

    def tpg_in_order(tpg: objects.Tpg) -> objects.Tpg:
        acls = (replace(acl, mapped_luns=tuple(sorted(acl.mapped_luns, key=_number)))
                for acl in tpg.acls)
        return replace(tpg, portals=tuple(sorted(tpg.portals, key=_key)),
                       luns=tuple(sorted(tpg.luns, key=_number)),
                       acls=tuple(sorted(acls, key=_key)))

    in_order = State(
        lu_groups=tuple(sorted(state.lu_groups, key=_key)),
        backstores=tuple(
            replace(backstore, alua_groups=tuple(sorted(backstore.alua_groups, key=_key)))
            if len(backstore.alua_groups) > 1 else backstore
            for backstore in sorted(state.backstores, key=_key)),
        targets=tuple(
            replace(target,
                    tpgs=tuple(sorted(map(tpg_in_order, target.tpgs), key=lambda tpg: tpg.tag)))
            for target in sorted(state.targets, key=_key)),
        discovery_auth=state.discovery_auth)
    vars(in_order)[_SORTED] = True
    return in_order


@collector.paused()
def dumps(document: Document) -> bytes:
    """The document's bytes.

    Raises a DocumentError where ``loads`` would: a document that cannot be read is not written.
    """
    check(document)
    return with_digest(document.body, document.digest)


def check(document: Document) -> None:
    """Validate a document.  Raises the DocumentError that ``dumps`` would."""
    assert document.judged


def state_bytes(document: Document) -> bytes:
    """The bytes of the ``state`` part alone: equal on every host with the same state."""
    return text_of(_state_tree(document.state)).encode("ascii")


def _key(obj: objects.Object) -> Key:
    return obj.key


def _number(lun: Union[objects.Lun, objects.MappedLun]) -> int:
    return lun.number


def _tree(document: Document) -> Dict[str, Any]:
    origin = document.origin
    return {
        "version": document.version,
        "frozen": document.frozen,
        "origin": {"host": origin.host, "kernel": origin.kernel, "boot_id": origin.boot_id},
        "storage": {name: dict(values) for name, values in document.storage.items()},
        "host": {name: dict(values) for name, values in document.host.items()},
        "notes": list(document.notes),
        "state": _state_tree(document.state),
        **({"handovers": [{"id": handover.id, "epoch": handover.epoch,
                           "targets": list(handover.targets)}
                          for handover in document.carried]} if document.carried else {}),
    }


def _state_tree(state: State) -> Dict[str, Any]:
    common = _common(state)

    def own(obj: objects.Object) -> Mapping[str, str]:
        shared = None if _bare(obj) else common.get(label(obj.kind, owner_of(obj.key)))
        return dict(obj.attributes.items() - shared.items()) if shared else obj.attributes

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


def _bare(obj: objects.Object) -> bool:
    """Whether an object has no attributes yet: a LUN, or mapped LUN, without its link."""
    return isinstance(obj, objects.Lun) and obj.backstore is None \
        or isinstance(obj, objects.MappedLun) and obj.lun is None


def _backstore_tree(backstore: objects.Backstore, own: Own) -> Dict[str, Any]:
    return {
        "plugin": backstore.plugin, "name": backstore.name,
        "parameters": backstore.parameters, "attributes": own(backstore),
        "alua_groups": [{"name": group.name, "attributes": own(group)}
                        for group in backstore.alua_groups],
        "reservations": reservations_tree(backstore.reservations),
    }


def _tpg_tree(tpg: objects.Tpg, own: Own) -> Dict[str, Any]:
    return {
        "tag": tpg.tag, "attributes": own(tpg),
        "portals": [{"address": portal.address, "attributes": own(portal)}
                    for portal in tpg.portals],
        "luns": [{"number": lun.number, "attributes": own(lun),
                  "backstore": None if lun.backstore is None else keys.display(lun.backstore)}
                 for lun in tpg.luns],
        "acls": [{"initiator": acl.initiator, "attributes": own(acl),
                  "mapped_luns": [{"number": lun.number, "lun": lun.lun, "attributes": own(lun)}
                                  for lun in acl.mapped_luns]}
                 for acl in tpg.acls],
    }


# --- reading -------------------------------------------------------------------------------------
@collector.paused()
def loads(data: bytes, limit: int = MAX_BYTES) -> Document:
    """The document in ``data``.  Raises a DocumentError, and nothing else, for any other bytes."""
    return _document(decode(data, limit), limit)


def _document(tree: Any, limit: int = MAX_BYTES) -> Document:
    carried: Tuple[Carried, ...] = ()
    if type(tree) is dict and "handovers" in tree:
        carried = tuple(_carried(handover, at)
                        for at, handover in expect_list(tree["handovers"], "$.handovers"))
        tree = {name: member for name, member in tree.items() if name != "handovers"}
    top = expect_object(tree, "$", "version", "frozen", "origin", "storage", "host", "notes",
                        "state")
    where = expect_object(top["origin"], "$.origin", "host", "kernel", "boot_id")
    origin = Origin(*(expect_text(where[name], f"$.origin.{name}", 255)
                      for name in ("host", "kernel", "boot_id")))
    host = {name: _host(attributes, f"$.host[{quoted(name)}]")
            for name, attributes in expect_mapping(top["host"], "$.host").items()}
    state = decode_state(top["state"], "$.state", max(limit // BYTES_OF_AN_OBJECT, 1024), host)
    storage = {name: _evidence(evidence, f"$.storage[{quoted(name)}]")
               for name, evidence in expect_mapping(top["storage"], "$.storage").items()}
    names = {keys.display(backstore.key) for backstore in state.backstores}
    for member, about in (("storage", storage), ("host", host)):
        if not about.keys() <= names:
            reject(BadStructure, f"$.{member} is about {quoted(min(about.keys() - names))}, which "
                   "is no backstore of it")
    notes = tuple(expect_text(note, at) for at, note in expect_list(top["notes"], "$.notes"))
    return Document(state, expect_bool(top["frozen"], "$.frozen"), origin, storage, notes,
                    carried=carried)


def _carried(value: Any, where: str) -> Carried:
    members = expect_object(value, where, "id", "epoch", "targets")
    name = expect_string(members["id"], f"{where}.id")
    if not re.fullmatch(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", name):
        reject(BadValue, f"{where}.id is no UUID in small letters")
    targets = tuple(expect_text(name, at, 300)
                    for at, name in expect_list(members["targets"], f"{where}.targets"))
    if not targets:
        reject(BadStructure, f"{where}.targets is empty")
    return Carried(name, expect_int(members["epoch"], f"{where}.epoch", 1, (1 << 53) - 1), targets)


def _host(value: Any, where: str) -> Dict[str, str]:
    attributes: Dict[str, str] = {}
    for path, text in expect_mapping(value, where).items():
        at = f"{where}[{quoted(path)}]"
        attribute_path(path, at)
        attributes[path] = expect_text(text, at)
    return attributes


def _evidence(value: Any, where: str) -> Dict[str, Union[str, int, bool]]:
    evidence: Dict[str, Union[str, int, bool]] = {}
    for name, fact in expect_mapping(value, where).items():
        at = f"{where}[{quoted(name)}]"
        expect_name(name, at, 63)
        if isinstance(fact, bool):
            evidence[name] = fact
        elif isinstance(fact, int):
            evidence[name] = expect_int(fact, at, 0, U64)
        else:
            evidence[name] = expect_text(fact, at)
    return evidence
