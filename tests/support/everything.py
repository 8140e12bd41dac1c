"""Targets on which every writable file says something else than by itself, made by bare hands.

Nothing but mkdir, write and symlink makes them: a mistake of the product can't hide one of its
own here.  ``Made.fresh`` is what each writable file said when its object was made, so ``build``
tells, by walking the tree and not by any table, which still say it.  These are functions of a lab
host.
"""
from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lio_handover.document import document as documents
from lio_handover.execute.executor import Outcome
from lio_handover.local.by_file import ByFile
from lio_handover.scsi import cdb
from lio_handover.scsi.fingerprint import drain
from lio_handover.scsi.vhost import Endpoint
from tests.lab.inside import DBROOT, TARGET, discovery_is_set, forget_discovery, run
from tests.lab.isid import Session
from tests.support import inhost

MiB = 1024 * 1024
SIZE = 4 * MiB
IQN = "iqn.2026-11.org.example:everything"
ALICE = "iqn.2026-11.org.example:alice"
BOB = "iqn.2026-11.org.example:bob"
WWPN = "naa.5001405abcdef0e0"
NEXUS = "naa.5001405abcdef0f"       # and the number of the TPG
TAGS = (1, 2, 3, 4, 5)

FLIP = "flip"       # what it is not by itself: that follows the storage
#: Of fileio and iblock; in this order, as the model's alias writes the product and the block's
#: size bounds the limits.  What a kernel does not have, or not for this storage, is left out.
ATTRIB = {
    "emulate_model_alias": "1", "block_size": "4096", "optimal_sectors": "32",
    "queue_depth": "64", "max_unmap_lba_count": "4096", "max_unmap_block_desc_count": "3",
    "unmap_granularity": "8", "unmap_granularity_alignment": "4", "max_write_same_len": "512",
    "emulate_tpu": "1", "emulate_tpws": "1", "unmap_zeroes_data": "1",
    "emulate_ua_intlck_ctrl": "1", "emulate_tas": "0", "force_pr_aptpl": "1",
    "emulate_fua_write": "0", "emulate_caw": "0", "emulate_3pc": "0", "is_nonrot": FLIP,
    "emulate_write_cache": "1", "enforce_pr_isids": "0", "emulate_rsoc": "0",
    "submit_type": "1", "complete_type": "1",
}
WWN = {"vendor_id": "ACME", "product_id": "Flux Array 9000", "revision": "7.01",
       "company_id": "0x00a098", "pd_text_id_info": "shelf 7, slot 3"}
TPG = {
    "attrib/authentication": "0", "attrib/generate_node_acls": "0",
    "attrib/cache_dynamic_acls": "1", "attrib/default_cmdsn_depth": "32", "attrib/default_erl": "1",
    "attrib/demo_mode_discovery": "0", "attrib/demo_mode_write_protect": "0",
    "attrib/fabric_prot_type": "1", "attrib/login_keys_workaround": "0",
    "attrib/login_timeout": "20", "attrib/netif_timeout": "10",
    "attrib/prod_mode_write_protect": "1", "attrib/t10_pi": "1",
    "attrib/tpg_enabled_sendtargets": "0",
    "auth/userid": "tpg", "auth/password": "secret of the TPG",
    "auth/userid_mutual": "tpg-back", "auth/password_mutual": "secret of the TPG's answer",
    "param/AuthMethod": "None", "param/HeaderDigest": "None", "param/DataDigest": "None",
    "param/MaxConnections": "4", "param/TargetAlias": "All that can be said",
    "param/InitialR2T": "No", "param/ImmediateData": "No",
    "param/MaxRecvDataSegmentLength": "16384", "param/MaxXmitDataSegmentLength": "131072",
    "param/MaxBurstLength": "524288", "param/FirstBurstLength": "32768",
    "param/DefaultTime2Wait": "5", "param/DefaultTime2Retain": "30",
    "param/MaxOutstandingR2T": "4", "param/DataPDUInOrder": "No",
    "param/DataSequenceInOrder": "No", "param/ErrorRecoveryLevel": "1",
    "param/IFMarker": "Yes", "param/OFMarker": "Yes", "param/IFMarkInt": "2048~4096",
    "param/OFMarkInt": "2048~4096",
    "rtpi": "77",
}
ACL = {
    "attrib/authentication": "0", "attrib/dataout_timeout": "10",
    "attrib/dataout_timeout_retries": "7", "attrib/default_erl": "2",
    "attrib/nopin_response_timeout": "40", "attrib/nopin_timeout": "20",
    "attrib/random_datain_pdu_offsets": "1", "attrib/random_datain_seq_offsets": "1",
    "attrib/random_r2t_offsets": "1",
    "auth/userid": "alice", "auth/password": "secret of alice",
    "auth/userid_mutual": "alice-back", "auth/password_mutual": "secret of alice's answer",
    "cmdsn_depth": "16", "tag": "a tag",
}
DISCOVERY = {"userid": "anyone", "password": "secret of discovery", "userid_mutual": "array",
             "password_mutual": "secret of discovery's answer", "enforce_discovery_auth": "1"}
