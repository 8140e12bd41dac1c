"""THE table: one row for every configfs attribute of a target.

What is true of an attribute stands here and nowhere else: where it lives, what it is for,
how it is read and written, when the kernel takes it, and what may be written.  The source
of each row is the kernel's own store and show functions (drivers/target, drivers/vhost).
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, Mapping, Optional, Tuple

from .objects import Secret

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

# --- how a value is spelled where it is written ----------------------------------------------
#: Numbers: no sign but -, no zero before, no 0x.
DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
COMPANY_ID = re.compile(r"0x[0-9a-f]{6}")
#: What the kernel cuts off both ends of a name or text (lib/string_helpers.c:strim, lib/ctype.c).
BLANKS = b" \t\n\v\f\r\xa0"
#: The kernel's word for none, of a nexus and of CHAP; no group has that name.
NONE = "NULL"


@dataclass(frozen=True)
class Format:
    """How an attribute's text becomes the value that would be written back."""

    name: str
    read: Callable[[str], str]
    newline: bool = True  # whether what is written ends in a newline


def _strip(text: str) -> str:
    return text[:-1] if text.endswith("\n") else text


def _words(*words: str) -> Callable[[str], str]:
    """The kernel shows a word and takes its number."""
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
INT = Format("INT", _strip)
HEX = Format("HEX", lambda text: str(int(_strip(text) or "0", 0)))
COMPANY = Format("COMPANY", _strip)
BARE = Format("BARE", _strip, newline=False)
# A newline would count: 253 bytes would be one too many (target_wwn_vpd_unit_serial_store).
SERIAL = Format("SERIAL", _prefixed("T10 VPD Unit Serial Number: "), newline=False)
ACCESS_TYPE = Format("ACCESS_TYPE", _words("None", "Implicit", "Explicit",
                                           "Implicit and Explicit"))
ACCESS_STATUS = Format("ACCESS_STATUS", _words("None", "Altered by Explicit STPG",
                                               "Altered by Implicit ALUA"))
LU_GROUP = Format("LU_GROUP", _group("LU Group Alias: "))
TG_PT_GROUP = Format("TG_PT_GROUP", _group("TG Port Alias: "))
_NUMBERS = (INT, HEX, ACCESS_TYPE, ACCESS_STATUS)
_PROTECTION = ("0", "1", "3")


@dataclass(frozen=True)
class Attribute:
    """One attribute of one kind of object.

    at         kind of object (objects.Object.kind), with ``:plugin`` or ``:fabric`` where only
               those have it
    path       below the object's directory
    kind       ID, CONFIG, RUNTIME, HOST, SECRET
    window     when the kernel takes it
    rank       order among the attributes of one object and window: lower is written first
    if_absent  what a kernel without the attribute does, None where nothing is known to equal it
    symbol     the function by which a kernel shows that it has the attribute (/proc/kallsyms)
    allowed    the only values that are written, all others are refused; () where the format and
               the ranges (document/values.py) say it
    unset      values that say "never set" and can't be written
    cleared    what is written for "never set"; the kernel then does as if it was not
    first      value → (path, value) of what the object must say when that value is written, and
               only then
    source     where the rule comes from
    """

    at: str
    path: str
    kind: str
    window: str = ANY
    format: Format = INT
    rank: int = 50
    if_absent: Optional[str] = None
    symbol: str = ""
    allowed: Tuple[str, ...] = ()
    unset: Tuple[str, ...] = ()
    cleared: str = ""
    first: Mapping[str, Tuple[str, str]] = None  # type: ignore[assignment]
    compared: bool = False
    source: str = ""

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
        """Whether it is written as a plain decimal."""
        return self.format in _NUMBERS or self.path in ("lu_gp_id", "tg_pt_gp_id")  # RAW: empty

    def value(self, text: str) -> str:
        """What ``text``, as read from the kernel, would be written as."""
        value = self.format.read(text)
        return Secret(value) if self.kind == SECRET else value

    def encode(self, value: str) -> bytes:
        return value.encode(errors="surrogateescape") + (b"\n" if self.format.newline else b"")


