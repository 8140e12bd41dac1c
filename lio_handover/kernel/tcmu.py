"""Whether a program on this host serves tcmu backstores.

The kernel tells such programs (tcmu-runner) of a new backstore by generic netlink, family TCM-USER,
group config (target_core_user.c:tcmu_netlink_event_send).  A new one needs a program that listens.
"""
from __future__ import annotations

import socket
import struct
from typing import Dict, Iterator, Optional, Tuple

_GENERIC = 16  # NETLINK_GENERIC, and the id of the family that knows the others
_GETFAMILY, _FAMILY_NAME, _GROUPS, _GROUP_NAME, _GROUP_ID = 3, 2, 7, 1, 2
_REQUEST, _ERROR = 1, 2


def handler_listens() -> Optional[bool]:
    """Whether a program listens; None where that cannot be known."""
    try:
        group = _group(b"TCM-USER", b"config")
        if group is None:
            return False
        if group > 32:
            return None
        with open("/proc/net/netlink") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        return any(row[1] == str(_GENERIC) and int(row[3], 16) >> (group - 1) & 1 for row in rows)
    except (OSError, ValueError, IndexError, struct.error):
        return None


def _group(family: bytes, name: bytes) -> Optional[int]:
    """The number of a family's multicast group; None where the kernel has no such family.

    See include/uapi/linux/genetlink.h; every message and attribute begins at a multiple of 4.
    """
    word = family + b"\0"
    body = struct.pack("=BBH", _GETFAMILY, 1, 0) \
        + struct.pack("=HH", 4 + len(word), _FAMILY_NAME) + word + bytes(-len(word) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as line:
        line.settimeout(2)
        line.send(struct.pack("=IHHII", 16 + len(body), _GENERIC, _REQUEST, 1, 0) + body)
        answer = line.recv(65536)
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _ERROR:
        return None
    for _number, group in _attributes(dict(_attributes(answer[20:length])).get(_GROUPS, b"")):
        attributes: Dict[int, bytes] = dict(_attributes(group))
        if attributes.get(_GROUP_NAME, b"").rstrip(b"\0") == name:
            return int(struct.unpack("=I", attributes[_GROUP_ID])[0])
    return None


def _attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) // 4 * 4:]
