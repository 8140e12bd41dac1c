"""The configuration of a host: /etc/lio-handover/lio-handover.conf and its drop-ins.

configuration.py reads the files' text.  Every setting has a default, and no file need exist.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Tuple

from .configuration import NEEDED, PATH as PATH, STATE_DIRECTORY, File, files


@dataclass(frozen=True)
class Late:
    """Storage that only one host may have open at a time, and its programs.

    name     of its section, ``[late NAME]``
    paths    patterns of the files or devices; ``*`` stops at ``/``
    acquire  a program's full path and its arguments; the path of the storage is added
    release  likewise
    timeout  seconds that either program may take
    """

    name: str
    paths: Tuple[str, ...] = ()
    acquire: Tuple[str, ...] = ()
    release: Tuple[str, ...] = ()
    timeout: int = 30


@dataclass(frozen=True)
class Settings:
    """The limits that a host sets to documents and handovers.

    roots            directories below which a file may be served
    devices          patterns of block devices that may be served; ``*`` stops at ``/``
    state_directory  the directory of journals, owners and APTPL copies
    dbroot           the directory of the kernel's APTPL files, "" for the kernel's own value
    document_bytes   the size of the largest document that is read
    group            a group whose members may call the service where polkit does not run, "" for
                     no group
    peers            the hosts that callers of the service may move targets to, as ssh has them, and
                     how those reach this host
    late             storage that is opened only once the source has released it
    fence_program    a program that confirms that another host is off, and its first arguments
    fence_seconds    seconds that the program may take
    hook_seconds     seconds that a hook of a guest's manager may take before the guest migrates
    hook_wait        seconds until that guest's QEMU has to be on this host
    hook_here        how the peers' ssh reaches this host, "" for its name
    savefiles        targetcli's save files, beside those that targetcli's settings name
    key              the file of the key that this host has in common with those that it hands
                     targets over to; it need not exist, "" for no key
    fuse             folders at or below which file systems of programs (FUSE) may have files to
                     serve
    user_configs     patterns of dev_config that a tcmu backstore may have; ``*`` stops at ``/``
                     and ``;``
    memory_reserve   bytes of this host's memory that no memory disk and no tcmu ring may take
    session_seconds  seconds for which a worker of the service waits for its handover's next verb
    limited          whether the caller is authorized by ``group`` alone; no file says so
    """

    roots: Tuple[str, ...] = ("/srv", "/var/lib/lio-handover/images")
    devices: Tuple[str, ...] = (
        "/dev/disk/by-id/*", "/dev/disk/by-path/*", "/dev/mapper/*", "/dev/sd*", "/dev/nvme*n*",
        "/dev/vd*", "/dev/drbd*", "/dev/drbd/by-res/*/*", "/dev/rbd*", "/dev/rbd/*/*",
        "/dev/md*", "/dev/zvol/*/*")
    state_directory: str = STATE_DIRECTORY
    dbroot: str = ""
    document_bytes: int = 64 * 1024**2
    group: str = ""
    peers: Tuple[str, ...] = ()
    late: Tuple[Late, ...] = ()
    fence_program: Tuple[str, ...] = ()
    fence_seconds: int = 60
    hook_seconds: int = 60
    hook_wait: int = 120
    hook_here: str = ""
    savefiles: Tuple[str, ...] = ()
    key: str = "/etc/lio-handover/handover.key"
    fuse: Tuple[str, ...] = ()
    user_configs: Tuple[str, ...] = ()
    memory_reserve: int = 128 * 1024**2
    session_seconds: int = 600
    limited: bool = False


def _applied(file: File, settings: Settings) -> Settings:
    """``settings`` as changed by one file."""
    values = file.values()
    late = {storage.name: storage for storage in settings.late}
    for section, line in file.named.items():
        name = section.partition(" ")[2]
        late[name] = replace(late.get(name, Late(name)),
                             **values.get(section, {}))  # type: ignore[arg-type]
        for needed in NEEDED:
            if not getattr(late[name], needed):
                file.fail(line, f"[{section}] has no {needed}")
    return replace(settings, late=tuple(late.values()), **values[""])  # type: ignore[arg-type]


def parse(text: str, path: str, settings: Settings = Settings()) -> Settings:
    """``settings`` as changed by one file's text.  Raises BadSettings naming path and line."""
    return _applied(File(path, text), settings)


def load(path: str = PATH) -> Settings:
    """The host's settings: ``path``, then ``path.d/*.conf``.

    Raises BadSettings, also where a file is there and can't be read.
    """
    settings = Settings()
    for file in files(path):
        settings = _applied(file, settings)
    return settings
