"""Sixty lines that people and programs give to targetcli, chosen before the shell was written.

Each line has its source: the manual, a distribution's guide, an agent, a storage driver.  The lines
of a story run one after the other on a host that serves nothing before; after each of them the
kernel's tree is the same, file by file, whichever targetcli ran it, and by `lio-handover shell`.
Only what a line does is its source's; names, sizes and addresses are made to fit the lab:
``{dir}`` is a folder of the host's, ``{disk}`` its block device.
"""
from __future__ import annotations

from typing import NamedTuple

MANUAL = "targetcli.8, open-iscsi/targetcli-fb"
TARGET = "ClusterLabs/resource-agents heartbeat/iSCSITarget.in"
UNIT = "ClusterLabs/resource-agents heartbeat/iSCSILogicalUnit.in"
PROXMOX = "proxmox/pve-storage src/PVE/Storage/LunCmd/LIO.pm"
CSI = "democratic-csi/democratic-csi src/driver/controller-zfs-generic/index.js"
CSI_EXAMPLE = "democratic-csi/democratic-csi examples/zfs-generic-iscsi.yaml"
COCKPIT = "cockpit-project/cockpit test/verify/check-storage-iscsi"
COCKPIT_DISKS = "cockpit-project/cockpit test/common/storagelib.py"
GLUSTER = "gluster/gluster-block rpc/block_create.c"
RED_HAT = "docs.redhat.com, RHEL 9, Managing storage devices, Configuring an iSCSI target"
ARCH = "wiki.archlinux.org, ISCSI/LIO"
CEPH = "ceph/ceph-iscsi ceph_iscsi_config/{target,client}.py: its calls of rtslib, as lines"


class Line(NamedTuple):
    """``text``: the line; ``source``: whose; ``row``: the name of the row of differences
    (tests/support/shell_differences.py) by which our shell does otherwise, "" for none."""

    text: str
    source: str
    row: str = ""


class Story(NamedTuple):
    name: str
    lines: tuple[Line, ...]


_MANUALS = "iscsi/iqn.2006-04.com.example:test-target/tpg1"
_ME, _YOU = "iqn.1994-05.com.redhat:4321576890", "iqn.1994-05.com.redhat:me"
_AGENTS = "/iscsi/iqn.2026-11.org.example:ra/tpg1"
_BLOCK = "/iscsi/iqn.2018-04.org.example:somehost/tpg1"
_HAT = "/iscsi/iqn.2006-04.com.example:444"
_GLUSTERS = "/iscsi/iqn.2016-12.org.gluster-block:aafea465"
_STORE = "/backstores/fileio/block1"
_GATE = "iqn.1994-05.com.redhat:rh7-client"

