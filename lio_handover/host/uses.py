"""The backstores and LUNs that serve a file or device."""
from __future__ import annotations

import os
from typing import List, NamedTuple, Tuple

from .. import errors
from ..model.keys import backstore_key, display
from ..model.objects import Backstore
from ..storage import policy
from ..storage.block_devices import HostSnapshot
from .host import Host


class Use(NamedTuple):
    """A backstore on a path, and the LUNs that export it (``iscsi/iqn.x/tpgt_1/lun_0``)."""

    backstore: str
    luns: Tuple[str, ...]


def of(host: Host, path: str) -> List[Use]:
    """The backstores whose storage is at a path: by this name or another, a partition of it, its
    disk, a mapped device, a loop device.  Raises BadFile, NoTargetModules."""
    if not path.startswith("/") or "\0" in path or not os.path.lexists(path):
        raise errors.BadFile(f"{errors.shown(path)} is not the full path of a file or device of "
                             "this host", do="name one")
    reader, snapshot = host._plain_reader(), HostSnapshot()
    here = reader.outline()
    real = os.path.realpath(path)
    asked = Backstore(backstore_key("fileio", ""), {"fd_dev_name": path})
    keys = {*policy.Served(here, snapshot).sharers_of(asked),
            *(store.key for store in here.backstores
              if store.path and os.path.realpath(store.path) == real)}
    exporters = reader.exporters(keys)
    return [Use(display(key), tuple(exporters.get(key, ()))) for key in sorted(keys)]
