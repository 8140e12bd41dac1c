"""libvirt of Debian's packages, unpacked into the cache and never installed: its check of XML, and
the daemon for hosts (of this machine's own suite, whose files and QEMU the hosts have)."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import kernels

#: The same suites as those of the oldest and the newest kernel.
SUITES = {"oldest": kernels.SUITES["oldest"], "newest": kernels.SUITES["newest"]}
_FORMAT = "1"       # raise it when what `_build` leaves in the cache changes
#: The daemon with QEMU's driver, what both use, and how Debian configures them.
_DAEMON = ("libvirt-daemon-system", "libvirt-daemon", "libvirt-daemon-driver-qemu",
           "libvirt-clients", "libvirt0", "libvirt-daemon-config-network")
#: The package with libvirt's schemas, by suite; and xmllint, which runs on this machine.
_SCHEMAS = {"bookworm": "libvirt0", "sid": "libvirt-common"}
_XMLLINT = ("libxml2-utils", "libxml2")


def fetch() -> None:
    """All of it, where this cache has none yet."""
    for role, suite in (*SUITES.items(), ("xmllint", SUITES["oldest"]),
                        ("daemon", SUITES["oldest"])):
        _folder(role, suite)


def daemon() -> Path:
    """The folder with libvirtd, fetched if this cache has none yet: what this machine lacks below
    /usr, and etc/ and var/ as they are shipped."""
    return _folder("daemon", SUITES["oldest"])


def validate(role: str, xml: Path) -> tuple[int, str]:
    """What virt-xml-validate(1) of a suite ends with, and says, of a domain's XML."""
    folder = _folder(role, SUITES[role])
    lint = _folder("xmllint", SUITES["oldest"])
    done = subprocess.run(
        ["sh", str(folder / "virt-xml-validate"), str(xml), "domain"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={**os.environ, "PATH": f"{lint}:{os.environ['PATH']}",
             "LD_LIBRARY_PATH": str(lint / "lib")})
    return done.returncode, done.stdout


def _folder(role: str, suite: str) -> Path:
    """The folder with it, fetched if this cache has none yet."""
    build = {"xmllint": _build_xmllint, "daemon": _build_daemon}.get(role, _build)
    name = role if role == "xmllint" else f"libvirt-{role}"
    return kernels.cached(name, suite, _FORMAT, build).root


def _build(suite: str, work: Path, folder: Path) -> str:
    tree = kernels.unpack(suite, work, "libvirt-clients", _SCHEMAS[suite])
    (tree / "usr/share/libvirt/schemas").rename(work / "schemas")
    program = (tree / "usr/bin/virt-xml-validate").read_text()
    assert "/usr/share/libvirt/schemas" in program
    (work / "virt-xml-validate").write_text(
        program.replace("/usr/share/libvirt/schemas", str(folder / "schemas")))
    return suite


def _build_xmllint(suite: str, work: Path, _folder: Path) -> str:
    tree = kernels.unpack(suite, work, *_XMLLINT, follow=r"libicu\d+")
    shutil.copy2(tree / "usr/bin/xmllint", work / "xmllint")
    (work / "lib").mkdir()
    for library in (tree / "usr/lib/x86_64-linux-gnu").glob("lib*.so.*"):
        shutil.copy2(library, work / "lib", follow_symlinks=False)
    return suite


def _build_daemon(suite: str, work: Path, _folder: Path) -> str:
    tree = kernels.unpack(suite, work, *_DAEMON, follow=r"lib\S+")
    for name in ("lib", "sbin"):  # on a machine these are links into /usr
        kernels.run(["cp", "-a", f"{tree / name}/.", str(tree / "usr" / name)])
    for path in sorted((tree / "usr").rglob("*"), reverse=True):
        there = Path("/usr") / path.relative_to(tree / "usr")
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif there.exists() or path.is_relative_to(tree / "usr/share") \
                and "libvirt" not in str(path):
            path.unlink()
    for name in ("usr", "etc", "var"):
        (tree / name).rename(work / name)
    return suite