def _rows(at: str, kind: str, names: str, window: str = ANY, prefix: str = "",
          **more: object) -> Iterator[Attribute]:
    for name in names.split():
        yield Attribute(at, prefix + name, kind, window, **more)  # type: ignore[arg-type]


def _table() -> Iterator[Attribute]:
    # ---- backstore ------------------------------------------------------------------------
    yield Attribute("backstore", "udev_path", CONFIG, PRE_ENABLE, RAW, 10, unset=("",),
                    source="target_core_configfs.c:target_dev_udev_path_store")
    yield Attribute("backstore", "alias", CONFIG, PRE_ENABLE, RAW, 11, unset=("",),
                    source="target_core_configfs.c:target_dev_alias_store")

    def attrib(kind: str, names: str, window: str = ENABLED, at: str = "backstore",
               **more: object) -> Iterator[Attribute]:
        return _rows(at, kind, names, window, "attrib/", **more)

    # Rewrites wwn/product_id, so it goes first and wwn/ after it (dev_set_t10_wwn_model_alias).
    yield from attrib(ID, "emulate_model_alias", UNEXPORTED, rank=1)
    # Up to 6.1 a file's block_size lowers what optimal_sectors may be, not what it is: so before.
    yield from attrib(ID, "optimal_sectors", UNEXPORTED, rank=2)
    # enable resets it to hw_block_size; the limits are counted in it.
    yield from attrib(ID, "block_size", UNEXPORTED, rank=3,
                      allowed=("512", "1024", "2048", "4096"))
    yield from attrib(CONFIG, "queue_depth", UNEXPORTED, rank=3)
    # On an enabled backstore only, as the writer holds (kernel/configfs.py).
    yield from attrib(ID, "emulate_tpu emulate_tpws", rank=5)
    yield from attrib(ID, "unmap_zeroes_data", UNEXPORTED, rank=6)
    # enable overwrites the limits with the device's own, and so does each of the three above where
    # max_unmap_block_desc_count is 0 (configure_unmap): after them.
    yield from attrib(ID, "max_unmap_lba_count max_unmap_block_desc_count unmap_granularity "
                          "unmap_granularity_alignment max_write_same_len", rank=7)
    yield from attrib(ID, "pi_prot_type", UNEXPORTED, rank=7, allowed=_PROTECTION)
    yield from attrib(CONFIG, "pi_prot_verify", rank=8)
    yield from attrib(ID, "emulate_ua_intlck_ctrl emulate_tas", UNEXPORTED)
    yield from attrib(CONFIG, "force_pr_aptpl", UNEXPORTED)
    yield from attrib(ID, "emulate_dpo emulate_fua_write emulate_fua_read emulate_caw "
                          "emulate_3pc emulate_pr is_nonrot")
    yield from attrib(ID, "emulate_write_cache", at="backstore:fileio,iblock,rd_mcp")
    # tcmu: before enable, with which its handler in user space is told of it.
    yield from attrib(ID, "emulate_write_cache", PRE_ENABLE, at="backstore:user", rank=12,
                      source="target_core_user.c:tcmu_emulate_write_cache_store")
    yield from attrib(CONFIG, "cmd_time_out", UNEXPORTED, at="backstore:user")
    yield from attrib(CONFIG, "qfull_time_out tmr_notification", at="backstore:user")
    # -1 is the administrator's, else enable takes what the host's handler has said.
    yield from attrib(CONFIG, "nl_reply_supported", PRE_ENABLE, at="backstore:user", rank=12,
                      unset=("0", "1"), source="target_core_user.c:tcmu_configure_device")
    # What control was told, by which it is carried.
    yield from attrib(HOST, "dev_config dev_size", at="backstore:user")
    yield from attrib(ID, "emulate_rest_reord", allowed=("0",))
    yield from attrib(CONFIG, "enforce_pr_isids")
    yield from attrib(ID, "emulate_rsoc", if_absent="0", symbol="emulate_rsoc_show")
    yield from attrib(ID, "alua_support pgr_support", if_absent="1")
    yield from attrib(HOST, "hw_block_size", compared=True)
    yield from attrib(HOST, "hw_max_sectors hw_queue_depth hw_pi_prot_type submit_type "
                            "complete_type pi_prot_format",
                      source="of the host's own device; pi_prot_format is an action, no state")
    yield from attrib(HOST, "atomic_max_len atomic_alignment atomic_granularity "
                            "atomic_max_with_boundary atomic_max_boundary",
                      compared=True, if_absent="0")

    yield from _rows("backstore", ID, "vendor_id product_id revision", UNEXPORTED, "wwn/",
                     format=RAW, rank=60)
    yield Attribute("backstore", "wwn/company_id", ID, UNEXPORTED, COMPANY, 60,
                    if_absent="0x001405",
                    symbol="target_wwn_company_id_show",
                    source="target_core_configfs.c:target_wwn_company_id")
    # Empty, and never written, it shows no NAA; a newline would switch on an all-zero one.
    yield Attribute("backstore", "wwn/vpd_unit_serial", ID, UNEXPORTED, SERIAL, 60, unset=("",),
                    source="target_core_configfs.c:target_wwn_vpd_unit_serial_store")
    yield Attribute("backstore", "wwn/pd_text_id_info", ID, UNEXPORTED, RAW, 60, unset=("",),
                    if_absent="", symbol="target_wwn_pd_text_id_info_show",
                    source="target_core_configfs.c:target_wwn_pd_text_id_info_store")
    # Whose state is which goes by the map, so it comes before the states (alua_access_state 4).
    yield Attribute("backstore", "lba_map", ID, ENABLED, RAW, 80, unset=("",),
                    source="target_core_configfs.c:target_dev_lba_map_store")
    # Needs the LU group, and enable (before it, the write is lost). In a group, a change of state
    # is one of all its members: so after the states. The name of a group that is there; back to the
    # default one by removing the other one.
    yield Attribute("backstore", "alua_lu_gp", ID, ENABLED, LU_GROUP, 95,
                    unset=("", "default_lu_gp"),
                    source="target_core_configfs.c:target_dev_alua_lu_gp_store")

    # ---- LU and target port groups ----------------------------------------------------------
    yield Attribute("lu_group", "lu_gp_id", ID, ONCE, RAW, 1, unset=("",))
    alua = "alua_group"
    # Until it has an id, a group takes nothing else.
    yield Attribute(alua, "tg_pt_gp_id", ID, ONCE, RAW, 1, unset=("", "0"))
    yield Attribute(alua, "alua_write_metadata", CONFIG, rank=2)
    # The states of SPC that a group can be left in.  A fresh group takes each of them; what may
    # forbid the one that it has, or makes each change of it last, is written behind it: an
    # initiator can have set it (STPG), or somebody before that.  Writing the state sets the status.
    yield Attribute(alua, "alua_access_state", RUNTIME, rank=90,
                    allowed=("0", "1", "2", "3", "4", "15"), first={"4": ("alua_access_type", "1")},
                    source="target_core_configfs.c:target_tg_pt_gp_alua_access_state_store")
    yield Attribute(alua, "alua_access_status", RUNTIME, ANY, ACCESS_STATUS, 91)
    yield Attribute(alua, "alua_access_type", ID, ANY, ACCESS_TYPE, 92)
    yield from _rows(alua, ID, "alua_support_transitioning alua_support_offline "
                     "alua_support_unavailable alua_support_standby "
                     "alua_support_active_nonoptimized alua_support_active_optimized", rank=93)
    # Follows from lba_map and refuses every write without one.
    yield Attribute(alua, "alua_support_lba_dependent", HOST)
    # The kernel sleeps so long in each write of the state (core_alua_do_transition_tg_pt).
    yield from _rows(alua, CONFIG, "nonop_delay_msecs trans_delay_msecs implicit_trans_secs",
                     rank=94)
    yield Attribute(alua, "preferred", ID, rank=94)

    # ---- target ---------------------------------------------------------------------------
    yield Attribute("target", "param/cmd_completion_affinity", HOST)

    # ---- TPG ------------------------------------------------------------------------------
    tpg = "tpg:iscsi"
    # Adds and removes None in param/AuthMethod, so before it (iscsit_ta_authentication).
    yield Attribute(tpg, "attrib/authentication", CONFIG, GATE_SHUT, INT, 1)
    # generate_node_acls=1 forces cache_dynamic_acls, so before it (iscsit_ta_generate_node_acls).
    yield Attribute(tpg, "attrib/generate_node_acls", CONFIG, GATE_SHUT, INT, 2)
    yield from _rows(tpg, CONFIG, "cache_dynamic_acls default_cmdsn_depth default_erl "
                     "demo_mode_discovery demo_mode_write_protect "
                     "login_keys_workaround login_timeout prod_mode_write_protect t10_pi "
                     "tpg_enabled_sendtargets", GATE_SHUT, "attrib/", rank=3)
    yield Attribute(tpg, "attrib/fabric_prot_type", CONFIG, GATE_SHUT, INT, 3,
                    allowed=_PROTECTION)
    yield Attribute(tpg, "attrib/netif_timeout", HOST)  # gone since 6.2; no effect on the wire
    # A stored newline would be part of the name: BARE.  NONE clears, so it is not "unset".
    yield from _rows(tpg, CONFIG, "auth/userid auth/userid_mutual", GATE_SHUT, format=BARE,
                     rank=4, unset=("",))
    yield from _rows(tpg, SECRET, "auth/password auth/password_mutual", GATE_SHUT, format=BARE,
                     rank=4, unset=("",))
    yield from _rows(tpg, CONFIG, "AuthMethod HeaderDigest DataDigest MaxConnections TargetAlias "
                     "InitialR2T ImmediateData MaxRecvDataSegmentLength MaxXmitDataSegmentLength "
                     "MaxBurstLength FirstBurstLength DefaultTime2Wait DefaultTime2Retain "
                     "MaxOutstandingR2T DataPDUInOrder DataSequenceInOrder ErrorRecoveryLevel "
                     "IFMarker OFMarker IFMarkInt OFMarkInt", GATE_SHUT, "param/", format=RAW,
                     rank=5)
    # 0 is "not yet given": the kernel gives the lowest free one at enable.
    yield Attribute("tpg", "rtpi", ID, GATE_SHUT, HEX, 6, unset=("0",), if_absent="0",
                    symbol="target_fabric_tpg_base_rtpi_show",
                    source="target_core_tpg.c:target_tpg_register_rtpi")
    yield Attribute("tpg:vhost,loopback", "attrib/fabric_prot_type", CONFIG, ANY, INT, 6,
                    allowed=_PROTECTION)
    yield Attribute("tpg:loopback", "transport_status", RUNTIME, ANY, RAW, 7,
                    allowed=("online", "offline"))
    # An error stands for "no nexus"; it can't go while LUNs are linked.
    yield Attribute("tpg:vhost,loopback", "nexus", CONFIG, NEXUS, RAW, 100, unset=("",),
                    source="drivers/vhost/scsi.c:vhost_scsi_tpg_nexus_store")
    yield Attribute(tpg, "enable", RUNTIME, GATE, INT, 100,
                    source="target_core_fabric_configfs.c:target_fabric_tpg_base_enable_store")
    yield from _rows("portal", CONFIG, "iser cxgbit", rank=1)

    # ---- LUN --------------------------------------------------------------------------------
    # Right after the link and before any ACL, else every mapping owes its initiator a 3F/03.
    yield Attribute("lun", "alua_tg_pt_gp", ID, LINKED, TG_PT_GROUP, 1,
                    unset=("", "default_tg_pt_gp"))
    yield from _rows("lun", RUNTIME, "alua_tg_pt_offline alua_tg_pt_write_md", LINKED, rank=2)
    yield Attribute("lun", "alua_tg_pt_status", RUNTIME, LINKED, INT, 3)  # offline sets it
    # Read from statistics/scsi_port/indx on kernels without tpgt_N/rtpi, see reader.

    # ---- discovery: the host's, for all of its iSCSI targets -----------------------------------
    # NONE makes it unset, and is shown (iscsi_target_configfs.c:__iscsi_disc_userid_store).
    discovery = "discovery_auth"
    yield from _rows(discovery, CONFIG, "userid userid_mutual", format=BARE, rank=1,
                     unset=("", NONE), cleared=NONE)
    yield from _rows(discovery, SECRET, "password password_mutual", format=BARE, rank=1,
                     unset=("", NONE), cleared=NONE)
    yield Attribute(discovery, "enforce_discovery_auth", CONFIG, rank=2, cleared="0")

    # ---- ACL --------------------------------------------------------------------------------
    acl = "acl:iscsi"
    yield from _rows(acl, CONFIG, "dataout_timeout dataout_timeout_retries default_erl "
                     "nopin_response_timeout nopin_timeout random_datain_pdu_offsets "
                     "random_datain_seq_offsets random_r2t_offsets", GATE_SHUT, "attrib/", rank=2)
    yield Attribute(acl, "attrib/authentication", CONFIG, GATE_SHUT, INT, 1, if_absent="-1",
                    symbol="iscsi_nacl_attrib_authentication_show")
    yield from _rows(acl, CONFIG, "auth/userid auth/userid_mutual", GATE_SHUT, format=BARE,
                     rank=3, unset=("",))
    yield from _rows(acl, SECRET, "auth/password auth/password_mutual", GATE_SHUT, format=BARE,
                     rank=3, unset=("",))
    # Changing it drops the initiator's session.
    yield Attribute(acl, "cmdsn_depth", CONFIG, GATE_SHUT, INT, 4)
    yield Attribute(acl, "tag", CONFIG, ANY, BARE, 5, unset=("",))
    # Before the link it is lost (target_fabric_mappedlun_write_protect_store).
    yield Attribute("mapped_lun", "write_protect", CONFIG, LINKED, INT, 1)


