"""What travels between two hosts: canonical JSON, sealed by a digest, believed in nothing.

``dumps`` writes it and ``loads`` reads it; both judge it by the same rules, so that a document
which can't be imported is found out on the host where it is made.  Whatever is wrong with the
input is a DocumentError (see errors.py) whose message says where (``$.state.targets[0].wwn``)
and never holds a secret's value.

The bytes are UTF-8 (ASCII, in fact), keys sorted, indented by one, ending in a newline.
``digest`` is their first member, the SHA-256 of all the others::

    {
     "digest": "…64 hex digits…",
     "frozen": true,
     "host": {"fileio/disk0": {"attrib/hw_block_size": "512"}},
     "origin": {"boot_id": "…", "host": "…", "kernel": "…"},
     "state": {"backstores": […], "lu_groups": […], "targets": […]},
     "storage": {"fileio/disk0": {"kind": "file", "size": 67108864, …}},
     "version": 1
    }

``state`` says the same of the same thing on every host: no HBA numbers, no link names, no order
in which a host happened to be walked.  Documents hold CHAP secrets: keep them 0600.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import (Any, Callable, Dict, FrozenSet, Iterable, List, Mapping, NoReturn, Optional,
                    Set, Tuple, Type, Union)

from . import attributes, model
from .errors import (BadDigest, BadName, BadShape, BadValue, DocumentError, Duplicate, NotJson,
                     TooDeep, TooLarge, Truncated, WrongVersion)
from .model import Key, State

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 32  # a document needs 11
MAX_WRITE = 4095  # what one write into configfs takes
U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1

Evidence = Mapping[str, Union[str, int, bool]]


@dataclass(frozen=True)
class Origin:
    """Where a document was made."""

    host: str = ""
    kernel: str = ""
    boot_id: str = ""


@dataclass(frozen=True)
class Document:
    """What one host says it serves.

    ``storage`` is the evidence of what each backstore opens (storage.evidence), by the
    backstore's name as model.say gives it.
    """

    state: State
    frozen: bool = False
    origin: Origin = Origin()
    storage: Mapping[str, Evidence] = field(default_factory=dict)
    version: int = VERSION

    @property
    def host(self) -> Dict[str, Mapping[str, str]]:
        """{backstore: its HOST attributes}: compared, never written."""
        return {model.say(one.key): one.host for one in self.state.backstores if one.host}

    @property
    def digest(self) -> str:
        """64 hex digits; the same for the same document everywhere."""
        return digest_of(_body(_tree(self)))


# --- keys: who an object is ----------------------------------------------------------------------
def lu_group_key(name: str) -> Key:
    return ("lu_group", name)


def alua_group_key(backstore: Key, name: str) -> Key:
    return (*backstore, "alua", name)


def tpg_key(target: Key, tag: int) -> Key:
    return (*target, str(tag))


def portal_key(tpg: Key, address: str) -> Key:
    return (*tpg, "portal", address)


def lun_key(tpg: Key, number: int) -> Key:
    return (*tpg, "lun", str(number))


def acl_key(tpg: Key, initiator: str) -> Key:
    return (*tpg, "acl", initiator)


def mapped_lun_key(acl: Key, number: int) -> Key:
    return (*acl, "lun", str(number))


# --- writing -------------------------------------------------------------------------------------
def canonical(state: State) -> State:
    """The same state with every list in its one order; registrations keep theirs (READ KEYS)."""

    def tpg(one: model.Tpg) -> model.Tpg:
        acls = (replace(acl, mapped_luns=tuple(sorted(acl.mapped_luns, key=_number)))
                for acl in one.acls)
        return replace(one, portals=tuple(sorted(one.portals, key=_key)),
                       luns=tuple(sorted(one.luns, key=_number)),
                       acls=tuple(sorted(acls, key=_key)))

    return State(
        lu_groups=tuple(sorted(state.lu_groups, key=_key)),
        backstores=tuple(
            replace(one, alua_groups=tuple(sorted(one.alua_groups, key=_key)))
            for one in sorted(state.backstores, key=_key)),
        targets=tuple(
            replace(one, tpgs=tuple(sorted(map(tpg, one.tpgs), key=lambda tpg: tpg.tag)))
            for one in sorted(state.targets, key=_key)))


def dumps(document: Document) -> bytes:
    """The document's bytes.

    Raises a DocumentError where ``loads`` would: what can't be read is not written.
    """
    tree = _tree(document)
    _document(tree)
    return seal(tree)


def check(document: Document) -> None:
    """Raises the DocumentError that ``dumps`` would, in a third of its time."""
    _document(_tree(document))


def state_bytes(document: Document) -> bytes:
    """The ``state`` part alone, as bytes: equal wherever the same thing is served."""
    return _text(_state_tree(canonical(document.state))).encode("ascii")


def seal(tree: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a document's JSON objects with the digest they must have.

    Judges nothing: it is how a test, or an operator's script, makes a document of its own.
    """
    body = _body(tree)
    return b'{\n "digest": "%s",\n' % digest_of(body).encode() + body[2:]


def digest_of(body: bytes) -> str:
    import hashlib
    return hashlib.sha256(body).hexdigest()


def _key(one: model.Object) -> Key:
    return one.key


def _number(one: Union[model.Lun, model.MappedLun]) -> int:
    return one.number


