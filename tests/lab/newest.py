"""QEMU and libvirt of Debian's newest suite, unpacked into the cache as the kernels are, never
installed: they run on that suite's own libraries, which lie next to them.

On this machine a program is started by the suite's dynamic linker (`qemu`).  In a host the tree is
mounted at `HOME`, where its programs look for that linker and the libraries by themselves
(PT_INTERP, DT_RPATH): libvirtd starts them, and so do its users, who can't enter this machine's
cache.  What they start in turn, hooks first of all, is the host's own.
"""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from . import kernels

SUITE = kernels.SUITES["newest"]
#: Where a host has the tree (support/inlibvirt.py mounts it).
HOME = "/usr/lib/lab-newest"
_FORMAT = "1"       # raise it when what `_build` leaves in the cache changes
#: The words of `kernels.unpack`: these packages, and what of theirs is followed.
_QEMU = (("qemu-system-x86", "zlib1g"), r"lib\S+|qemu-system-(?:common|data)|seabios|gcc-\S+-base")
_LIBVIRT = (("libvirt-daemon-system", "libvirt-daemon", "libvirt-daemon-driver-qemu",
             "libvirt-clients", "libvirt-daemon-log", "zlib1g"), r"lib\S+|gcc-\S+-base")
_LIBRARIES = "lib/x86_64-linux-gnu"
_LINKER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
#: Programs that are kept, by what their packages are for.
PROGRAMS = {"qemu": ("bin/qemu-system-x86_64",),
            "libvirt": ("sbin/libvirtd", "sbin/virtlogd", "bin/virsh", "bin/virt-ssh-helper",
                        "lib/libvirt/libvirt_iohelper")}
#: Folders of /usr that are kept beside the libraries.
_FOLDERS = ("share/qemu", "share/seabios", "share/libvirt", "lib/systemd/system")


def qemu() -> list[str]:
    """The words that start the newest QEMU on this machine, where it has its own firmware."""
    usr = tree("qemu") / "usr"
    return [str(usr / _LINKER), "--library-path", str(usr / _LIBRARIES),
            str(usr / "bin/qemu-system-x86_64"),
            "-L", str(usr / "share/qemu"), "-L", str(usr / "share/seabios")]


#: How a QEMU is started on this machine, and in its emulated hosts, by its age.
QEMUS: dict[str, Callable[[], list[str]]] = {"7.2": lambda: ["qemu-system-x86_64"], "newest": qemu}


def tree(name: str) -> Path:
    """The folder of "qemu" or "libvirt", fetched if this cache has none yet: usr/, of libvirt etc/
    and var/ as they are shipped, too."""
    return kernels.cached(f"newest-{name}", SUITE, _FORMAT,
                          _build_qemu if name == "qemu" else _build_libvirt).root


def fetch() -> None:
    """Both, where this cache has none yet."""
    for name in PROGRAMS:
        tree(name)


def _build_qemu(suite: str, work: Path, _folder: Path) -> str:
    return _build("qemu", kernels.unpack(suite, work, *_QEMU[0], follow=_QEMU[1]), work)


def _build_libvirt(suite: str, work: Path, _folder: Path) -> str:
    tree = kernels.unpack(suite, work, *_LIBVIRT[0], follow=_LIBVIRT[1])
    for name in ("etc/libvirt", "var"):
        (work / name).parent.mkdir(exist_ok=True)
        (tree / name).rename(work / name)
    return _build("libvirt", tree, work)


def _build(name: str, tree: Path, work: Path) -> str:
    """Keep what the programs want; have them look for it where a host has it."""
    usr = work / "usr"
    for program in PROGRAMS[name]:
        (usr / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / "usr" / program, usr / program)
        kernels.run(["patchelf", "--set-interpreter", f"{HOME}/{name}/{_LINKER}", "--force-rpath",
                     "--set-rpath", f"{HOME}/{name}/{_LIBRARIES}", str(usr / program)])
    (usr / _LIBRARIES).parent.mkdir(parents=True, exist_ok=True)
    (tree / "usr" / _LIBRARIES).rename(usr / _LIBRARIES)
    for folder in _FOLDERS:
        if (tree / "usr" / folder).is_dir():
            (usr / folder).parent.mkdir(parents=True, exist_ok=True)
            (tree / "usr" / folder).rename(usr / folder)
    return SUITE