TABLE: Tuple[Attribute, ...] = tuple(_table())


def _index() -> Dict[Tuple[str, str], Dict[str, Attribute]]:
    """(kind of object, plugin or fabric) → path → row, for those that the table names."""
    owners = {"backstore": ("fileio", "iblock", "rd_mcp", "pscsi", "user"),
              "alua_group": ("",), "lu_group": ("",), "discovery_auth": ("",)}
    index: Dict[Tuple[str, str], Dict[str, Attribute]] = {}
    for row in TABLE:
        for owner in row.only or owners.get(row.kind_of_object, ("iscsi", "vhost", "loopback")):
            index.setdefault((row.kind_of_object, owner), {})[row.path] = row
    return index


_INDEX = _index()


def rows(kind: str, owner: str = "") -> Mapping[str, Attribute]:
    """The rows of a kind of object: ``{path: row}``; ``owner`` is its plugin or fabric."""
    return _INDEX.get((kind, owner), {})


def row(kind: str, owner: str, path: str) -> Optional[Attribute]:
    return rows(kind, owner).get(path)


def hides(kind: str, path: str) -> bool:
    """Whether an attribute that the table does not know may be a secret."""
    return kind == "discovery_auth" or path.startswith("auth/")


def owner_of(key: Tuple[str, ...]) -> str:
    """The plugin or fabric of a key, "" for groups."""
    if key[0] == "target" or (key[0] == "backstore" and len(key) == 3):
        return key[1]
    return ""