def _body(tree: Mapping[str, Any]) -> bytes:
    text = _text({name: value for name, value in tree.items() if name != "digest"})
    return text.encode("ascii")


def _text(tree: Any) -> str:
    from json.encoder import encode_basestring_ascii as quote
    out: List[str] = []
    _render(tree, "\n", out, quote)
    out.append("\n")
    return "".join(out)


def _render(value: Any, line: str, out: List[str], quote: Callable[[str], str]) -> None:
    """Like ``json.dumps(value, indent=1, sort_keys=True)``, in less of its time."""
    if isinstance(value, str):
        out.append(quote(value))
    elif isinstance(value, Mapping):
        opening, inner = "{", line + " "
        for name in sorted(value):
            one = value[name]
            if isinstance(one, str):
                out.append(f"{opening}{inner}{quote(name)}: {quote(one)}")
            else:
                out.append(f"{opening}{inner}{quote(name)}: ")
                _render(one, inner, out, quote)
            opening = ","
        out.append(line + "}" if value else "{}")
    elif isinstance(value, (list, tuple)):
        opening, inner = "[", line + " "
        for one in value:
            out.append(opening + inner)
            _render(one, inner, out, quote)
            opening = ","
        out.append(line + "]" if value else "[]")
    elif value is None or isinstance(value, bool):
        out.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        out.append(str(value))
    else:
        raise BadShape(f"a {type(value).__name__} can't stand in a document")


def _tree(document: Document) -> Dict[str, Any]:
    origin = document.origin
    return {
        "version": document.version,
        "frozen": document.frozen,
        "origin": {"host": origin.host, "kernel": origin.kernel, "boot_id": origin.boot_id},
        "storage": {name: dict(one) for name, one in document.storage.items()},
        "host": {name: dict(one) for name, one in document.host.items()},
        "state": _state_tree(canonical(document.state)),
    }


def _state_tree(state: State) -> Dict[str, Any]:
    return {
        "lu_groups": [{"name": one.name, "attributes": one.attributes}
                      for one in state.lu_groups],
        "backstores": [_backstore_tree(one) for one in state.backstores],
        "targets": [{"fabric": one.fabric, "wwn": one.wwn, "attributes": one.attributes,
                     "tpgs": [_tpg_tree(tpg) for tpg in one.tpgs]} for one in state.targets],
    }


def _backstore_tree(one: model.Backstore) -> Dict[str, Any]:
    held = one.reservations
    return {
        "plugin": one.plugin, "name": one.name,
        "parameters": one.parameters, "attributes": one.attributes,
        "alua_groups": [{"name": group.name, "attributes": group.attributes}
                        for group in one.alua_groups],
        "reservations": {
            "generation": held.generation, "aptpl": held.aptpl, "type": held.type,
            "holder": held.holder,
            "registrations": [{
                "initiator": each.initiator, "isid": each.isid, "key": f"0x{each.key:016x}",
                "fabric": each.fabric, "target": each.target, "tpgt": each.tpgt,
                "lun": each.lun, "mapped_lun": each.mapped_lun, "all_tg_pt": each.all_tg_pt,
            } for each in held.registrations]},
    }


def _tpg_tree(one: model.Tpg) -> Dict[str, Any]:
    return {
        "tag": one.tag, "attributes": one.attributes,
        "portals": [{"address": portal.address, "attributes": portal.attributes}
                    for portal in one.portals],
        "luns": [{"number": lun.number, "attributes": lun.attributes,
                  "backstore": None if lun.backstore is None else model.say(lun.backstore)}
                 for lun in one.luns],
        "acls": [{"initiator": acl.initiator, "attributes": acl.attributes,
                  "mapped_luns": [{"number": lun.number, "lun": lun.lun,
                                   "attributes": lun.attributes} for lun in acl.mapped_luns]}
                 for acl in one.acls],
    }


# --- reading -------------------------------------------------------------------------------------
def loads(data: bytes, limit: int = MAX_BYTES) -> Document:
    """The document in ``data``.  Raises a DocumentError, and nothing else, for any other bytes."""
    if len(data) > limit:
        _fail(TooLarge, f"the document has {len(data)} bytes, more than {limit}")
    tree = _parse(data)
    if not isinstance(tree, dict):
        _fail(BadShape, f"the document is {_a(tree)}, not an object")
    if "version" not in tree:
        _fail(BadShape, "$.version is missing")
    version = tree["version"]
    if type(version) is not int:
        _fail(BadShape, f"$.version is {_a(version)}, not a number")
    if version != VERSION:
        _fail(WrongVersion, f"the document has version {version}, this program knows {VERSION}",
              "use the same lio-handover on both hosts")
    _check_digest(data, tree)
    return _document({name: value for name, value in tree.items() if name != "digest"})


def _fail(error: Type[DocumentError], what: str,
          do: str = "export the document again") -> NoReturn:
    raise error(what, do=do)


def _parse(data: bytes) -> Any:
    import json
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(NotJson, f"the document is not UTF-8 text (byte {error.start})")
    if not text.strip(" \t\r\n"):
        _fail(Truncated, "the document is empty")
    depth, unclosed = _depth(data)
    if depth > MAX_DEPTH:
        _fail(TooDeep, f"the document is nested more than {MAX_DEPTH} deep")
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_int, parse_constant=_constant)
    except RecursionError:
        _fail(TooDeep, f"the document is nested more than {MAX_DEPTH} deep")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        # What is cut off ends inside a string, a word or a number, or where one should begin.
        at_end = error.msg.startswith("Unterminated") or len(text) - error.pos <= 6
        if text[0] == "{" and unclosed and at_end:
            _fail(Truncated, f"the document ends too early ({where})", "copy the document again")
        if re.match(r"[0-9]", text[error.pos - 1:error.pos]):
            _fail(NotJson, f"a number is not written in plain decimal digits ({where})")
        _fail(NotJson, f"the document is not JSON ({where}: {error.msg})")


