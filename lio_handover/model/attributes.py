"""THE table: one row for every configfs attribute of a target.

A fact about an attribute stands here and nowhere else: where it lives, what it is for, how it is
read and written, when the kernel takes it and in which place of the order it is written, what may
be written, what a new object has of it, and what a write of it overwrites.  The source of each row
is the kernel's own store and show functions (drivers/target, drivers/vhost); the defaults were seen
on real kernels from 6.1 to 7.2, and are held to them by a test.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import (Any, Callable, Dict, FrozenSet, Iterable, Iterator, Mapping, Optional, Tuple,
                    Union)

from . import fabrics, plugins
from .fabrics import Gate
from .objects import Secret
from .plugins import Data, Opens

# --- classes -------------------------------------------------------------------------------
ID = "ID"            # an initiator can see it: must be identical
CONFIG = "CONFIG"    # how the target behaves
RUNTIME = "RUNTIME"  # SCSI state that changes while it serves
HOST = "HOST"        # of this host alone: never written, compared where an initiator sees it
SECRET = "SECRET"    # CHAP: never shown
CARRIED = (ID, CONFIG, RUNTIME, SECRET)

# --- windows: when the kernel takes a write ------------------------------------------------
PRE_ENABLE = "PRE_ENABLE"  # before the backstore is enabled
ENABLED = "ENABLED"        # after it is enabled (which would overwrite it), any time
UNEXPORTED = "UNEXPORTED"  # enabled, and no LUN links to it (export_count == 0)
ONCE = "ONCE"              # one write in the object's life
LINKED = "LINKED"          # the LUN, or mapped LUN, has its link
GATE_SHUT = "GATE_SHUT"    # the TPG is disabled
GATE = "GATE"              # the write that lets initiators in
NEXUS = "NEXUS"            # before the first LUN is linked, and then for good
ANY = "ANY"

# --- guards: what the one writer looks at besides how a value is spelled --------------------
ENABLED_ONLY = "ENABLED_ONLY"  # the backstore is enabled
FILE_THERE = "FILE_THERE"      # the file which the kernel would make is there

# --- how a value is spelled where it is written ----------------------------------------------
#: Numbers: no sign but -, no zero before, no 0x.
DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
COMPANY_ID = re.compile(r"0x[0-9a-f]{6}")
#: The bytes that the kernel cuts off both ends of a name or text (lib/string_helpers.c:strim,
#: lib/ctype.c).
BLANKS = b" \t\n\v\f\r\xa0"
#: The kernel's word for none, of a nexus and of CHAP; no group has that name.
NONE = "NULL"
#: One write(2) is one store(), and a store takes no more (fs/configfs/file.c:fill_write_buffer).
MAX_WRITE = 4095

U16, U32 = 2**16 - 1, 2**32 - 1
BIT = (0, 1)


def printable(data: bytes) -> str:
    """The fault of a text that is not printable, "" for none."""
    return "" if data.isascii() and (not data or data.decode().isprintable()) \
        else "is not printable ASCII"


def trimmed(data: bytes) -> str:
    """The fault of a text that the kernel would trim, "" for none."""
    return "" if data == data.strip(BLANKS) else \
        "begins or ends with what the kernel takes for a blank"


@dataclass(frozen=True)
class Format:
    """How an attribute's text becomes the value that would be written back."""

    name: str
    read: Callable[[str], str]
    newline: bool = True   # whether what is written ends in a newline
    numeric: bool = False  # whether it is written as a plain decimal
    lines: bool = False    # whether a newline may be in it


def _strip(text: str) -> str:
    return text[:-1] if text.endswith("\n") else text


def _words(*words: str) -> Callable[[str], str]:
    """A reader for attributes that the kernel shows as a word and takes as a number."""
    numbers = {word: str(number) for number, word in enumerate(words)}

    def read(text: str) -> str:
        word = _strip(text)
        if word not in numbers:
            raise ValueError(f"the kernel shows {word!r}, known are {', '.join(numbers)}")
        return numbers[word]

    return read


