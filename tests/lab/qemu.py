"""Hosts that QEMU emulates: for vhost-scsi, which User Mode Linux does not have.

The kernels are Debian's ordinary ones, unpacked into the cache and never installed. A host sees
this machine's file tree read-only over 9p, under an overlay of its own in memory, and is on the
same network, shared folder and shared disk as the other hosts. Nothing of it needs KVM.
"""
from __future__ import annotations

import lzma
import shutil
import stat
from pathlib import Path

from . import kernels
from .errors import LabError
from .host import Host
from .kernels import Kernel

SUITES = {"vhost-oldest": "bookworm", "vhost-newest": "sid"}
ROLES = tuple(SUITES)
DISK = "/dev/vda"       # what these hosts call the shared disk; the others say /dev/ubda
_FORMAT = "1"       # raise it when what `_build` leaves in the cache changes
# The plainest processor, and random numbers at boot, and page tables of their own for AMD's guests.
# A larger one has AVX and five levels of page tables: the host uses what is there, and
# takes half as long again when that is emulated.
_CPU = "qemu64,+rdrand,+npt"
_PACKAGES = r"linux-(?:image|binary|modules)-\d\S+"

# What is loaded before the tree of files is there, in the kernel's archive for its first process.
_EARLY = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
# What a test may want besides; the other thousands of modules are not kept.
_LATER = (
    "configfs", "target_core_mod", "target_core_file", "target_core_iblock", "target_core_pscsi",
    "target_core_user", "iscsi_target_mod", "tcm_loop", "vhost_scsi", "sg", "sd_mod", "scsi_debug",
    "iscsi_tcp", "virtio_blk", "virtio_net", "loop", "brd", "dm_mod", "nbd", "tun", "bridge",
    "veth", "kvm", "kvm_amd", "vhost_net", "ext4", "fuse", "crc32c_generic", "crct10dif_generic",
    "virtio_scsi")


def kernel(role: str) -> Kernel:
    """The kernel of a role, fetched if this cache has none yet."""
    return kernels.cached(role, SUITES[role], _FORMAT, _build)


def _build(suite: str, work: Path, folder: Path) -> str:
    """Keep the kernel, the modules the hosts use, uncompressed, and busybox for the first step."""
    tree = kernels.unpack(suite, work, "linux-image-amd64", "busybox-static", follow=_PACKAGES)
    everything = next(path for path in (tree / "usr/lib/modules", tree / "lib/modules")
                      if path.is_dir())
    releases = [entry.name for entry in everything.iterdir()]
    if len(releases) != 1:
        raise LabError(f"the linux-image-amd64 of {suite} has the modules of {releases}")
    release = releases[0]
    images = [*tree.glob(f"boot/vmlinuz-{release}"), *everything.glob("*/vmlinuz")]
    if not images:
        raise LabError(f"the linux-image-amd64 of {suite} has no kernel")
    shutil.copy2(images[0], work / "linux")
    busybox = next(path for path in (tree / "usr/bin/busybox", tree / "bin/busybox")
                   if path.exists())
    shutil.copy2(busybox, work / "busybox")
    # depmod looks below lib/modules only.
    if everything != tree / "lib/modules":
        (tree / "lib").mkdir(exist_ok=True)
        everything.rename(tree / "lib/modules")
    kernels.run(["depmod", "-b", str(tree), release])
    _keep(tree, work, release)
    kernels.run(["depmod", "-b", str(work), release])
    return release


def _keep(tree: Path, work: Path, release: str) -> None:
    """Copy the wanted modules and what they need; name those that are built in as such."""
    source, kept = tree / "lib/modules" / release, work / "lib/modules" / release
    kept.mkdir(parents=True)
    builtin = source / "modules.builtin"
    lines = builtin.read_text().splitlines() if builtin.exists() else []
    found = _dependencies(source)
    for name in (*_EARLY, *_LATER):
        if name not in found:
            # This package may not say what is built in, and modprobe must not complain.
            lines.append(f"kernel/{name}.ko")
        for path in found.get(name, ()):
            target = kept / path.removesuffix(".xz")
            target.parent.mkdir(parents=True, exist_ok=True)
            data = (source / path).read_bytes()
            target.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    (kept / "modules.builtin").write_text("".join(f"{line}\n" for line in lines))
    (kept / "modules.order").touch()


def _dependencies(modules: Path) -> dict[str, list[str]]:
    """Module → the files to load for it, in order, from modules.dep."""
    found = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        name = Path(path).name.partition(".")[0].replace("-", "_")
        found[name] = [*reversed(needed.split()), path]
    return found


class QemuHost(Host):
    """A host of the bed like any other, on an emulated machine."""

    memory = "1G"
    boot_seconds = 180      # 10 on two idle cores; emulation feels every other load

    def boot(self) -> Host:
        """As `Host.boot`; vhost_scsi is loaded, too."""
        super().boot()
        self.run(["modprobe", "-a", "virtio_blk", "vhost_scsi"])
        return self

    def _write_home(self) -> None:
        super()._write_home()
        with (self._home / "env").open("a") as env:
            env.write("export LAB_LINE=/dev/vport0p1\n")
        modules: list[str] = []
        found = _dependencies(self.kernel.modules)
        for name in _EARLY:
            modules += [path for path in found.get(name, ()) if path not in modules]
        entries = [(name, stat.S_IFDIR | 0o755, b"")
                   for name in ("bin", "dev", "proc", "sys", "modules", "tree", "memory", "root")]
        entries.append(("bin/busybox", stat.S_IFREG | 0o755,
                        (self.kernel.root / "busybox").read_bytes()))
        entries.append(("init", stat.S_IFREG | 0o755,
                        Path(__file__).with_name("init-qemu.sh").read_bytes()))
        # In the order of the listing, hence the numbers.
        entries += [(f"modules/{number:02}-{Path(path).name}", stat.S_IFREG | 0o644,
                     (self.kernel.modules / path).read_bytes())
                    for number, path in enumerate(modules)]
        (self._home / "initrd").write_bytes(_archive(entries))

    def _command(self, line: int) -> list[str]:
        files = "local,security_model=none,multidevs=remap"
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", _CPU, "-smp", "1",
            "-m", self.memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-chardev", f"file,id=console,path={self.console},append=on",
            "-serial", "chardev:console",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=line,fd={line}",
            "-device", "virtserialport,chardev=line,nr=1",
            "-virtfs", f"{files},path=/,mount_tag=tree,readonly=on",
            "-virtfs", f"{files},path={self.bed.shared},mount_tag=shared",
            "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={self._mac()},romfile=",
            "-kernel", str(self.kernel.linux), "-initrd", str(self._home / "initrd"),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 "
                       f"random.trust_cpu=on LAB_HOME={self._home}"]
        if self.bed.disk:
            # Shared as it is with the hosts of the other kind: no lock, no cache in between.
            command += ["-drive", f"file={self.bed.disk},format=raw,if=none,id=disk,cache=none,"
                                  "file.locking=off",
                        "-device", "virtio-blk-pci,drive=disk,share-rw=on"]
        return command

    def _mac(self) -> str:
        """An address on the bridge that no other host of the bed has."""
        return "52:54:00:4c:49:" + f"{int(self.address.rsplit('.', 1)[1]):02x}"


def _archive(entries: list[tuple[str, int, bytes]]) -> bytes:
    """(name, mode, content) as the kernel unpacks it: cpio, "newc" (Documentation/driver-api/
    early-userspace/buffer-format.rst)."""
    archive = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields)
        archive += name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