def _depth(data: bytes) -> Tuple[int, int]:
    """(how deep brackets are nested in JSON, how many are open at its end).

    Of what is not JSON, no less than a parser would go; the count stops above MAX_DEPTH.
    """
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.split(b'"')
    kept = b"".join(strings[::2]).translate(None, _NOT_BRACKETS)
    deepest = depth = 0
    for one in kept:
        depth += 1 if one in b"[{" else -1
        if depth > deepest:
            deepest = depth
            if deepest > MAX_DEPTH:
                break
    return deepest, depth


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _pairs(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: Set[str] = set()
        for name, _ in pairs:
            if name in seen:
                _fail(Duplicate, f"one object of the document has {_show(name)} twice")
            seen.add(name)
    return made


def _int(text: str) -> int:
    if len(text) > 20:
        _fail(BadValue, f"the document has a number of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    _fail(NotJson, f"{text} is not JSON")


def _check_digest(data: bytes, tree: Mapping[str, Any]) -> None:
    digest = tree.get("digest")
    if digest is None:
        _fail(BadShape, "$.digest is missing")
    if not isinstance(digest, str):
        _fail(BadShape, f"$.digest is {_a(digest)}, not a string")
    head = b'{\n "digest": "%s",\n' % digest.encode("ascii", "replace")
    body = b"{\n" + data[len(head):]
    if not data.startswith(head) or digest_of(body) != digest:
        if digest_of(body + b"\n") == digest:
            _fail(Truncated, "the document ends too early (its last newline is missing)",
                  "copy the document again")
        _fail(BadDigest, "the document's digest does not fit: it was changed after it was written",
              "copy or export the document again")


# --- shape: every function takes a JSON value and says where it stands ---------------------------
def _show(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def _a(value: Any) -> str:
    """What kind of JSON value it is; never the value."""
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a string"),
                       (bool, "true or false"), (int, "a number"), (float, "a fraction")):
        if isinstance(value, kind):
            return name
    return "null"


def _object(value: Any, where: str, *names: str) -> Dict[str, Any]:
    """An object with exactly these members."""
    if type(value) is not dict:
        _fail(BadShape, f"{where} is {_a(value)}, not an object")
    if value.keys() != set(names):
        missing = sorted(set(names) - value.keys())
        if missing:
            _fail(BadShape, f"{where}.{missing[0]} is missing")
        _fail(BadShape, f"{where} has a member that this version does not know: "
                        + _show(min(value.keys() - set(names))))
    return value


def _members(value: Any, where: str) -> Dict[str, Any]:
    """An object with any members."""
    if not isinstance(value, Mapping):
        _fail(BadShape, f"{where} is {_a(value)}, not an object")
    return value  # type: ignore[return-value]


def _list(value: Any, where: str) -> Iterable[Tuple[str, Any]]:
    if type(value) is not list:
        _fail(BadShape, f"{where} is {_a(value)}, not a list")
    return ((f"{where}[{number}]", one) for number, one in enumerate(value))


def _number_at(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int:
        _fail(BadShape, f"{where} is {_a(value)}, not a whole decimal number")
    if not low <= value <= high:
        _fail(BadValue, f"{where} is {value}, not {low} to {high}")
    return int(value)


def _bool(value: Any, where: str) -> bool:
    if type(value) is not bool:
        _fail(BadShape, f"{where} is {_a(value)}, not true or false")
    return bool(value)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        _fail(BadShape, f"{where} is {_a(value)}, not a string")
    return value


def _bytes(value: str, where: str, error: Type[DocumentError]) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        _fail(error, f"{where} is not valid UTF-8")


_CONTROL = re.compile("[\x00-\x1f\x7f]")


def _name(value: Any, where: str, longest: int = 255) -> str:
    """The name of one directory or file."""
    name = _string(value, where)
    size = len(_bytes(name, where, BadName))
    wrong = ""
    if not name:
        wrong = "is empty"
    elif name in (".", ".."):
        wrong = "is a directory's own name or its parent's"
    elif "/" in name:
        wrong = "has a /"
    elif "\0" in name:
        wrong = "has a NUL"
    elif "\n" in name:
        wrong = "has a newline"
    elif _CONTROL.search(name):
        wrong = "has a control character"
    elif name != name.strip():
        wrong = "begins or ends with a space"
    elif size > longest:
        wrong = f"has {size} bytes, more than {longest}"
    if wrong:
        _fail(BadName, f"{where}, {_show(name)}, {wrong}")
    return name


def _plain(value: Any, where: str, longest: int = MAX_WRITE) -> str:
    """Text for people, or for comparing, on one line."""
    text = _string(value, where)
    if len(_bytes(text, where, BadValue)) > longest:
        _fail(BadValue, f"{where} is longer than {longest} bytes")
    if _CONTROL.search(text):
        _fail(BadValue, f"{where} has a control character")
    return text


# --- names of the fabrics ------------------------------------------------------------------------
_WWN = {"iscsi": ("iqn.", "eui.", "naa."), "vhost": ("naa.", "fc.", "iqn."),
        "loopback": ("naa.", "fc.", "iqn.")}
_PR_FABRIC = {"iSCSI": "iscsi", "vhost": "vhost", "loopback": "loopback"}
_TAGS = {"iscsi": U16, "vhost": 255, "loopback": 31}
_INITIATOR = 223  # bytes


def _wwn(value: Any, where: str, prefixes: Tuple[str, ...]) -> str:
    name = _name(value, where, _INITIATOR)
    if not name.startswith(prefixes) or name in prefixes:
        _fail(BadName, f"{where}, {_show(name)}, does not begin with {' or '.join(prefixes)}")
    return _without(name, where, ", \t")


def _without(name: str, where: str, marks: str) -> str:
    found = next((mark for mark in marks if mark in name), "")
    if found:
        _fail(BadName, f"{where}, {_show(name)}, has a "
                       + {",": "comma", " ": "space"}.get(found, "mark that ends a name"))
    return name


def _address(value: Any, where: str) -> Tuple[str, Tuple[str, int]]:
    """A portal's name, and what it says: two names of one address are one portal."""
    import ipaddress
    name = _name(value, where)
    found = re.fullmatch(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+(?:%[^\[\]%]+)?)\]):([1-9][0-9]{0,4})",
                         name)
    try:
        if not found:
            raise ValueError
        host = str(ipaddress.IPv4Address(found[1]) if found[1] else
                   ipaddress.IPv6Address(found[2]))
        port = int(found[3])
        if port > U16:
            raise ValueError
    except ValueError:
        _fail(BadName, f"{where}, {_show(name)}, is not ADDRESS:PORT or [ADDRESS]:PORT")
    return name, (host, port)


