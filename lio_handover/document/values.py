"""Which names and values the kernel takes, and which of them a document may carry.

The ranges are those of the kernel's store functions.  Where a row of attributes.TABLE names the
values that are ``allowed``, those are all.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Tuple

from ..errors import BadName, BadShape, BadValue
from ..model import attributes, objects, plugins
from .json_types import MAX_WRITE, any_object, fail, plain_name, plain_text, show, string, utf8

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1


# --- names of the fabrics ------------------------------------------------------------------------
INITIATOR = 223  # bytes


def port_name(value: Any, where: str, prefixes: Tuple[str, ...]) -> str:
    name = plain_name(value, where, INITIATOR)
    if not name.startswith(prefixes) or name in prefixes:
        fail(BadName, f"{where}, {show(name)}, does not begin with {' or '.join(prefixes)}")
    return without(name, where, ", \t")


def without(name: str, where: str, marks: str) -> str:
    found = next((mark for mark in marks if mark in name), "")
    if found:
        fail(BadName, f"{where}, {show(name)}, has a "
             + {",": "comma", " ": "space"}.get(found, "mark that ends a name"))
    return name


def portal_address(value: Any, where: str) -> Tuple[str, Tuple[str, int]]:
    """A portal's name, and what it says: two names of one address are one portal."""
    import ipaddress
    name = plain_name(value, where)
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
        fail(BadName, f"{where}, {show(name)}, is not ADDRESS:PORT or [ADDRESS]:PORT")
    return name, (host, port)


def admits_nobody(name: str) -> bool:
    """Whether an iSCSI ACL's name has what no initiator's name has when the kernel compares them:
    it makes that small letters, those of Latin-1, too (iscsi_target_nego.c:
    iscsi_initiatorname_tolower, lib/ctype.c)."""
    return any(0x41 <= mark <= 0x5a or 0xc0 <= mark <= 0xde and mark != 0xd7
               for mark in name.encode(errors="surrogateescape"))


