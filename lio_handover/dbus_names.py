"""Names on the bus: one version digit in the bus name, every interface and every path; and of
hosts.

A path element may hold ``[A-Za-z0-9_]`` alone (D-Bus Specification, "Valid Object Paths"); what
else a WWN holds is written as ``_xx``, as sd_bus_path_encode(3) does.
"""
from __future__ import annotations

import re

BUS_NAME = "io.github.lio_handover1"
ROOT = "/io/github/lio_handover1"
#: What the interfaces promise.  2 added Adopt and Giveback; with 3 each method takes what it needs,
#: so that a service of 1 is no neighbour.  From then on a version only adds (D-Bus API Design
#: Guidelines).
API_VERSION = 3

MANAGER = BUS_NAME + ".Manager"
TARGET = BUS_NAME + ".Target"
HANDOVER = BUS_NAME + ".Handover"
JOB = BUS_NAME + ".Job"
ERROR = BUS_NAME + ".Error."

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

#: The folders of the tree below ROOT.
TARGETS, HANDOVERS, JOBS = "targets", "handovers", "jobs"

#: It stands here while the service runs: who wants to know need not ask the bus for it.
RUNNING = "/run/lio-handover/service"

#: user@host, or what ssh_config calls a host (1: without the user).  None begins as an option does.
HOST = re.compile(r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?"
                  r"([A-Za-z0-9._:%\[\]][A-Za-z0-9._:%\[\]-]*)")


def encode(text: str) -> str:
    """Any text as one element of a path; "" becomes "_"."""
    made = re.sub(b"[^A-Za-z0-9]", lambda found: b"_%02x" % found[0][0],
                  text.encode("utf-8", "surrogateescape"))
    return made.decode() or "_"


def decode(element: str) -> str:
    """What `encode` was given.  Raises ValueError for what it never makes."""
    if element == "_":
        return ""
    if not re.fullmatch("(?:[A-Za-z0-9]|_[0-9a-f]{2})+", element):
        raise ValueError(f"{element!a} is no path element of ours")
    return re.sub(b"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]),
                  element.encode()).decode("utf-8", "surrogateescape")


def path(folder: str, name: str) -> str:
    """The object path of a target (``FABRIC/WWN``), a handover (its id) or a job (its number)."""
    return f"{ROOT}/{folder}/{encode(name)}"