# --- attributes ----------------------------------------------------------------------------------
_BITS = (0, 1)
_TRUE_FALSE = frozenset("01")
_BACKSTORE_BITS = """emulate_model_alias emulate_dpo emulate_fua_write emulate_fua_read
    emulate_write_cache emulate_tas emulate_tpu emulate_tpws emulate_caw emulate_3pc emulate_pr
    emulate_rsoc enforce_pr_isids force_pr_aptpl pi_prot_verify is_nonrot unmap_zeroes_data
    alua_support pgr_support emulate_rest_reord"""
_TPG_BITS = """authentication generate_node_acls cache_dynamic_acls demo_mode_discovery
    demo_mode_write_protect prod_mode_write_protect t10_pi tpg_enabled_sendtargets
    login_keys_workaround"""
_ALUA_BITS = """alua_support_transitioning alua_support_offline alua_support_unavailable
    alua_support_standby alua_support_active_nonoptimized alua_support_active_optimized
    alua_write_metadata preferred"""


def _ranges() -> Dict[Tuple[str, str], Tuple[int, int]]:
    """(kind, path) → lowest and highest number that the kernel's store functions take."""
    made = {("backstore", "attrib/" + name): _BITS for name in _BACKSTORE_BITS.split()}
    made.update({("tpg", "attrib/" + name): _BITS for name in _TPG_BITS.split()})
    made.update({("alua_group", name): _BITS for name in _ALUA_BITS.split()})
    made.update({
        ("backstore", "attrib/emulate_ua_intlck_ctrl"): (0, 2),
        ("backstore", "attrib/queue_depth"): (1, U32),
        ("lu_group", "lu_gp_id"): (1, U16),
        ("alua_group", "tg_pt_gp_id"): (0, U16),
        ("alua_group", "alua_access_type"): (0, 3),
        ("alua_group", "alua_access_status"): (0, 2),
        ("alua_group", "nonop_delay_msecs"): (0, 10000),
        ("alua_group", "trans_delay_msecs"): (0, 30000),
        ("alua_group", "implicit_trans_secs"): (0, 255),
        ("tpg", "enable"): _BITS,
        ("tpg", "rtpi"): (0, U16),
        ("tpg", "attrib/login_timeout"): (5, 30),
        ("tpg", "attrib/default_erl"): (0, 2),
        ("tpg", "attrib/default_cmdsn_depth"): (1, 512),
        ("portal", "iser"): _BITS,
        ("portal", "cxgbit"): _BITS,
        ("lun", "alua_tg_pt_offline"): _BITS,
        ("lun", "alua_tg_pt_write_md"): _BITS,
        ("lun", "alua_tg_pt_status"): (0, 2),
        ("acl", "cmdsn_depth"): (0, 512),
        ("acl", "attrib/authentication"): (-1, 1),
        ("acl", "attrib/default_erl"): (0, 2),
        ("acl", "attrib/dataout_timeout"): (2, 60),
        ("acl", "attrib/dataout_timeout_retries"): (1, 15),
        ("acl", "attrib/nopin_timeout"): (0, 60),
        ("acl", "attrib/nopin_response_timeout"): (3, 60),
        ("mapped_lun", "write_protect"): _BITS,
    })
    return made


