"""The guest's kernel archive: busybox, four modules, and a Python of two dozen files."""
from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from tests.lab import qemu
from tests.lab.kernels import Kernel
from tests.migration import guest

_PYTHON = "/usr/bin/python3"
_MODULES = ("virtio_pci", "virtio_scsi", "sd_mod")
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do
    /bin/busybox insmod $module
done
exec /python -ISE /guest.py
"""
_LOADED = """
import array, fcntl, struct, sys, time, zlib
print(sys.prefix)
for one in sys.modules.values():
    if getattr(one, "__file__", None):
        print(one.__file__)
"""


def build(kernel: Kernel) -> bytes:
    """The archive for a guest with this kernel."""
    entries: dict[str, tuple[int, bytes]] = {}

    def add(name: str, data: bytes) -> None:
        for parent in reversed(Path(name).parents):
            if str(parent) != ".":
                entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        entries[name] = (stat.S_IFREG | 0o755, data)

    for name in ("dev", "proc", "sys"):
        entries[name] = (stat.S_IFDIR | 0o755, b"")
    add("init", _INIT.encode())
    add("bin/busybox", (kernel.root / "busybox").read_bytes())
    found = qemu._dependencies(kernel.modules)
    needed: list[str] = []
    for module in _MODULES:
        needed += [path for path in found.get(module, ()) if path not in needed]
    for number, path in enumerate(needed):
        add(f"modules/{number:02}-{Path(path).name}", (kernel.modules / path).read_bytes())
    add("guest.py", Path(guest.__file__).read_bytes())
    add("python", Path(os.path.realpath(_PYTHON)).read_bytes())
    prefix, *files = _said(_PYTHON, "-ISEc", _LOADED).split()
    for file in files:
        add(file.lstrip("/"), Path(file).read_bytes())
    libraries = [word for word in _said("ldd", os.path.realpath(_PYTHON)).split()
                 if word.startswith("/")]
    for library in libraries:
        add(library.lstrip("/"), Path(library).read_bytes())
    return qemu._archive([(name, mode, data) for name, (mode, data) in entries.items()])


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