STORIES = (
    Story("the manual", (
        Line("backstores/fileio create test {dir}/test.img 100m", MANUAL),
        Line("iscsi/ create iqn.2006-04.com.example:test-target", MANUAL, "default portal"),
        Line(f"{_MANUALS}/luns/ create /backstores/fileio/test", MANUAL),
        Line("backstores/fileio create disk1 {dir}/disk1.img 140M", MANUAL),
        Line(f"{_MANUALS}/acls/ create {_ME}", MANUAL),
        Line(f"{_MANUALS}/luns/ create /backstores/fileio/disk1", MANUAL),
        Line(f"{_MANUALS}/acls/{_ME} create 2 0 1", MANUAL),
        Line("sessions detail", MANUAL),
        Line("saveconfig", MANUAL),
        Line("clearconfig confirm=true", MANUAL))),
    Story("Pacemaker's agents", (
        Line("/iscsi set global auto_add_default_portal=false", TARGET),
        Line("/iscsi create iqn.2026-11.org.example:ra", TARGET),
        Line(f"{_AGENTS}/portals create 0.0.0.0 3260", TARGET),
        Line(f"{_AGENTS}/acls create {_YOU}", TARGET),
        Line(f"{_AGENTS}/acls/{_YOU}/ set auth userid=me", TARGET),
        Line(f"{_AGENTS}/acls/{_YOU}/ set auth password=secretsecret12", TARGET, "secrets"),
        Line("/backstores/block create name=lun1 dev={disk} wwn=1a2b3c4d", UNIT),
        Line(f"{_AGENTS}/luns create /backstores/block/lun1 1", UNIT),
        Line(f"{_AGENTS}/portals delete 0.0.0.0 3260", UNIT),
        Line(f"{_AGENTS}/portals create ::0", UNIT),
        Line(f"{_AGENTS}/acls create {_ME} add_mapped_luns=False", UNIT),
        Line(f"{_AGENTS}/acls/{_ME} create 1 1", UNIT),
        Line(f"{_AGENTS}/ set attribute authentication=0 demo_mode_write_protect=0 "
             "generate_node_acls=1 cache_dynamic_acls=1", TARGET),
        Line(f"{_AGENTS}/luns delete 1", UNIT),
        Line(f"{_AGENTS}/acls/{_ME} status", UNIT),
        Line(f"{_AGENTS}/acls/ delete {_ME}", UNIT),
        Line("/backstores/block delete lun1", UNIT),
        Line("/iscsi delete iqn.2026-11.org.example:ra", TARGET))),
    Story("storage drivers", (
        Line("/iscsi create iqn.2018-04.org.example:somehost", CSI, "default portal"),
        Line(f"{_BLOCK} set attribute demo_mode_write_protect=0", CSI_EXAMPLE),
        Line("/backstores/block create name=tank-vm-100-disk-0 dev={disk}", PROXMOX),
        Line("/backstores/block/tank-vm-100-disk-0 set attribute emulate_caw=0", CSI),
        Line(f"{_BLOCK}/luns/ create /backstores/block/tank-vm-100-disk-0", PROXMOX),
        Line(f"{_BLOCK}/luns/ delete lun0", PROXMOX),
        Line("/backstores/block delete tank-vm-100-disk-0", PROXMOX))),
    Story("a distribution's guide", (
        Line("/backstores/fileio create file1 {dir}/disk1.img 200M write_back=false", RED_HAT),
        Line("/backstores/ramdisk create name=rd_backend size=1M", RED_HAT),
        Line("/iscsi create iqn.2006-04.com.example:444", RED_HAT, "default portal"),
        Line(f"{_HAT}/tpg1/luns/ create /backstores/ramdisk/rd_backend", RED_HAT),
        Line("set global auto_add_mapped_luns=false", RED_HAT),
        Line(f"{_HAT}/tpg1/acls/ create {_ME}", RED_HAT),
        Line(f"{_HAT}/tpg1/acls/{_ME} create mapped_lun=1 "
             "tpg_lun_or_backstore=/backstores/fileio/file1 write_protect=1", RED_HAT),
        Line("/backstores/fileio delete file1", RED_HAT),
        Line("/iscsi set discovery_auth enable=1 userid=admin password=foobarfoobar", COCKPIT,
             "secrets"),
        Line("/loopback create naa.5000000000000001", COCKPIT_DISKS),
        Line("/loopback/naa.5000000000000001/luns create /backstores/ramdisk/rd_backend",
             COCKPIT_DISKS),
        Line("/loopback delete naa.5000000000000001", COCKPIT_DISKS, "in use"),
        Line("ls", ARCH))),
    Story("gateways", (
        Line("/backstores/fileio create name=block1 size=8M file_or_dev={dir}/block1.img "
             "wwn=aafea465-9167-4880-b37c-2c36db8562ea", GLUSTER),
        Line(f"{_STORE}/alua create name=glfs_tg_pt_gp_ano tag=2", GLUSTER),
        Line(f"{_STORE}/alua/glfs_tg_pt_gp_ano set alua alua_access_type=1", GLUSTER),
        Line("/iscsi create iqn.2016-12.org.gluster-block:aafea465", GLUSTER, "default portal"),
        Line(f"{_GLUSTERS} create tpg2", GLUSTER),
        Line(f"{_GLUSTERS}/tpg1/luns create {_STORE}", GLUSTER),
        Line(f"{_GLUSTERS}/tpg1/luns/lun0 set alua alua_tg_pt_gp_name=glfs_tg_pt_gp_ano", GLUSTER),
        Line(f"{_GLUSTERS}/tpg2 set attribute tpg_enabled_sendtargets=0 generate_node_acls=1 "
             "demo_mode_write_protect=0", GLUSTER),
        Line(f"{_GLUSTERS}/tpg1 disable", CEPH),
        Line(f"{_GLUSTERS}/tpg1 set parameter MaxOutstandingR2T=4 ImmediateData=No", CEPH),
        Line(f"{_GLUSTERS}/tpg1/acls create {_GATE}", CEPH),
        Line(f"{_GLUSTERS}/tpg1/acls/{_GATE} set attribute dataout_timeout=20 nopin_timeout=5",
             CEPH))),
)

LINES: tuple[Line, ...] = tuple(line for story in STORIES for line in story.lines)