_RANGES = _ranges()
_CHOICES = {
    ("backstore", "attrib/block_size"): frozenset(("512", "1024", "2048", "4096")),
    ("backstore", "attrib/pi_prot_type"): frozenset("013"),
    ("tpg", "attrib/fabric_prot_type"): frozenset("013"),
    ("alua_group", "alua_access_state"): frozenset(("0", "1", "2", "3", "4", "14", "15")),
}
#: (kind, path) → most bytes, without a newline
_LENGTHS = {
    ("backstore", "udev_path"): 510, ("backstore", "alias"): 510,
    ("backstore", "wwn/vendor_id"): 8, ("backstore", "wwn/product_id"): 16,
    ("backstore", "wwn/revision"): 4, ("backstore", "wwn/vpd_unit_serial"): 253,
    ("backstore", "wwn/pd_text_id_info"): 255,
    ("tpg", "auth/userid"): 255, ("tpg", "auth/userid_mutual"): 255,
    ("tpg", "auth/password"): 255, ("tpg", "auth/password_mutual"): 255,
    ("acl", "auth/userid"): 255, ("acl", "auth/userid_mutual"): 255,
    ("acl", "auth/password"): 255, ("acl", "auth/password_mutual"): 255,
    ("acl", "tag"): 63,
}
_NUMERIC = frozenset(("lu_gp_id", "tg_pt_gp_id"))  # RAW, because empty before they are set
_LINES = frozenset(("lba_map",))
_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_COMPANY = re.compile(r"0x[0-9a-f]{6}")
_PRINTABLE = re.compile("[ -~]*")
#: what the product itself does with a backstore; never a value to be carried
_DEEDS = re.compile(r"(?:control|enable|info|pr/.*|statistics/.*)")


def _attributes(value: Any, where: str, kind: str, owner: str = "",
                unlinked: bool = False) -> Dict[str, str]:
    """Attributes of one object: {path: value}.  Those that the table does not know are kept."""
    rows = attributes.rows(kind, owner)
    made: Dict[str, str] = {}
    for path, text in _members(value, where).items():
        row = rows.get(path)
        if row is not None and row.kind != attributes.HOST and type(text) is str:
            # The common case: a small number in its range.
            if row.format is attributes.INT and text.isdigit() and text.isascii() \
                    and len(text) < 10 and (text[0] != "0" or text == "0") \
                    and not row.forbidden and (kind, path) not in _CHOICES:
                low, high = _RANGES.get((kind, path), (0, U32))
                if low <= int(text) <= high:
                    made[path] = text
                    continue
        at = f"{where}[{_show(path)}]"
        text = _string(text, at)
        if row is None:
            made[path] = _unknown(path, text, at, kind)
        elif row.kind == attributes.HOST:
            why = row.source if path.endswith("pi_prot_format") else "it is of the host alone"
            _fail(BadValue, f"{at} is never carried from host to host: {why}")
        else:
            made[path] = _value(row, kind, path, text, at, unlinked)
    return made


def _unknown(path: str, text: str, at: str, kind: str) -> str:
    _path(path, at)
    if kind == "backstore" and _DEEDS.fullmatch(path):
        _fail(BadValue, f"{at} is not an attribute that a document can carry")
    data = _bytes(text, at, BadValue)
    if len(data) >= MAX_WRITE:
        _fail(BadValue, f"{at} has {len(data)} bytes, more than one write takes")
    if b"\0" in data:
        _fail(BadValue, f"{at} has a NUL")
    return model.Secret(text) if path.startswith("auth/") else text


def _path(path: str, at: str) -> None:
    """A path of one or two plain names below an object's directory."""
    words = path.split("/")
    if len(words) > 2:
        _fail(BadName, f"{at} is not the path of an attribute")
    for word in words:
        _name(word, at)


def _value(row: attributes.Attribute, kind: str, path: str, text: str, at: str,
           unlinked: bool) -> str:
    secret = row.kind == attributes.SECRET

    def shown() -> str:
        return "(secret)" if secret else _show(text)

    data = _bytes(text, at, BadValue)
    if b"\0" in data:
        _fail(BadValue, f"{at} has a NUL")
    if "\n" in text and row.format is not attributes.BARE and path not in _LINES:
        _fail(BadValue, f"{at} has a newline")
    longest = _LENGTHS.get((kind, path), MAX_WRITE - row.format.newline)
    if len(data) > longest:
        _fail(BadValue, f"{at} has {len(data)} bytes, more than {longest}")
    why = (row.forbidden or {}).get(text.strip())
    if why:
        _fail(BadValue, f"{at} must never be {_show(text)}: {why}")
    if text in row.unset or (unlinked and not text):
        return text
    choices = _CHOICES.get((kind, path))
    if choices is not None:
        if text not in choices:
            _fail(BadValue, f"{at} is {shown()}, not {', '.join(sorted(choices, key=int))}")
    elif row.format in (attributes.INT, attributes.HEX, attributes.ACCESS_TYPE,
                        attributes.ACCESS_STATUS) or path in _NUMERIC:
        low, high = _RANGES.get((kind, path), (0, U32))
        if not _DECIMAL.fullmatch(text):
            _fail(BadValue, f"{at} is {shown()}, not a plain decimal number")
        if not low <= int(text) <= high:
            _fail(BadValue, f"{at} is {shown()}, not {low} to {high}")
    elif row.format is attributes.COMPANY:
        if not _COMPANY.fullmatch(text):
            _fail(BadValue, f"{at} is {shown()}, not 0x and six hex digits")
    elif path.startswith("wwn/") and not _PRINTABLE.fullmatch(text):
        _fail(BadValue, f"{at} is not printable ASCII")
    return model.Secret(text) if secret else text


