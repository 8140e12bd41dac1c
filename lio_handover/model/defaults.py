"""What an object has that was just made: what is wanted just so needs neither a look nor a write.

Seen on real kernels from 6.1 to 7.2, and held to them by a test.  Left out is what follows the
device; where a kernel at hand is different all the same, reading back finds it, and the plan is
made again without this table (verbs.Core.import_).
"""
from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, Mapping, Set, Tuple

from .attributes import rows
from .objects import Backstore, Key, Tpg

Values = Mapping[str, str]


def _values(prefix: str, words: str) -> Dict[str, str]:
    pairs = (word.partition("=") for word in words.split())
    return {prefix + name: value for name, _equals, value in pairs}


#: what does not follow the device, of every plugin that takes commands itself
_STORE = {
    "udev_path": "", "alias": "", "alua_lu_gp": "default_lu_gp", "lba_map": "",
    **_values("attrib/", """
        emulate_model_alias=0 queue_depth=128 emulate_tpu=0 emulate_tpws=0 pi_prot_verify=0
        emulate_ua_intlck_ctrl=0 emulate_tas=1 force_pr_aptpl=0 emulate_dpo=1 emulate_fua_write=1
        emulate_fua_read=1 emulate_caw=1 emulate_3pc=1 emulate_pr=1 emulate_rest_reord=0
        enforce_pr_isids=1 emulate_rsoc=1 alua_support=1 pgr_support=1"""),
    "wwn/vendor_id": "LIO-ORG", "wwn/revision": "4.0", "wwn/company_id": "0x001405",
    "wwn/vpd_unit_serial": "", "wwn/pd_text_id_info": ""}
#: of a file: fd_configure_device, fd_configure_unmap (target_core_file.c)
_FILE = _values("attrib/", """
    block_size=512 optimal_sectors=16384 max_unmap_lba_count=8192 max_unmap_block_desc_count=1
    unmap_granularity=1 unmap_granularity_alignment=0 max_write_same_len=4096 unmap_zeroes_data=0
    pi_prot_type=0 is_nonrot=0 emulate_write_cache=0""")
_GROUP = {"tg_pt_gp_id": "", **_values("", """
    alua_access_type=3 alua_support_transitioning=1 alua_support_offline=1
    alua_support_unavailable=1 alua_support_standby=1 alua_support_active_nonoptimized=1
    alua_support_active_optimized=1 alua_write_metadata=0 nonop_delay_msecs=100
    trans_delay_msecs=0 implicit_trans_secs=0 preferred=0 alua_access_state=0
    alua_access_status=0""")}
_NAMES = {"auth/userid": "", "auth/userid_mutual": "", "auth/password": "",
          "auth/password_mutual": ""}
_TPG = {
    **_NAMES, **_values("attrib/", """
        authentication=1 generate_node_acls=0 cache_dynamic_acls=0 default_cmdsn_depth=64
        default_erl=0 demo_mode_discovery=1 demo_mode_write_protect=1 fabric_prot_type=0
        login_keys_workaround=1 login_timeout=15 prod_mode_write_protect=0 t10_pi=0
        tpg_enabled_sendtargets=1"""),
    **_values("param/", """
        AuthMethod=CHAP HeaderDigest=CRC32C,None DataDigest=CRC32C,None MaxConnections=1
        InitialR2T=Yes ImmediateData=Yes MaxRecvDataSegmentLength=8192
        MaxXmitDataSegmentLength=262144 MaxBurstLength=262144 FirstBurstLength=65536
        DefaultTime2Wait=2 DefaultTime2Retain=20 MaxOutstandingR2T=1 DataPDUInOrder=Yes
        DataSequenceInOrder=Yes ErrorRecoveryLevel=0 IFMarker=No OFMarker=No IFMarkInt=Reject
        OFMarkInt=Reject"""),
    "param/TargetAlias": "LIO Target"}
_ACL = {**_NAMES, "tag": "", "cmdsn_depth": "64", **_values("attrib/", """
    dataout_timeout=3 dataout_timeout_retries=5 default_erl=0 nopin_response_timeout=30
    nopin_timeout=15 random_datain_pdu_offsets=0 random_datain_seq_offsets=0 random_r2t_offsets=0
    authentication=-1""")}
_LUN = _values("", "alua_tg_pt_offline=0 alua_tg_pt_write_md=0 alua_tg_pt_status=0")
_MAPPED = {"write_protect": "0"}