def _prefixed(prefix: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        text = _strip(text)
        if not text.startswith(prefix):
            raise ValueError(f"the kernel shows {text!r} without {prefix!r}")
        return text[len(prefix):]

    return read


def _group(label: str) -> Callable[[str], str]:
    """The first line of a group's description names it."""

    def read(text: str) -> str:
        first = text.split("\n", 1)[0]
        return first[len(label):] if first.startswith(label) else ""

    return read


RAW = Format("RAW", _strip)
LINES = Format("LINES", _strip, lines=True)
INT = Format("INT", _strip, numeric=True)
HEX = Format("HEX", lambda text: str(int(_strip(text) or "0", 0)), numeric=True)
COMPANY = Format("COMPANY", _strip)
BARE = Format("BARE", _strip, newline=False, lines=True)
# A newline would count: 253 bytes would be one too many (target_wwn_vpd_unit_serial_store).
SERIAL = Format("SERIAL", _prefixed("T10 VPD Unit Serial Number: "), newline=False)
ACCESS_TYPE = Format("ACCESS_TYPE", _words("None", "Implicit", "Explicit",
                                           "Implicit and Explicit"), numeric=True)
ACCESS_STATUS = Format("ACCESS_STATUS", _words("None", "Altered by Explicit STPG",
                                               "Altered by Implicit ALUA"), numeric=True)
LU_GROUP = Format("LU_GROUP", _group("LU Group Alias: "))
TG_PT_GROUP = Format("TG_PT_GROUP", _group("TG Port Alias: "))
_PROTECTION = ("0", "1", "3")

#: Kind of object → the slot of plan/order.py in which its attributes are written.
_SLOTS = {"backstore": "backstore attribute", "alua_group": "ALUA group attribute",
          "lu_group": "LU group id", "target": "TPG attribute", "tpg": "TPG attribute",
          "portal": "portal attribute", "lun": "LUN attribute", "acl": "ACL attribute",
          "mapped_lun": "mapped LUN attribute", "discovery_auth": "discovery auth"}
#: Windows which are a slot of their own.
_WINDOW_SLOTS = {PRE_ENABLE: "before enable", GATE: "gate", NEXUS: "nexus"}


@dataclass(frozen=True)
class Attribute:
    """One attribute of one kind of object.

    at         kind of object (objects.Object.kind), with ``:plugin`` or ``:fabric`` where only
               some have it
    path       below the object's directory
    kind       ID, CONFIG, RUNTIME, HOST, SECRET
    window     when the kernel takes it
    rank       order among the attributes of one object and slot: lower is written first
    if_absent  what a kernel without the attribute does, None where nothing is known to equal it
    of_path    whether a backstore that was never told it is like one that was told the path which
               it opens
    symbol     the function by which a kernel shows that it has the attribute (/proc/kallsyms)
    allowed    the only values that are written, all others are refused; () where the format, the
               range and the text say it
    range      for a number: the lowest and highest that the kernel's store function takes
    max_bytes  for a text: the most bytes, without a newline; 0: as many as one write takes
    text       for a text: a function that says what is wrong with it, "" for nothing
    guards     what else the writer checks (kernel/configfs.py)
    unset      values that mean "never set" and cannot be written
    cleared    the value to write for "never set"; the kernel then acts as if it was not set
    first      value → (path, value): another attribute that the object must have at this value
               before the first value may be written
    default    the value of a new object, for all plugins and fabrics or by their names; a backstore
               whose device answers commands has the device's value.  None: nothing is known
    of_file    the default where fileio opens a file with ``fd_dev_size``, else None
    inherits   the attribute of its TPG from which a new object has its value, where that differs
               from that attribute's default
    overwrites attributes of the same object that change, too, when this one is written
    overwrites_while (path, value): only while the object has that value; an object without the
               attribute counts as having it
    told       of run-time state: whether nothing changes it but a write, of which the kernel tells
    slot       the slot of plan/order.py in which it is written
    source     where the rule comes from
    """

    at: str
    path: str
    kind: str
    window: str = ANY
    format: Format = INT
    rank: int = 50
    if_absent: Optional[str] = None
    of_path: bool = False
    symbol: str = ""
    allowed: Tuple[str, ...] = ()
    range: Tuple[int, int] = (0, U32)
    max_bytes: int = 0
    text: Optional[Callable[[bytes], str]] = None
    guards: Tuple[str, ...] = ()
    unset: Tuple[str, ...] = ()
    cleared: str = ""
    first: Mapping[str, Tuple[str, str]] = None  # type: ignore[assignment]
    compared: bool = False
    default: Union[str, Mapping[str, str], None] = None
    of_file: Optional[str] = None
    inherits: str = ""
    overwrites: Tuple[str, ...] = ()
    overwrites_while: Optional[Tuple[str, str]] = None
    told: bool = False
    slot: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        slot = self.slot or _WINDOW_SLOTS.get(self.window) or _SLOTS[self.kind_of_object]
        object.__setattr__(self, "slot", slot)

    @property
    def kind_of_object(self) -> str:
        return self.at.partition(":")[0]

    @property
    def only(self) -> Tuple[str, ...]:
        """The plugins or fabrics that have it; all where empty."""
        words = self.at.partition(":")[2]
        return tuple(words.split(",")) if words else ()

    @property
    def numeric(self) -> bool:
        return self.format.numeric

    @property
    def longest(self) -> int:
        """The most bytes of a value, without a newline."""
        return self.max_bytes or MAX_WRITE - self.format.newline

    def default_of(self, owner: str) -> Optional[str]:
        """The value of a new object of this plugin or fabric; None where it is not known."""
        if isinstance(self.default, Mapping):
            return self.default.get(owner)
        if self.of_file is not None:
            return self.of_file if plugins.opened_by(owner) is Opens.FILE else None
        if self.kind_of_object == "backstore" and plugins.of(owner).passthrough:
            return None
        return self.default

    def overwritten(self, known: Mapping[str, str]) -> Tuple[str, ...]:
        """The attributes that a write of it changes, too, on an object with ``known`` values."""
        path, value = self.overwrites_while or ("", "")
        return self.overwrites if not path or known.get(path, value) == value else ()

    def value(self, text: str) -> str:
        """The value to write for ``text`` as read from the kernel.  Raises ValueError for a text
        that the format does not know."""
        value = self.format.read(text)
        return Secret(value) if self.kind == SECRET else value

    def encode(self, value: str) -> bytes:
        """The bytes of the one write(2) that sets ``value``."""
        return value.encode(errors="surrogateescape") + (b"\n" if self.format.newline else b"")


def _rows(at: str, kind: str, names: str, window: str = ANY, prefix: str = "",
          values: str = "default", **more: Any) -> Iterator[Attribute]:
    """A row for each of the ``names``; ``name=value`` has the value in column ``values``."""
    for word in names.split():
        name, equals, value = word.partition("=")
        columns = {**more, values: value} if equals else more
        yield Attribute(at, prefix + name, kind, window, **columns)


def _table() -> Iterator[Attribute]:
    # ---- backstore ------------------------------------------------------------------------
    yield Attribute("backstore", "udev_path", CONFIG, PRE_ENABLE, RAW, 10, unset=("",), default="",
                    of_path=True, max_bytes=510,  # rtslib writes it, see rtslib/tcm.py
                    source="target_core_configfs.c:target_dev_udev_path_store")
    yield Attribute("backstore", "alias", CONFIG, PRE_ENABLE, RAW, 11, unset=("",), default="",
                    max_bytes=510, source="target_core_configfs.c:target_dev_alias_store")

    def attrib(kind: str, names: str, window: str = ENABLED, at: str = "backstore",
               **more: Any) -> Iterator[Attribute]:
        return _rows(at, kind, names, window, "attrib/", **more)

    def of_file(kind: str, names: str, window: str = ENABLED, at: str = "backstore",
                **more: Any) -> Iterator[Attribute]:
        """fd_configure_device, fd_configure_unmap (target_core_file.c)."""
        return attrib(kind, names, window, at, values="of_file", **more)

    # Rewrites wwn/product_id, so it goes first and wwn/ after it (dev_set_t10_wwn_model_alias).
    yield from attrib(ID, "emulate_model_alias=0", UNEXPORTED, rank=1, range=BIT,
                      overwrites=("wwn/product_id",))
    # Up to 6.1 a file's block_size lowers what optimal_sectors may be, not what it is: so before.
    yield from of_file(ID, "optimal_sectors=16384", UNEXPORTED, rank=2)
    # enable resets it to hw_block_size; the limits are counted in it.
    yield from of_file(ID, "block_size=512", UNEXPORTED, rank=3,
                       allowed=("512", "1024", "2048", "4096"),
                       overwrites=("attrib/max_unmap_lba_count", "attrib/max_write_same_len"))
    yield from attrib(CONFIG, "queue_depth=128", UNEXPORTED, rank=3, range=(1, U32))
    # Each of these sets the limits, too, where there are none yet (configure_unmap).
    unmap: Dict[str, Any] = dict(range=BIT, guards=(ENABLED_ONLY,), overwrites=(
        "attrib/max_unmap_lba_count", "attrib/max_unmap_block_desc_count",
        "attrib/unmap_granularity", "attrib/unmap_granularity_alignment"),
        overwrites_while=("attrib/max_unmap_block_desc_count", "0"))
    yield from attrib(ID, "emulate_tpu=0 emulate_tpws=0", rank=5, **unmap)
    yield from of_file(ID, "unmap_zeroes_data=0", UNEXPORTED, rank=6, **unmap)
    # enable overwrites the limits with the device's own, and so does each of the three above where
    # max_unmap_block_desc_count is 0 (configure_unmap): after them.
    yield from of_file(ID, "max_unmap_lba_count=8192 max_unmap_block_desc_count=1 "
                           "unmap_granularity=1 unmap_granularity_alignment=0 "
                           "max_write_same_len=4096", rank=7)
    yield from of_file(ID, "pi_prot_type=0", UNEXPORTED, rank=7, allowed=_PROTECTION,
                       guards=(FILE_THERE,), overwrites=("attrib/pi_prot_verify",))
    yield from attrib(CONFIG, "pi_prot_verify=0", rank=8, range=BIT)
    yield from attrib(ID, "emulate_ua_intlck_ctrl=0", UNEXPORTED, range=(0, 2))
    yield from attrib(ID, "emulate_tas=1", UNEXPORTED, range=BIT)
    yield from attrib(CONFIG, "force_pr_aptpl=0", UNEXPORTED, range=BIT)
    yield from attrib(ID, "emulate_dpo=1 emulate_fua_write=1 emulate_fua_read=1 emulate_caw=1 "
                          "emulate_3pc=1 emulate_pr=1", range=BIT)
    yield from of_file(ID, "is_nonrot=0", range=BIT)
    yield from of_file(ID, "emulate_write_cache=0", range=BIT,
                       at=f"backstore:{plugins.named(passthrough=False)}")
    tcmu = f"backstore:{plugins.named(data=Data.HANDLER)}"
    # Before enable, with which its handler in user space is told of it.
    yield from attrib(ID, "emulate_write_cache", PRE_ENABLE, tcmu, rank=12, range=BIT,
                      source="target_core_user.c:tcmu_emulate_write_cache_store")
    yield from attrib(CONFIG, "cmd_time_out", UNEXPORTED, tcmu, range=(0, U32 // 1000))
    yield from attrib(CONFIG, "qfull_time_out", at=tcmu, range=(-1, U32 // 2000))
    yield from attrib(CONFIG, "tmr_notification", at=tcmu, range=BIT)
    # -1 is the administrator's, else enable takes what the host's handler has said.
    yield from attrib(CONFIG, "nl_reply_supported", PRE_ENABLE, tcmu, rank=12, range=(-1, 127),
                      unset=("0", "1"), source="target_core_user.c:tcmu_configure_device")
    # These repeat what control took, and control's parameters are what a document carries.
    yield from attrib(HOST, "dev_config dev_size", at=tcmu)
    yield from attrib(ID, "emulate_rest_reord=0", allowed=("0",))
    yield from attrib(CONFIG, "enforce_pr_isids=1", range=BIT)
    yield from attrib(ID, "emulate_rsoc=1", range=BIT, if_absent="0", symbol="emulate_rsoc_show")
    yield from attrib(ID, "alua_support=1 pgr_support=1", range=BIT, if_absent="1")
    yield from attrib(HOST, "hw_block_size", compared=True)
    yield from attrib(HOST, "hw_max_sectors hw_queue_depth hw_pi_prot_type submit_type "
                            "complete_type pi_prot_format",
                      source="of the host's own device; pi_prot_format is an action, no state")
    yield from attrib(HOST, "atomic_max_len atomic_alignment atomic_granularity "
                            "atomic_max_with_boundary atomic_max_boundary",
                      compared=True, if_absent="0")

    for name, most, default in (
            ("vendor_id", 8, "LIO-ORG"),
            ("product_id", 16, {row.name: row.product for row in plugins.PLUGINS.values()
                                if row.product}),
            ("revision", 4, "4.0")):
        yield Attribute("backstore", f"wwn/{name}", ID, UNEXPORTED, RAW, 60, max_bytes=most,
                        text=printable, default=default)
    yield Attribute("backstore", "wwn/company_id", ID, UNEXPORTED, COMPANY, 60,
                    if_absent="0x001405", default="0x001405", symbol="target_wwn_company_id_show",
                    source="target_core_configfs.c:target_wwn_company_id")
    # Empty, and never written, it shows no NAA; a newline would switch on an all-zero one.
    yield Attribute("backstore", "wwn/vpd_unit_serial", ID, UNEXPORTED, SERIAL, 60, unset=("",),
                    default="", max_bytes=253, text=trimmed,
                    source="target_core_configfs.c:target_wwn_vpd_unit_serial_store")
    yield Attribute("backstore", "wwn/pd_text_id_info", ID, UNEXPORTED, RAW, 60, unset=("",),
                    default="", max_bytes=255, text=trimmed,
                    if_absent="", symbol="target_wwn_pd_text_id_info_show",
                    source="target_core_configfs.c:target_wwn_pd_text_id_info_store")
    # The map determines which LU has which state, so it comes before the states
    # (alua_access_state 4).
    yield Attribute("backstore", "lba_map", ID, ENABLED, LINES, unset=("",), default="",
                    slot="backstore group",
                    source="target_core_configfs.c:target_dev_lba_map_store")
    # Needs the LU group, and enable (before it, the write is lost). In a group, a change of state
    # is one of all its members: so after the states. The name of a group that is there; back to the
    # default one by removing the other one.
    yield Attribute("backstore", "alua_lu_gp", ID, ENABLED, LU_GROUP, slot="LU group member",
                    unset=("", "default_lu_gp"), default="default_lu_gp",
                    source="target_core_configfs.c:target_dev_alua_lu_gp_store")

    # ---- LU and target port groups ----------------------------------------------------------
    yield Attribute("lu_group", "lu_gp_id", ID, ONCE, INT, 1, unset=("",), range=(1, U16))
    alua = "alua_group"
    # Until it has an id, a group takes nothing else.
    yield Attribute(alua, "tg_pt_gp_id", ID, ONCE, INT, 1, unset=("", "0"), range=(0, U16),
                    default="")
    yield Attribute(alua, "alua_write_metadata", CONFIG, rank=2, range=BIT, default="0")
    # The states of SPC that a group can be left in.  A fresh group takes each of them; what may
    # forbid the one that it has, or makes each change of it last, is written behind it: an
    # initiator can have set it (STPG), or somebody before that.  Writing the state sets the status.
    state = "ALUA state"
    yield Attribute(alua, "alua_access_state", RUNTIME, rank=90, slot=state,
                    allowed=("0", "1", "2", "3", "4", "15"), first={"4": ("alua_access_type", "1")},
                    default="0", overwrites=("alua_access_status",),
                    source="target_core_configfs.c:target_tg_pt_gp_alua_access_state_store")
    yield Attribute(alua, "alua_access_status", RUNTIME, ANY, ACCESS_STATUS, 91, slot=state,
                    range=(0, 2), default="0")
    yield Attribute(alua, "alua_access_type", ID, ANY, ACCESS_TYPE, 92, slot=state, range=(0, 3),
                    default="3", overwrites=("alua_access_state", "alua_access_status"))
    yield from _rows(alua, ID, "alua_support_transitioning=1 alua_support_offline=1 "
                     "alua_support_unavailable=1 alua_support_standby=1 "
                     "alua_support_active_nonoptimized=1 alua_support_active_optimized=1", rank=93,
                     slot=state, range=BIT)
    # Follows from lba_map and refuses every write without one.
    yield Attribute(alua, "alua_support_lba_dependent", HOST)
    # The kernel sleeps so long in each write of the state (core_alua_do_transition_tg_pt).
    for word, highest in (("nonop_delay_msecs=100", 10000), ("trans_delay_msecs=0", 30000),
                          ("implicit_trans_secs=0", 255)):
        yield from _rows(alua, CONFIG, word, rank=94, slot=state, range=(0, highest))
    yield Attribute(alua, "preferred", ID, rank=94, slot=state, range=BIT, default="0")

    # ---- target ---------------------------------------------------------------------------
    yield Attribute("target", "param/cmd_completion_affinity", HOST)

    # ---- TPG ------------------------------------------------------------------------------
    logins, nexus = fabrics.named(logins=True), fabrics.named(nexus=True)
    tpg = f"tpg:{logins}"

    def of_tpg(names: str, rank: int = 3, **more: Any) -> Iterator[Attribute]:
        return _rows(tpg, CONFIG, names, GATE_SHUT, "attrib/", rank=rank, **more)

    # Adds and removes None in param/AuthMethod, so before it (iscsit_ta_authentication).
    yield from of_tpg("authentication=1", 1, range=BIT, overwrites=("param/AuthMethod",))
    # generate_node_acls=1 forces cache_dynamic_acls, so before it (iscsit_ta_generate_node_acls).
    yield from of_tpg("generate_node_acls=0", 2, range=BIT,
                      overwrites=("attrib/cache_dynamic_acls",))
    yield from of_tpg("cache_dynamic_acls=0 demo_mode_discovery=1 demo_mode_write_protect=1 "
                      "login_keys_workaround=1 prod_mode_write_protect=0 t10_pi=0 "
                      "tpg_enabled_sendtargets=1", range=BIT)
    yield from of_tpg("default_cmdsn_depth=64", range=(1, 512))
    yield from of_tpg("default_erl=0", range=(0, 2))
    yield from of_tpg("login_timeout=15", range=(5, 30))
    yield from of_tpg("fabric_prot_type=0", allowed=_PROTECTION)
    yield Attribute(tpg, "attrib/netif_timeout", HOST)  # gone since 6.2; no effect on the wire
    # A stored newline would be part of the name: BARE.  NONE clears, so it is not "unset".
    yield from _rows(tpg, CONFIG, "auth/userid= auth/userid_mutual=", GATE_SHUT, format=BARE,
                     rank=4, unset=("",), max_bytes=255)
    yield from _rows(tpg, SECRET, "auth/password= auth/password_mutual=", GATE_SHUT, format=BARE,
                     rank=4, unset=("",), max_bytes=255)
    yield from _rows(tpg, CONFIG, "AuthMethod=CHAP HeaderDigest=CRC32C,None DataDigest=CRC32C,None "
                     "MaxConnections=1 InitialR2T=Yes ImmediateData=Yes "
                     "MaxRecvDataSegmentLength=8192 MaxXmitDataSegmentLength=262144 "
                     "MaxBurstLength=262144 FirstBurstLength=65536 DefaultTime2Wait=2 "
                     "DefaultTime2Retain=20 MaxOutstandingR2T=1 DataPDUInOrder=Yes "
                     "DataSequenceInOrder=Yes ErrorRecoveryLevel=0 IFMarker=No OFMarker=No "
                     "IFMarkInt=Reject OFMarkInt=Reject", GATE_SHUT, "param/", format=RAW, rank=5)
    yield Attribute(tpg, "param/TargetAlias", CONFIG, GATE_SHUT, RAW, 5, default="LIO Target")
    # 0 is "not yet given": the kernel gives the lowest free one at enable.
    yield Attribute("tpg", "rtpi", ID, GATE_SHUT, HEX, 6, unset=("0",), if_absent="0",
                    range=(0, U16), symbol="target_fabric_tpg_base_rtpi_show",
                    source="target_core_tpg.c:target_tpg_register_rtpi")
    yield Attribute(f"tpg:{nexus}", "attrib/fabric_prot_type", CONFIG, ANY, INT, 6,
                    allowed=_PROTECTION, default="0")
    yield Attribute(f"tpg:{fabrics.named(gate=Gate.LOCAL)}", "transport_status", RUNTIME, ANY, RAW,
                    7, allowed=("online", "offline"), default="online")
    # An error stands for "no nexus"; it can't go while LUNs are linked.
    yield Attribute(f"tpg:{nexus}", "nexus", CONFIG, NEXUS, RAW, 100, unset=("",),
                    source="drivers/vhost/scsi.c:vhost_scsi_tpg_nexus_store")
    yield Attribute(f"tpg:{fabrics.named(gate=Gate.ENABLE)}", "enable", RUNTIME, GATE, INT, 100,
                    range=BIT,
                    source="target_core_fabric_configfs.c:target_fabric_tpg_base_enable_store")
    yield from _rows("portal", CONFIG, "iser=0 cxgbit=0", rank=1, range=BIT)

    # ---- LUN --------------------------------------------------------------------------------
    # Right after the link and before any ACL, else every mapping owes its initiator a 3F/03.
    yield Attribute("lun", "alua_tg_pt_gp", ID, LINKED, TG_PT_GROUP, 1,
                    unset=("", "default_tg_pt_gp"), cleared=NONE,
                    source="target_core_alua.c:core_alua_store_tg_pt_gp_info")
    yield from _rows("lun", RUNTIME, "alua_tg_pt_offline=0", LINKED, rank=2, range=BIT,
                     overwrites=("alua_tg_pt_status",))
    yield from _rows("lun", RUNTIME, "alua_tg_pt_write_md=0", LINKED, rank=2, range=BIT, told=True)
    yield from _rows("lun", RUNTIME, "alua_tg_pt_status=0", LINKED, rank=3, range=(0, 2))
    # Read from statistics/scsi_port/indx on kernels without tpgt_N/rtpi, see reader.

    # ---- discovery: the host's, for all of its iSCSI targets -----------------------------------
    # NONE makes it unset, and is shown (iscsi_target_configfs.c:__iscsi_disc_userid_store).
    discovery = "discovery_auth"
    yield from _rows(discovery, CONFIG, "userid userid_mutual", format=BARE, rank=1,
                     unset=("", NONE), cleared=NONE, max_bytes=255)
    yield from _rows(discovery, SECRET, "password password_mutual", format=BARE, rank=1,
                     unset=("", NONE), cleared=NONE, max_bytes=255)
    yield Attribute(discovery, "enforce_discovery_auth", CONFIG, rank=2, cleared="0", range=BIT)

    # ---- ACL: iscsi_target_nodeattrib.c:iscsit_set_default_node_attribues -----------------------
    acl = f"acl:{logins}"

    def of_acl(names: str, lowest: int, highest: int, rank: int = 2, **more: Any) \
            -> Iterator[Attribute]:
        return _rows(acl, CONFIG, names, GATE_SHUT, "attrib/", rank=rank, range=(lowest, highest),
                     **more)

    yield from of_acl("dataout_timeout=3", 2, 60)
    yield from of_acl("dataout_timeout_retries=5", 1, 15)
    yield from of_acl("default_erl=0", 0, 2, inherits="attrib/default_erl")
    yield from of_acl("nopin_response_timeout=30", 3, 60)
    yield from of_acl("nopin_timeout=15", 0, 60)
    yield from of_acl("random_datain_pdu_offsets=0 random_datain_seq_offsets=0 "
                      "random_r2t_offsets=0", 0, U32)
    yield from of_acl("authentication=-1", -1, 1, 1, if_absent="-1",
                      symbol="iscsi_nacl_attrib_authentication_show")
    yield from _rows(acl, CONFIG, "auth/userid= auth/userid_mutual=", GATE_SHUT, format=BARE,
                     rank=3, unset=("",), max_bytes=255)
    yield from _rows(acl, SECRET, "auth/password= auth/password_mutual=", GATE_SHUT, format=BARE,
                     rank=3, unset=("",), max_bytes=255)
    # Changing it drops the initiator's session.
    yield Attribute(acl, "cmdsn_depth", CONFIG, GATE_SHUT, INT, 4, range=(0, 512), default="64",
                    inherits="attrib/default_cmdsn_depth")
    yield Attribute(acl, "tag", CONFIG, ANY, BARE, 5, unset=("",), max_bytes=63, default="")
    # A value written before the link is lost (target_fabric_mappedlun_write_protect_store).
    # No test holds a loopback's default.
    yield Attribute("mapped_lun", "write_protect", CONFIG, LINKED, INT, 1, range=BIT,
                    default={"iscsi": "0", "vhost": "0"},
                    inherits="attrib/prod_mode_write_protect")


TABLE: Tuple[Attribute, ...] = tuple(_table())


def _index() -> Dict[Tuple[str, str], Dict[str, Attribute]]:
    """(kind of object, plugin or fabric) → path → row, for those that the table names."""
    owners = {"backstore": (*plugins.PLUGINS,),
              "alua_group": ("",), "lu_group": ("",), "discovery_auth": ("",)}
    index: Dict[Tuple[str, str], Dict[str, Attribute]] = {}
    for row in TABLE:
        for owner in row.only or owners.get(row.kind_of_object, (*fabrics.FABRICS,)):
            index.setdefault((row.kind_of_object, owner), {})[row.path] = row
    return index


_INDEX = _index()


def kinds() -> Iterable[Tuple[str, str]]:
    """(kind of object, plugin or fabric) of all that have attributes."""
    return _INDEX.keys()


def rows(kind: str, owner: str = "") -> Mapping[str, Attribute]:
    """The rows of a kind of object: ``{path: row}``; ``owner`` is its plugin or fabric."""
    return _INDEX.get((kind, owner), {})


def defaults_of(kind: str, owner: str) -> Dict[str, str]:
    """{path: value} of a new object of this plugin or fabric, as far as they are known."""
    values = {path: row.default_of(owner) for path, row in rows(kind, owner).items()}
    return {path: value for path, value in values.items() if value is not None}


def row(kind: str, owner: str, path: str) -> Optional[Attribute]:
    return rows(kind, owner).get(path)


@lru_cache(maxsize=None)
def runtime_names(kind: str, owner: str = "") -> FrozenSet[str]:
    """The paths of a kind of object's run-time attributes."""
    return frozenset(path for path, row in rows(kind, owner).items() if row.kind == RUNTIME)


def hides(kind: str, path: str) -> bool:
    """Whether an attribute that the table does not know may be a secret."""
    return kind == "discovery_auth" or path.startswith("auth/")


def owner_of(key: Tuple[str, ...]) -> str:
    """The plugin or fabric of a key, "" for groups."""
    if key[0] == "target" or (key[0] == "backstore" and len(key) == 3):
        return key[1]
    return ""