# --- objects -------------------------------------------------------------------------------------
def _document(tree: Any) -> Document:
    top = _object(tree, "$", "version", "frozen", "origin", "storage", "host", "state")
    where = _object(top["origin"], "$.origin", "host", "kernel", "boot_id")
    origin = Origin(*(_plain(where[name], f"$.origin.{name}", 255)
                      for name in ("host", "kernel", "boot_id")))
    state = _state(top["state"], "$.state")
    names = {model.say(one.key) for one in state.backstores}
    storage = {name: _evidence(one, at) for name, at, one in
               _about(top["storage"], "$.storage", names)}
    host: Dict[str, Dict[str, str]] = {}
    for name, at, one in _about(top["host"], "$.host", names):
        host[name] = {}
        for path, text in _members(one, at).items():
            _path(path, f"{at}[{_show(path)}]")
            host[name][path] = _plain(text, f"{at}[{_show(path)}]")
    state = replace(state, backstores=tuple(
        replace(one, host=host.get(model.say(one.key), {})) for one in state.backstores))
    return Document(state, _bool(top["frozen"], "$.frozen"), origin, storage)


def _about(value: Any, where: str, names: Set[str]) -> Iterable[Tuple[str, str, Any]]:
    for name, one in _members(value, where).items():
        if name not in names:
            _fail(BadShape, f"{where} is about {_show(name)}, which is no backstore of it")
        yield name, f"{where}[{_show(name)}]", one


def _evidence(value: Any, where: str) -> Dict[str, Union[str, int, bool]]:
    made: Dict[str, Union[str, int, bool]] = {}
    for name, one in _members(value, where).items():
        at = f"{where}[{_show(name)}]"
        _name(name, at, 63)
        if isinstance(one, bool):
            made[name] = one
        elif isinstance(one, int):
            made[name] = _number_at(one, at, 0, U64)
        else:
            made[name] = _plain(one, at)
    return made


def _once(seen: Set[Any], name: Any, where: str, what: str) -> None:
    if name in seen:
        _fail(Duplicate, f"{where} is a second {what}")
    seen.add(name)


def _state(value: Any, where: str) -> State:
    members = _object(value, where, "lu_groups", "backstores", "targets")
    seen: Set[Any] = set()
    lu_groups = tuple(_groups(members["lu_groups"], f"{where}.lu_groups", "lu_group",
                              lu_group_key))
    backstores: Dict[str, model.Backstore] = {}
    for at, one in _list(members["backstores"], f"{where}.backstores"):
        made = _backstore(one, at)
        _once(seen, made.key, at, f"backstore {_show(model.say(made.key))}")
        _group_named(made.attributes.get("alua_lu_gp", ""), lu_groups, "default_lu_gp",
                     f"{at}.attributes['alua_lu_gp']", "LU group of the document")
        backstores[model.say(made.key)] = made
    targets = []
    for at, one in _list(members["targets"], f"{where}.targets"):
        target = _target(one, at, backstores)
        _once(seen, target.key, at, f"target {_show(target.name)}")
        targets.append(target)
    return canonical(State(lu_groups, tuple(backstores.values()), tuple(targets)))


def _group_named(name: str, groups: Iterable[Union[model.LuGroup, model.AluaGroup]],
                 default: str, where: str, what: str) -> None:
    if name not in ("", default) and all(one.name != name for one in groups):
        _fail(BadValue, f"{where}, {_show(name)}, is no {what}")


def _groups(value: Any, where: str, kind: str, key: Callable[[str], Key]) -> Iterable[Any]:
    """LU groups or ALUA groups: unique by name, and by the id that an initiator sees."""
    names: Set[Any] = set()
    ids: Set[Any] = set()
    for at, one in _list(value, where):
        members = _object(one, at, "name", "attributes")
        name = _name(members["name"], f"{at}.name")
        if name == "NULL":
            _fail(BadName, f"{at}.name, 'NULL', is the kernel's word for no group")
        _once(names, name, at, f"group {_show(name)}")
        made = _attributes(members["attributes"], f"{at}.attributes", kind)
        number = made.get("lu_gp_id" if kind == "lu_group" else "tg_pt_gp_id", "")
        if number:
            _once(ids, number, at, f"group with id {number}")
        yield (model.LuGroup if kind == "lu_group" else model.AluaGroup)(key(name), made)


_PARAMETERS: Dict[str, FrozenSet[str]] = {plugin: frozenset(names.split()) for plugin, names in {
    "fileio": "fd_dev_name fd_dev_size fd_buffered_io fd_async_io",
    "iblock": "udev_path readonly exclusive",
    # Not handed over, but named with a reason (preflight): what the kernel says of them.
    "rd_mcp": "info", "pscsi": "info", "user": "info",
}.items()}
_WORDS = {"fd_buffered_io": frozenset("1"), "fd_async_io": frozenset("1"),
          "readonly": _TRUE_FALSE, "exclusive": _TRUE_FALSE}
_BACKING = {"fileio": ("fd_dev_name", 255), "iblock": ("udev_path", 511)}


