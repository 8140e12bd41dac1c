"""The permissions that libvirt's QEMU needs, as files tell of them."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from lio_handover.host import confinement

BUS = "/run/lio-handover-guests/vm1/bus"
UID, GROUP = 64055, 12345
#: What Debian's libvirt 9.0 ships of these lines (each as a comment).
CONF = '#user = "libvirt-qemu"\n#cgroup_device_acl = [\n#    "/dev/null", "/dev/kvm"\n#]\n'
RULES = "  network inet stream,\n  /dev/net/tun rw,\n  owner @{PROC}/*/status r,\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with libvirt and AppArmor, as Debian has them, and the guest's bus."""
    files = {confinement.CONF: CONF, confinement.ENABLED: "Y\n", confinement.RULES[0]: RULES,
             BUS: "", confinement.DEVICE: ""}
    for name, text in files.items():
        path = Path(f"{tmp_path}{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    bus = Path(f"{tmp_path}{BUS}").parent
    bus.chmod(0o750)
    Path(f"{tmp_path}{confinement.DEVICE}").chmod(0o600)
    monkeypatch.setattr(confinement, "_ids", lambda user: (UID, frozenset({GROUP})))
    return tmp_path


def lacking(root: Path) -> list[str]:
    """The names of the permissions that are not given."""
    host = confinement.look(str(root))
    assert host is not None
    return [need.name for need in confinement.NEEDS if need.lacking(host, BUS)]


def test_each_permission_is_named_with_its_way_out(root: Path) -> None:
    assert lacking(root) == [need.name for need in confinement.NEEDS]
    first, second, *device = confinement.unready(BUS, str(root))
    assert first == (
        "libvirt: libvirt-qemu may not enter /run/lio-handover-guests/vm1; next: usermod --append "
        "--groups kvm libvirt-qemu, or give its unit, lio-handover-vmstate-bus@, another Group=")
    assert f"`{BUS} rw,` into /etc/apparmor.d/local/abstractions/libvirt-qemu" in second
    assert len(device) == 3 and all(line.startswith(
        "libvirt: where the target is a device of <qemu:commandline>: ") for line in device)


def test_what_a_way_out_says_gives_the_permission(root: Path) -> None:
    os.chown(f"{root}{os.path.dirname(BUS)}", 0, GROUP)
    assert "the bus's folder" not in lacking(root)
    local = Path(f"{root}{confinement.RULES[1]}")
    local.parent.mkdir(parents=True)
    local.write_text(f"{BUS} rw,\n")
    assert "the bus, by AppArmor" not in lacking(root)
    local.write_text("/run/lio-handover-guests/*/bus rw,\n# /dev/vhost-scsi rw,\n")
    assert "the bus, by AppArmor" not in lacking(root)
    assert "the device, by AppArmor" in lacking(root)
    folder = Path(f"{root}{confinement.RULES_FOLDER}")
    folder.mkdir()
    (folder / "lio-handover").write_text("  /dev/vhost-scsi rw,\n")
    os.chown(f"{root}{confinement.DEVICE}", 0, GROUP)
    Path(f"{root}{confinement.DEVICE}").chmod(0o640)
    assert "the device's mode" in lacking(root)
    Path(f"{root}{confinement.DEVICE}").chmod(0o660)
    Path(f"{root}{confinement.CONF}").write_text(
        'user = "qemu"\ncgroup_device_acl = [\n  "/dev/null",\n  "/dev/vhost-scsi"\n]\n')
    assert lacking(root) == [] and confinement.unready(BUS, str(root)) == []
    host = confinement.look(str(root))
    assert host is not None and host.user == "qemu"


def test_a_rule_of_another_path_gives_nothing(root: Path) -> None:
    local = Path(f"{root}{confinement.RULES[1]}")
    local.parent.mkdir(parents=True)
    for rule in ("/run/*/bus rw,", f"{BUS} r,", f"{BUS}2 rw,", "/run/lio-handover-guests/?/bus rw,",
                 f"deny {BUS} rw,"):
        local.write_text(rule + "\n")
        assert "the bus, by AppArmor" in lacking(root), rule
    local.write_text("/run/** rw,\n")
    assert "the bus, by AppArmor" not in lacking(root)


def test_where_there_is_less_to_permit_less_is_told(
        root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(f"{root}{confinement.ENABLED}").write_text("N\n")
    assert lacking(root) == ["the bus's folder", "the device's mode", "the device, by libvirt"]
    monkeypatch.setattr(confinement, "_ids", lambda user: (0, frozenset({0})))
    assert lacking(root) == ["the device, by libvirt"]
    Path(f"{root}{confinement.CONF}").unlink()
    assert confinement.unready(BUS, str(root)) == []