# --- attributes ----------------------------------------------------------------------------------
_BITS = (0, 1)
_BACKSTORE_BITS = """emulate_model_alias emulate_dpo emulate_fua_write emulate_fua_read
    emulate_write_cache emulate_tas emulate_tpu emulate_tpws emulate_caw emulate_3pc emulate_pr
    emulate_rsoc enforce_pr_isids force_pr_aptpl pi_prot_verify is_nonrot unmap_zeroes_data
    alua_support pgr_support tmr_notification"""
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
        ("backstore", "attrib/nl_reply_supported"): (-1, 127),
        ("backstore", "attrib/qfull_time_out"): (-1, U32 // 2000),
        ("backstore", "attrib/cmd_time_out"): (0, U32 // 1000),
        ("lu_group", "lu_gp_id"): (1, U16),
        ("alua_group", "tg_pt_gp_id"): (0, U16),
        ("alua_group", "alua_access_type"): (0, 3),
        ("alua_group", "alua_access_status"): (0, 2),
        ("alua_group", "nonop_delay_msecs"): (0, 10000),
        ("alua_group", "trans_delay_msecs"): (0, 30000),
        ("alua_group", "implicit_trans_secs"): (0, 255),
        ("tpg", "enable"): _BITS,
        ("discovery_auth", "enforce_discovery_auth"): _BITS,
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
    ("discovery_auth", "userid"): 255, ("discovery_auth", "userid_mutual"): 255,
    ("discovery_auth", "password"): 255, ("discovery_auth", "password_mutual"): 255,
    ("acl", "tag"): 63,
}
_LINES = frozenset(("lba_map",))
_PRINTABLE = re.compile("[ -~]*")
#: Of any bytes but attributes.BLANKS at its ends.
_TEXTS = frozenset(("wwn/vpd_unit_serial", "wwn/pd_text_id_info"))
#: what the product itself does with a backstore; never a value to be carried
_DEEDS = re.compile(r"(?:control|enable|info|pr/.*|statistics/.*)")


def attributes_of(value: Any, where: str, kind: str, owner: str = "",
                  unlinked: bool = False) -> Dict[str, str]:
    """Attributes of one object: {path: value}.  Those that the table does not know are kept."""
    rows = attributes.rows(kind, owner)
    made: Dict[str, str] = {}
    for path, text in any_object(value, where).items():
        row = rows.get(path)
        if row is not None and row.kind != attributes.HOST and type(text) is str:
            # The common case: a small number in its range.
            if row.format is attributes.INT and text.isdigit() and text.isascii() \
                    and len(text) < 10 and (text[0] != "0" or text == "0") \
                    and not row.allowed:
                low, high = _RANGES.get((kind, path), (0, U32))
                if low <= int(text) <= high:
                    made[path] = text
                    continue
        at = f"{where}[{show(path)}]"
        text = string(text, at)
        if row is None:
            made[path] = _unknown(path, text, at, kind)
        elif row.kind == attributes.HOST:
            why = row.source if path.endswith("pi_prot_format") else "it is of the host alone"
            fail(BadValue, f"{at} is never carried from host to host: {why}")
        else:
            made[path] = _value(row, kind, path, text, at, unlinked)
    return made


def _unknown(path: str, text: str, at: str, kind: str) -> str:
    attribute_path(path, at)
    if kind == "backstore" and _DEEDS.fullmatch(path):
        fail(BadValue, f"{at} is not an attribute that a document can carry")
    data = utf8(text, at, BadValue)
    if len(data) >= MAX_WRITE:
        fail(BadValue, f"{at} has {len(data)} bytes, more than one write takes")
    if b"\0" in data:
        fail(BadValue, f"{at} has a NUL")
    return objects.Secret(text) if attributes.hides(kind, path) else text


def attribute_path(path: str, at: str) -> None:
    """A path of one or two plain names below an object's directory."""
    words = path.split("/")
    if len(words) > 2:
        fail(BadName, f"{at} is not the path of an attribute")
    for word in words:
        plain_name(word, at)


def _value(row: attributes.Attribute, kind: str, path: str, text: str, at: str,
           unlinked: bool) -> str:
    secret = row.kind == attributes.SECRET

    def shown() -> str:
        return "(secret)" if secret else show(text)

    data = utf8(text, at, BadValue)
    if b"\0" in data:
        fail(BadValue, f"{at} has a NUL")
    if "\n" in text and row.format is not attributes.BARE and path not in _LINES:
        fail(BadValue, f"{at} has a newline")
    longest = _LENGTHS.get((kind, path), MAX_WRITE - row.format.newline)
    if len(data) > longest:
        fail(BadValue, f"{at} has {len(data)} bytes, more than {longest}")
    if text in row.unset or (unlinked and not text):
        return text
    if row.allowed:
        if text not in row.allowed:
            fail(BadValue, f"{at} is {shown()}, not {', '.join(row.allowed)}")
    elif row.numeric:
        low, high = _RANGES.get((kind, path), (0, U32))
        if not attributes.DECIMAL.fullmatch(text):
            fail(BadValue, f"{at} is {shown()}, not a plain decimal number")
        if not low <= int(text) <= high:
            fail(BadValue, f"{at} is {shown()}, not {low} to {high}")
    elif row.format is attributes.COMPANY:
        if not attributes.COMPANY_ID.fullmatch(text):
            fail(BadValue, f"{at} is {shown()}, not 0x and six hex digits")
    elif path in _TEXTS:
        if data != data.strip(attributes.BLANKS):
            fail(BadValue, f"{at} begins or ends with what the kernel takes for a blank")
    elif path.startswith("wwn/") and not _PRINTABLE.fullmatch(text):
        fail(BadValue, f"{at} is not printable ASCII")
    return objects.Secret(text) if secret else text


# --- parameters of backstores --------------------------------------------------------------------
def parameters_of(value: Any, where: str, plugin: str) -> Dict[str, str]:
    """What goes into ``control``: a list of name=value, so that no value can have its marks."""
    rows = plugins.PLUGINS[plugin].parameters
    made: Dict[str, str] = {}
    for name, text in any_object(value, where).items():
        at = f"{where}[{show(name)}]"
        if name not in rows:
            fail(BadShape, f"{at} is no parameter of {plugin}")
        row, text = rows[name], plain_text(text, at)
        if "," in text:
            fail(BadValue, f"{at} has a comma, which would end it")
        if row.choices and text not in row.choices:
            fail(BadValue, f"{at} is {show(text)}, not {' or '.join(row.choices)}")
        if row.most is not None and not (attributes.DECIMAL.fullmatch(text)
                                         and 0 <= int(text) <= row.most):
            fail(BadValue, f"{at} is {show(text)}, not a {row.what} from 0 to {row.most}")
        made[name] = text
    for name, row in rows.items():
        if row.needed and not made.get(name) or row.path and name not in made:
            fail(BadShape, f"{where}.{name} is missing")
        if row.path:
            _backing(made[name], f"{where}[{name!r}]", row.path)
    return made


def _backing(path: str, where: str, longest: int) -> None:
    if not path.startswith("/") or path.endswith("/"):
        fail(BadValue, f"{where}, {show(path)}, is not the full path of a file or device")
    if len(path.encode()) > longest:
        fail(BadValue, f"{where} is longer than {longest} bytes")
    if path != path.strip():
        fail(BadValue, f"{where}, {show(path)}, ends with a space")
    if {".", ".."} & set(path.split("/")):
        fail(BadName, f"{where}, {show(path)}, has a . or .. in it")