def _parameters(value: Any, where: str, plugin: str) -> Dict[str, str]:
    """What goes into ``control``: a list of name=value, so that no value can have its marks."""
    made: Dict[str, str] = {}
    for name, text in _members(value, where).items():
        at = f"{where}[{_show(name)}]"
        if name not in _PARAMETERS[plugin]:
            _fail(BadShape, f"{at} is no parameter of {plugin}")
        if name == "info":
            made[name] = _unknown(name, _string(text, at), at, "")
            continue
        text = _plain(text, at)
        if "," in text:
            _fail(BadValue, f"{at} has a comma, which would end it")
        if name in _WORDS and text not in _WORDS[name]:
            _fail(BadValue, f"{at} is {_show(text)}, not {' or '.join(sorted(_WORDS[name]))}")
        if name == "fd_dev_size" and not (_DECIMAL.fullmatch(text) and 0 <= int(text) < 2**63):
            _fail(BadValue, f"{at} is {_show(text)}, not a number of bytes")
        made[name] = text
    if plugin in _BACKING:
        name, longest = _BACKING[plugin]
        if name not in made:
            _fail(BadShape, f"{where}.{name} is missing")
        _backing(made[name], f"{where}[{name!r}]", longest)
    return made


def _backing(path: str, where: str, longest: int) -> None:
    if not path.startswith("/") or path.endswith("/"):
        _fail(BadValue, f"{where}, {_show(path)}, is not the full path of a file or device")
    if len(path.encode()) > longest:
        _fail(BadValue, f"{where} is longer than {longest} bytes")
    if path != path.strip():
        _fail(BadValue, f"{where}, {_show(path)}, ends with a space")
    if {".", ".."} & set(path.split("/")):
        _fail(BadName, f"{where}, {_show(path)}, has a . or .. in it")


def _backstore(value: Any, where: str) -> model.Backstore:
    members = _object(value, where, "plugin", "name", "parameters", "attributes", "alua_groups",
                      "reservations")
    plugin = _name(members["plugin"], f"{where}.plugin")
    if plugin not in _PARAMETERS:
        _fail(BadValue, f"{where}.plugin is {_show(plugin)}, not {', '.join(_PARAMETERS)}")
    key = model.backstore_key(plugin, _name(members["name"], f"{where}.name"))
    return model.Backstore(
        key,
        parameters=_parameters(members["parameters"], f"{where}.parameters", plugin),
        attributes=_attributes(members["attributes"], f"{where}.attributes", "backstore", plugin),
        alua_groups=tuple(_groups(members["alua_groups"], f"{where}.alua_groups", "alua_group",
                                  lambda name: alua_group_key(key, name))),
        reservations=_reservations(members["reservations"], f"{where}.reservations"))


def _reservations(value: Any, where: str) -> model.Reservations:
    members = _object(value, where, "generation", "aptpl", "type", "holder", "registrations")
    found = []
    seen: Set[Any] = set()
    for at, one in _list(members["registrations"], f"{where}.registrations"):
        made = _registration(one, at)
        _once(seen, made.nexus, at, "registration of one nexus")
        found.append(made)
    kind = _number_at(members["type"], f"{where}.type", 0, 8)
    if kind and kind not in model.RESERVATION_TYPES:
        _fail(BadValue, f"{where}.type is {kind}, not 0, "
                        + ", ".join(map(str, model.RESERVATION_TYPES)))
    holder = members["holder"]
    if holder is not None:
        holder = _number_at(holder, f"{where}.holder", 0, U32)
        if holder >= len(found):
            _fail(BadValue, f"{where}.holder is {holder}, there are {len(found)} registrations")
        if not kind:
            _fail(BadValue, f"{where} has a holder and no reservation")
    elif kind in (1, 3, 5, 6):
        _fail(BadValue, f"{where} has a reservation and no holder")
    if kind and not found:
        _fail(BadValue, f"{where} has a reservation and no registration")
    return model.Reservations(
        generation=_number_at(members["generation"], f"{where}.generation", 0, U32),
        aptpl=_bool(members["aptpl"], f"{where}.aptpl"), type=kind, holder=holder,
        registrations=tuple(found))


def _registration(value: Any, where: str) -> model.Registration:
    members = _object(value, where, "initiator", "isid", "key", "fabric", "target", "tpgt", "lun",
                      "mapped_lun", "all_tg_pt")
    fabric = _PR_FABRIC.get(_string(members["fabric"], f"{where}.fabric"), "")
    if not fabric:
        _fail(BadValue, f"{where}.fabric is none of {', '.join(_PR_FABRIC)}")
    key = _string(members["key"], f"{where}.key")
    if not re.fullmatch("0x[0-9a-f]{16}", key) or key == "0x" + 16 * "0":
        _fail(BadValue, f"{where}.key is not 0x and 16 hex digits, or is zero")
    isid = _string(members["isid"], f"{where}.isid")
    if isid and (fabric != "iscsi" or not re.fullmatch("[0-9a-f]{12}", isid)):
        _fail(BadValue, f"{where}.isid is not 12 lowercase hex digits of an iSCSI session")

    def name(field_name: str) -> str:
        at = f"{where}.{field_name}"
        return _without(_name(members[field_name], at, _INITIATOR), at, ", ")

    return model.Registration(
        initiator=name("initiator"), isid=isid, key=int(key, 16), fabric=members["fabric"],
        target=name("target"),
        tpgt=_number_at(members["tpgt"], f"{where}.tpgt", 0, _TAGS[fabric]),
        lun=_number_at(members["lun"], f"{where}.lun", 0, U64),
        mapped_lun=_number_at(members["mapped_lun"], f"{where}.mapped_lun", 0, U64),
        all_tg_pt=_bool(members["all_tg_pt"], f"{where}.all_tg_pt"))