#: Group → what is written, in order: the state while the kernel takes it, then what forbids it.
GROUPS = {
    "standby": {"tg_pt_gp_id": "3", "alua_write_metadata": "1", "alua_access_state": "2",
                "alua_access_status": "1", "alua_support_standby": "0", "preferred": "1",
                "alua_support_offline": "0", "nonop_delay_msecs": "20", "trans_delay_msecs": "30",
                "implicit_trans_secs": "40", "alua_access_type": "2"},
    "slow": {"tg_pt_gp_id": "4", "alua_access_state": "1", "alua_access_status": "0",
             "alua_access_type": "1", "alua_support_active_nonoptimized": "0",
             "alua_support_active_optimized": "0", "alua_support_standby": "0"},
    "away": {"tg_pt_gp_id": "5", "alua_access_state": "3", "alua_access_type": "0",
             "alua_support_unavailable": "0"},
    "moving": {"tg_pt_gp_id": "6", "alua_access_state": "15", "alua_support_transitioning": "0"},
    "nameless": {},
}
DEFAULT_GROUP = {
    "alua_write_metadata": "1", "alua_access_state": "1", "alua_access_status": "1",
    "alua_support_transitioning": "0", "alua_support_offline": "0",
    "alua_support_unavailable": "0", "alua_support_standby": "0",
    "alua_support_active_nonoptimized": "0", "alua_support_active_optimized": "0",
    "nonop_delay_msecs": "50", "trans_delay_msecs": "60", "implicit_trans_secs": "70",
    "preferred": "1", "alua_access_type": "1"}
LBA_MAP = "131072 2\n0 511 11:O 12:A\n512 1023 11:A 12:O\n"


#: What an older kernel lacks and could not be told, so that it is as it is by itself.
LATER = ("fileio/wwn/pd_text_id_info", "iblock/wwn/pd_text_id_info")


@dataclass
class Made:
    """What was made, and what the kernel would not take: path → errno."""

    fresh: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def new(self, folder: Path) -> Path:
        """Make an object, and note what its writable files say by themselves."""
        if not folder.exists():
            self.new(folder.parent)
            folder.mkdir()
            for path, text in writable(folder):
                self.fresh.setdefault(path, text)
        return folder

    def put(self, folder: Path, values: dict[str, str], prefix: str = "") -> None:
        for name, value in values.items():
            path = folder / (prefix + name)
            if not path.exists():       # not with this kernel
                continue
            if value == FLIP:
                value = "0" if said(path) == "1\n" else "1"
            try:
                with open(path, "wb", buffering=0) as file:
                    file.write(value.encode())
            except OSError as error:
                self.refused[str(path.relative_to(TARGET))] = error.errno or 0

    def link(self, place: Path, to: Path) -> None:
        self.new(place)
        (place / f"{len(self.fresh):x}").symlink_to(to)     # any name, as targetcli's
        for path, text in writable(place):      # some say nothing before there is a link
            self.fresh[path] = text


def writable(folder: Path) -> Iterator[tuple[str, str]]:
    """(path in the tree, what it says) of each file below that can be written."""
    for where, _folders, files in os.walk(folder):
        for name in files:
            path = Path(where, name)
            if path.stat().st_mode & stat.S_IWUSR:
                yield str(path.relative_to(TARGET)), said(path)


