"""This host, as a change of targets asks for it (manage/surroundings.py)."""
from __future__ import annotations

import hashlib
import os
import secrets
import uuid
from typing import Mapping, Optional, Tuple

from .. import errors
from ..errors import shown
from ..kernel import portals
from ..kernel.configfs import Configfs
from ..manage.nouns import IPV4_PORTAL, PORTAL
from ..manage.surroundings import Surroundings
from ..model.plugins import HCTL
from ..settings import Settings
from ..storage import block_devices, policy
from ..storage.block_devices import HostSnapshot, is_below

#: OpenFabrics' NAA id, as rtslib uses it for WWNs of its own making.
_NAA = "naa.5001405"


class HostSurroundings(Surroundings):
    """This host.  A path is looked at only where the configuration may allow it, so that nobody
    learns anything of others."""

    def __init__(self, settings: Settings, snapshot: HostSnapshot, fs: Configfs) -> None:
        self.settings, self.snapshot, self.fs = settings, snapshot, fs

    def _look(self, path: str) -> Optional[block_devices.PathStat]:
        if not any(is_below(path, root) and path != root for root in self.settings.roots) \
                and not is_below(path, "/dev") and not any(
                    policy.matches(path, device) for device in self.settings.devices):
            raise errors.StorageNotAllowed(
                f"{shown(path)} lies under no configured root",
                do="allow it in the configuration file, if it is meant to be served")
        try:
            return block_devices.look(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.StorageNotAllowed(
                f"{shown(path)} can't be looked at: {error.strerror}") from None

    def storage(self, path: str) -> Optional[Tuple[str, int]]:
        backing = self._look(path)
        if backing is None:
            return None
        try:
            if backing.block:
                return "block", int(block_devices.block_facts(backing.device)["size"])
            return "file", os.fstat(backing.fd).st_size
        finally:
            os.close(backing.fd)

    def is_readonly(self, path: str) -> bool:
        backing = self._look(path)
        if backing is None:
            return False
        os.close(backing.fd)
        folder = block_devices.folder_of(backing.device, self.snapshot) if backing.block else ""
        return bool(folder) and block_devices.one_line_of(f"{folder}/ro") == "1"

    def scsi_address(self, path: str) -> Mapping[str, str]:
        backing = self._look(path)
        if backing is None:
            return {}
        os.close(backing.fd)
        address = block_devices.hctl_of(backing.device) if backing.block else ""
        return dict(zip(HCTL, address.split(":"))) if address else {}

    def default_portal(self) -> str:
        there = {name for _target, name in portals.of_host(self.fs)}
        return IPV4_PORTAL if IPV4_PORTAL in there and PORTAL not in there else PORTAL

    def new_serial(self) -> str:
        return str(uuid.uuid4())

    def new_wwn(self, fabric: str) -> str:
        """As rtslib makes them: an IQN with the host's name, else an NAA with random digits
        (rtslib/utils.py:generate_wwn)."""
        if fabric != "iscsi":
            return _NAA + secrets.token_hex(5)[:9]
        host = "".join(letter for letter in os.uname().nodename.partition(".")[0].lower()
                       if letter.isascii() and letter.isalnum() or letter == "-")[:32]
        mark = hashlib.sha256(secrets.token_bytes(16)).hexdigest()[:12]
        machine = os.uname().machine.replace("_", "")
        return f"iqn.2003-01.org.linux-iscsi.{host or 'host'}.{machine}:sn.{mark}"