def _target(value: Any, where: str, backstores: Mapping[str, model.Backstore]) -> model.Target:
    members = _object(value, where, "fabric", "wwn", "attributes", "tpgs")
    fabric = _string(members["fabric"], f"{where}.fabric")
    if fabric not in _WWN:
        _fail(BadValue, f"{where}.fabric is {_show(fabric)}, not {', '.join(_WWN)}")
    wwn = _wwn(members["wwn"], f"{where}.wwn", _WWN[fabric])
    key = model.target_key(fabric, wwn)
    tags: Set[Any] = set()
    addresses: Set[Any] = set()
    tpgs = []
    for at, one in _list(members["tpgs"], f"{where}.tpgs"):
        tpg = _tpg(one, at, key, fabric, backstores, addresses)
        _once(tags, tpg.tag, at, f"TPG {tpg.tag}")
        tpgs.append(tpg)
    return model.Target(key, _attributes(members["attributes"], f"{where}.attributes", "target",
                                         fabric), tuple(tpgs))


def _tpg(value: Any, where: str, target: Key, fabric: str,
         backstores: Mapping[str, model.Backstore], addresses: Set[Any]) -> model.Tpg:
    members = _object(value, where, "tag", "attributes", "portals", "luns", "acls")
    key = tpg_key(target, _number_at(members["tag"], f"{where}.tag", 0, _TAGS[fabric]))
    made = _attributes(members["attributes"], f"{where}.attributes", "tpg", fabric)
    if made.get("nexus"):
        _wwn(made["nexus"], f"{where}.attributes['nexus']", _WWN[fabric])
    portals = []
    for at, one in _list(members["portals"], f"{where}.portals"):
        if fabric != "iscsi":
            _fail(BadValue, f"{at}: only iSCSI has portals")
        each = _object(one, at, "address", "attributes")
        address, said = _address(each["address"], f"{at}.address")
        _once(addresses, said, at, f"portal {_show(address)} of one target")
        portals.append(model.Portal(portal_key(key, address), _attributes(
            each["attributes"], f"{at}.attributes", "portal", fabric)))
    luns: Dict[int, model.Lun] = {}
    for at, one in _list(members["luns"], f"{where}.luns"):
        lun = _lun(one, at, key, fabric, backstores)
        if lun.number in luns:
            _fail(Duplicate, f"{at} is a second LUN {lun.number}")
        luns[lun.number] = lun
    names: Set[Any] = set()
    acls = []
    for at, one in _list(members["acls"], f"{where}.acls"):
        acl = _acl(one, at, key, fabric, luns)
        _once(names, acl.initiator, at, f"ACL {_show(acl.initiator)}")
        acls.append(acl)
    return model.Tpg(key, made, tuple(portals), tuple(luns.values()), tuple(acls))


def _lun(value: Any, where: str, tpg: Key, fabric: str,
         backstores: Mapping[str, model.Backstore]) -> model.Lun:
    members = _object(value, where, "number", "backstore", "attributes")
    number = _number_at(members["number"], f"{where}.number", 0, U64)
    backstore: Optional[model.Backstore] = None
    if members["backstore"] is not None:
        name = _string(members["backstore"], f"{where}.backstore")
        backstore = backstores.get(name)
        if backstore is None:
            _fail(BadShape, f"{where}.backstore, {_show(name)}, is not in the document")
    made = _attributes(members["attributes"], f"{where}.attributes", "lun", fabric,
                       unlinked=backstore is None)
    _group_named(made.get("alua_tg_pt_gp", ""), backstore.alua_groups if backstore else (),
                 "default_tg_pt_gp", f"{where}.attributes['alua_tg_pt_gp']",
                 "ALUA group of the backstore")
    return model.Lun(lun_key(tpg, number), backstore.key if backstore else None, attributes=made)


def _acl(value: Any, where: str, tpg: Key, fabric: str,
         luns: Mapping[int, model.Lun]) -> model.Acl:
    members = _object(value, where, "initiator", "attributes", "mapped_luns")
    at = f"{where}.initiator"
    key = acl_key(tpg, _without(_name(members["initiator"], at, _INITIATOR), at, ", "))
    mapped: Dict[int, model.MappedLun] = {}
    for at, one in _list(members["mapped_luns"], f"{where}.mapped_luns"):
        each = _object(one, at, "number", "lun", "attributes")
        number = _number_at(each["number"], f"{at}.number", 0, U64)
        lun = each["lun"]
        if lun is not None:
            lun = _number_at(lun, f"{at}.lun", 0, U64)
            if lun not in luns:
                _fail(BadShape, f"{at}.lun is {lun}, which is no LUN of its TPG")
            if luns[lun].backstore is None:
                _fail(BadValue, f"{at}.lun is {lun}, which has no backstore")
        if number in mapped:
            _fail(Duplicate, f"{at} is a second mapped LUN {number}")
        mapped[number] = model.MappedLun(mapped_lun_key(key, number), lun, attributes=_attributes(
            each["attributes"], f"{at}.attributes", "mapped_lun", fabric, unlinked=lun is None))
    made = _attributes(members["attributes"], f"{where}.attributes", "acl", fabric)
    return model.Acl(key, made, tuple(mapped.values()))
