"""libvirt's own check of XML, of Debian's packages: unpacked into the cache, never installed."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import kernels

#: The same suites as those of the oldest and the newest kernel.
SUITES = {"oldest": kernels.SUITES["oldest"], "newest": kernels.SUITES["newest"]}
_FORMAT = "1"       # raise it when what `_build` leaves in the cache changes
#: The package with libvirt's schemas, by suite; and xmllint, which runs on this machine.
_SCHEMAS = {"bookworm": "libvirt0", "sid": "libvirt-common"}
_XMLLINT = ("libxml2-utils", "libxml2")


def fetch() -> None:
    """All of it, where this cache has none yet."""
    for role, suite in (*SUITES.items(), ("xmllint", SUITES["oldest"])):
        _folder(role, suite)


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
    build = _build_xmllint if role == "xmllint" else _build
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