#: (kind of object, plugin or fabric) → attribute → value of one that was just made
FRESH: Mapping[Tuple[str, str], Values] = {
    ("backstore", "fileio"): {**_STORE, **_FILE, "wwn/product_id": "FILEIO"},
    ("backstore", "iblock"): {**_STORE, "wwn/product_id": "IBLOCK"},
    ("alua_group", ""): _GROUP,
    ("tpg", "iscsi"): _TPG,
    ("tpg", "vhost"): {"attrib/fabric_prot_type": "0"},
    ("tpg", "loopback"): {"attrib/fabric_prot_type": "0", "transport_status": "online"},
    ("portal", "iscsi"): {"iser": "0", "cxgbit": "0"},
    ("acl", "iscsi"): _ACL,
    **{("lun", fabric): _LUN for fabric in ("iscsi", "vhost", "loopback")},
    **{("mapped_lun", fabric): _MAPPED for fabric in ("iscsi", "vhost")},
}

#: (kind of object, attribute) → those of the same object that writing it changes, too
CLOBBERS: Mapping[Tuple[str, str], Tuple[str, ...]] = {
    ("backstore", "attrib/emulate_model_alias"): ("wwn/product_id",),
    ("backstore", "attrib/block_size"): ("attrib/max_unmap_lba_count",
                                         "attrib/max_write_same_len"),
    ("backstore", "attrib/pi_prot_type"): ("attrib/pi_prot_verify",),
    ("alua_group", "alua_access_type"): ("alua_access_state", "alua_access_status"),
    ("alua_group", "alua_access_state"): ("alua_access_status",),
    ("tpg", "attrib/authentication"): ("param/AuthMethod",),
    ("tpg", "attrib/generate_node_acls"): ("attrib/cache_dynamic_acls",),
    ("lun", "alua_tg_pt_offline"): ("alua_tg_pt_status",),
}

#: Each of these sets the limits, too, where there are none yet (configure_unmap).
_UNMAP = ("attrib/emulate_tpu", "attrib/emulate_tpws", "attrib/unmap_zeroes_data")
_LIMITS = ("attrib/max_unmap_lba_count", "attrib/max_unmap_block_desc_count",
           "attrib/unmap_granularity", "attrib/unmap_granularity_alignment")

#: (kind of object, attribute) → the attribute of its TPG from which a new one has its value
INHERITED: Mapping[Tuple[str, str], str] = {
    ("acl", "cmdsn_depth"): "attrib/default_cmdsn_depth",
    ("acl", "attrib/default_erl"): "attrib/default_erl",
    ("mapped_lun", "write_protect"): "attrib/prod_mode_write_protect",
}

#: (kind, plugin or fabric) → its rows that stand for something where they are missing
_MEANT = {place: tuple(row for row in rows(*place).values()
                       if row.if_absent is not None and row.if_absent not in row.unset)
          for place in FRESH}


def store_values(one: Backstore) -> Values:
    """Of a backstore that was just enabled: a file's only where it is one by its size."""
    known = FRESH.get(("backstore", one.plugin), {})
    if one.plugin != "fileio":
        return known
    if "fd_dev_size" not in one.parameters:
        return {name: value for name, value in known.items() if name not in _FILE}
    if one.parameters.get("fd_buffered_io") == "1":
        return {**known, "attrib/emulate_write_cache": "1"}
    return known


def values(key: Key, kind: str, tpg: Tpg, readonly: bool = False) -> Values:
    """Of a new object of ``tpg``; ``readonly``: what it maps can't be written."""
    known = FRESH.get((kind, key[1]), {})
    unsure = {name for (what, name), above in INHERITED.items() if what == kind
              and tpg.attributes.get(above, _TPG[above]) != _TPG[above]}
    if readonly and kind == "mapped_lun":
        unsure.add("write_protect")
    return {name: value for name, value in known.items() if name not in unsure} if unsure else known


def clobbered(kind: str, names: Iterable[str], known: Values) -> FrozenSet[str]:
    """The attributes whose value nobody knows once these are written to what was ``known``."""
    found: Set[str] = set()
    for name in names:
        found.update(CLOBBERS.get((kind, name), ()))
        if name in _UNMAP and known.get("attrib/max_unmap_block_desc_count", "0") == "0":
            found.update(_LIMITS)
    return frozenset(found)


def meant(kind: str, owner: str, attributes: Values, known: Values) -> Iterable[Tuple[str, str]]:
    """(attribute, value) that a source without the attribute had, and a new object has not."""
    for row in _MEANT.get((kind, owner), ()):
        assert row.if_absent is not None
        if row.path not in attributes and known.get(row.path) != row.if_absent:
            yield row.path, row.if_absent