def said(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"errno {error.errno}"


def pattern(path: str) -> str:
    """A path without the names: what it is that is said there."""
    for expression, instead in (
            (r"^core/alua/lu_gps/(?!default_)[^/]+", "lu_gps/*"), (r"^core/alua/", ""),
            (r"^core/([a-z]+)_\d+/(?=\w+$)", r"\1_*/"), (r"^core/([a-z]+)_\d+/[^/]+", r"\1"),
            (r"^(\w+)/alua/(?!default_)[^/]+/", r"\1/alua/*/"),
            (r"^(iscsi|vhost)/(?!discovery_auth)[^/]+/", r"\1/*/"),
            (r"tpgt_\d+", "tpgt"), (r"/np/[^/]+", "/np/*"), (r"/lun_\d+", "/lun"),
            (r"/acls/[^/]+", "/acls/*")):
        path = re.sub(expression, instead, path)
    return path


# ── the targets ──────────────────────────────────────────────────────────────────────────────

def backstore(made: Made, place: str, control: str, serial: str,
              attrib: dict[str, str] = {}, wwn: dict[str, str] = {}) -> Path:
    store = made.new(TARGET / "core" / place)
    made.put(store, {"control": control})
    if attrib:
        made.put(store, {"udev_path": control.partition("=")[2].partition(",")[0],
                         "alias": "an alias, with spaces"})
    (store / "enable").write_text("1")
    for path, text in writable(store):      # the storage has set the limits
        if "/attrib/" in path:
            made.fresh[path] = text
    made.put(store, attrib, "attrib/")
    made.put(store, {"vpd_unit_serial": serial, **wwn}, "wwn/")
    return store


def groups(made: Made, store: Path) -> None:
    for name, values in GROUPS.items():
        made.put(made.new(store / "alua" / name), values)
    made.put(store / "alua/default_tg_pt_gp", DEFAULT_GROUP)


def backstores(made: Made, folder: str, device: str, more: str, common: str
               ) -> dict[str, Path]:
    """All kinds, by a name each; ``more`` is a second device, ``common`` see ``build``."""
    wwn = {name: value for name, value in WWN.items() if name != "pd_text_id_info" or not common}

    def path(name: str) -> str:
        found = Path(folder, f"{name}.img")
        if not found.exists():
            found.write_bytes(b"\0" * SIZE)
        return f"fd_dev_name={found},fd_dev_size={SIZE}"

    stores = {
        "all": backstore(made, "fileio_0/all", path("all"), "ALL-0001", ATTRIB, wwn),
        "pi": backstore(made, "fileio_1/pi", path("pi") + ",fd_async_io=1", "PI-0002",
                        {"pi_prot_type": "1", "pi_prot_verify": "1"}),
        "lba": backstore(made, "fileio_2/lba", path("lba") + ",fd_buffered_io=1", "LBA-0003"),
        "hidden": backstore(made, "fileio_3/hidden", path("hidden"), "HIDE-0004",
                            {"emulate_pr": "0"}),
        "disk": backstore(made, "iblock_0/disk", f"udev_path={device}", "DISK-0005", ATTRIB, wwn),
    }
    if more:
        stores["raw"] = backstore(made, "iblock_1/raw", f"udev_path={more},readonly=1", "RAW-0006",
                                  {"pgr_support": "1" if common == "oldest" else "0",
                                   "emulate_pr": "0", "pi_prot_type": "3", "pi_prot_verify": "1"})
    if common == "oldest":
        for store in stores.values():
            made.put(store, {"attrib/emulate_rsoc": "0"})
    for name in ("all", "disk"):
        groups(made, stores[name])
    for store in (one for name, one in stores.items() if name in ("lba", "raw")):
        for number, name in ((11, "here"), (12, "there")):
            group = made.new(store / "alua" / name)
            made.put(group, {"tg_pt_gp_id": str(number), "alua_access_type": "1"})
        made.put(store, {"lba_map": LBA_MAP})
        made.put(store / "alua/here", {"alua_access_state": "4", "alua_access_type": "3"})
    # In one LU group each has kept the state that it had before it came in.
    made.put(made.new(TARGET / "core/alua/lu_gps/shelf"), {"lu_gp_id": "7"})
    made.put(stores["disk"] / "alua/standby", {"alua_access_type": "3",
                                               "alua_support_standby": "1",
                                               "alua_access_state": "0",
                                               "alua_access_status": "2"})
    for name in ("all", "disk"):
        made.put(stores[name], {"alua_lu_gp": "shelf"})
    return stores


def iscsi(made: Made, stores: dict[str, Path]) -> None:
    made.new(TARGET / "iscsi")
    made.put(TARGET / "iscsi", {"cpus_allowed_list": "0"})
    made.put(TARGET / "iscsi/discovery_auth", DISCOVERY)
    made.put(made.new(TARGET / "iscsi" / IQN), {"param/cmd_completion_affinity": "0"})
    for tag in TAGS:
        tpg = made.new(TARGET / "iscsi" / IQN / f"tpgt_{tag}")
        made.put(tpg, {**({} if tag > 1 else TPG), "rtpi": str(2 * tag)})
        portal = made.new(tpg / "np" / f"0.0.0.0:{3259 + tag}")
        made.put(portal, {"iser": "1", "cxgbit": "1"})
        luns(made, tpg, stores, tag)
        if tag > 2:
            made.put(tpg, {"attrib/generate_node_acls": "1"})
            continue
        for number, name in enumerate((ALICE, BOB)):
            acl = made.new(tpg / "acls" / name)
            made.put(acl, ACL if not number else {"attrib/authentication": str(2 - tag)})
            mapped(made, tpg, acl, 3, number)
    for tag in TAGS[1:]:
        made.put(TARGET / "iscsi" / IQN / f"tpgt_{tag}", {"enable": "1"})
    # The first stays shut.
    reserve_iscsi()


def reserve_iscsi() -> None:
    """Through the second TPG, by alice in two sessions and by bob."""

    def persist(lun: int, *orders: cdb.Command) -> None:
        for order in orders:
            # With UA_INTLCK_CTRL LIO says BUSY for a unit attention until it is asked for it.
            session.unit(lun).execute(*cdb.request_sense())
            drain(session.unit(lun).execute)
            result = session.unit(lun).execute(*order)
            assert result.good, (lun, order, result)

    # Those that ``mapped`` lets each write: a file and the disk, and another file.
    for number, isid in enumerate(("00023d000001", "00023d000002")):
        with Session("127.0.0.1", 3261, IQN, ALICE, isid) as session:
            persist(6, cdb.register(0, 0xa0, True),
                    cdb.register(0xa0, 0xa1 + number, True))
            persist(12, cdb.register(0, 0xd1 + number))
            if number:
                persist(6, cdb.reserve(0xa2, 7))
    with Session("127.0.0.1", 3261, IQN, BOB, "00023d00000b") as session:
        persist(4, cdb.register(0, 0xc0), cdb.register(0xc0, 0xc1),
                cdb.reserve(0xc1, 3))


def vhost(made: Made, stores: dict[str, Path]) -> None:
    made.new(TARGET / "vhost")
    made.put(made.new(TARGET / "vhost" / WWPN), {"param/cmd_completion_affinity": "0"})
    for tag in TAGS:
        tpg = made.new(TARGET / "vhost" / WWPN / f"tpgt_{tag}")
        made.put(tpg, {"attrib/fabric_prot_type": "1", "rtpi": str(2 * tag)})
        luns(made, tpg, stores, tag)
        if tag < 3:
            mapped(made, tpg, made.new(tpg / "acls" / f"{NEXUS}{tag}"), 1, 0)
        made.put(tpg, {"nexus": f"{NEXUS}{tag}"})
    with Endpoint(WWPN) as endpoint:        # two guests register with the second disk
        for tag in (3, 4):
            execute = endpoint.unit(1, tag).execute
            drain(execute)
            assert execute(*cdb.register(0, 0xe0 + tag, True)).good
        assert execute(*cdb.reserve(0xe4, 5)).good


def luns(made: Made, tpg: Path, stores: dict[str, Path], tag: int) -> None:
    """Every backstore once, each in another of its groups than in the TPG before."""
    for number, (name, store) in zip((0, 1, 2, 7, 100, 300), stores.items()):
        names = [one.name for one in sorted((store / "alua").iterdir()) if one.name != "nameless"]
        lun = tpg / "lun" / f"lun_{number}"
        made.link(lun, store)
        if names[(tag + 1) % len(names)] != "default_tg_pt_gp":
            made.put(lun, {"alua_tg_pt_gp": names[(tag + 1) % len(names)]})
        if name == "all":
            made.put(lun, {"alua_tg_pt_write_md": str(tag % 2),
                           "alua_tg_pt_offline": str(tag // 2 % 2),
                           "alua_tg_pt_status": str(tag % 3)})


def mapped(made: Made, tpg: Path, acl: Path, step: int, first: int) -> None:
    for place, lun in enumerate(sorted((tpg / "lun").iterdir(), key=lambda one: int(one.name[4:]))):
        here = acl / f"lun_{place * step + first}"
        made.link(here, lun)
        made.put(here, {"write_protect": str((place + first) % 2)})


def second_disk() -> str:
    """A disk in this host's memory, alike on every host: with discard, as files may not have it."""
    # Its name is that of the number that the host gives it, where it is not told otherwise.
    run("modprobe", "scsi_debug", "dev_size_mb=8", "vpd_use_hostno=0", "lbpu=1", "lbpws=1",
        "delay=0")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in Path("/sys/class/scsi_disk").glob("*/device/block/*"):
            return f"/dev/{path.name}"
        time.sleep(0.05)
    raise TimeoutError("scsi_debug made no disk")


def build(folder: str, device: str, more: str = "", common: str = "", fabric: str = "iscsi"
          ) -> tuple[dict[str, int], list[str]]:
    """Make them; what the kernel refused (path → errno), and what is on every object as a fresh
    one has it, though it can be written.

    ``common``: the role of an older kernel which has to take it all, "" for one like this.
    """
    made = Made()
    for path, text in writable(TARGET):
        made.fresh[path] = text
    stores = backstores(made, folder, device, more, common)
    (iscsi if fabric == "iscsi" else vhost)(made, stores)
    untouched: dict[str, bool] = {}
    for path, text in writable(TARGET):
        same = made.fresh.get(path, text) == text
        untouched[pattern(path)] = untouched.get(pattern(path), True) and same
    return made.refused, sorted(name for name, same in untouched.items() if same)


# ── all that there is ────────────────────────────────────────────────────────────────────────

def tree() -> dict[str, str]:
    """Every file of the target tree and what it says, with the kernel's files below dbroot; paths
    as differences.py has them."""
    found: dict[str, str] = {}
    hbas = {f"{hba.name}/{store.name}": f"{hba.name.rpartition('_')[0]}/{store.name}"
            for hba in (TARGET / "core").iterdir() if hba.name != "alua"
            for store in hba.iterdir() if store.is_dir()}
    for hba, name in hbas.items():
        found[f"core/{name}@hba"] = hba.partition("/")[0]
    for where, folders, files in os.walk(TARGET):
        folder = _named(str(Path(where).relative_to(TARGET)), hbas)
        found[f"{folder}/"] = ""
        for name in folders:
            path = Path(where, name)
            if path.is_symlink():
                found[f"{folder}@link"] = name
                found[f"{folder}/link"] = _named(str(path.resolve().relative_to(TARGET)), hbas)
        for name in files:
            text = said(Path(where, name))
            if name == "members":       # in the order in which they came, and by HBA
                text = "\n".join(sorted(_named(f"core/{one}", hbas) if "/lu_gps/" in where else one
                                        for one in re.split(r"[\n\0]+", text)))
            # The kernel numbers these as it makes them, and nobody else can see it.
            found[f"{folder}/{name}".removeprefix("./")] = re.sub(
                r"(HBA Index|FILEIO ID): \d+", r"\1", text)
    for path in DBROOT.rglob("*"):
        if path.is_file():
            found[f"dbroot:{path.relative_to(DBROOT)}"] = path.read_text()
    return found


def _named(path: str, hbas: dict[str, str]) -> str:
    """``core/fileio_3/disk/…`` without the number."""
    words = path.split("/")
    if words[0] == "core" and "/".join(words[1:3]) in hbas:
        return "/".join(["core", hbas["/".join(words[1:3])], *words[3:]])
    if words[0] == "core" and len(words) == 2 and words[1] != "alua":
        return "core/" + words[1].rpartition("_")[0]
    return path


def furnish() -> None:
    """Let the kernel keep its ALUA metadata, which it does only where there is a folder."""
    for name in ("ALL-0001", "DISK-0005"):
        (DBROOT / "alua" / f"tpgs_{name}").mkdir(exist_ok=True)


def reset() -> None:
    """What a removed target leaves: the fabric's own settings, and the kernel's files."""
    told = discovery_is_set()
    for fabric in ("iscsi", "vhost"):
        if (TARGET / fabric).exists():
            (TARGET / fabric).rmdir()
    if told:
        forget_discovery()
    for path in DBROOT.rglob("*"):
        if path.is_file():
            path.unlink()


# ── the product's verbs, with this storage allowed ───────────────────────────────────────────

def core() -> ByFile:
    return ByFile(replace(inhost.SETTINGS, devices=("/dev/ubda", "/dev/vda", "/dev/sd?")))


def freeze(allow: tuple[str, ...]) -> None:
    one = core()
    one.freeze(one.names([], True), allow)


def export(allow: tuple[str, ...]) -> bytes:
    one = core()
    return documents.dumps(one.export(one.names([], True), allow))


def import_(data: bytes, allow: tuple[str, ...]) -> Outcome:
    one = core()
    return one.import_(one.ready(documents.loads(data)), allow)


def remove(allow: tuple[str, ...]) -> Outcome:
    return core().remove([], True, allow)[0]
