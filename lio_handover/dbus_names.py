"""Names on D-Bus, and the names of hosts.  The bus name, every interface and every path have the
same version digit.

A path element has only characters of ``[A-Za-z0-9_]`` (D-Bus Specification, "Valid Object Paths");
other bytes of a WWN are written as ``_xx``, as sd_bus_path_encode(3) does.
"""
from __future__ import annotations

import re

BUS_NAME = "io.github.lio_handover1"
ROOT = "/io/github/lio_handover1"
#: The version of the interfaces.  2 added Adopt and Giveback; since 3 a method takes only the
#: options that it needs, so a service of version 1 is no neighbour.  Later versions only add (D-Bus
#: API Design Guidelines): 4 Manager.Move, Details of a job; 5 the options secrets and question, the
#: feature key; 6 backstores and ACLs, and whatever changes targets; option export of Freeze; Finish
#: of a job, option said; 7 Manager.RunLine.
API_VERSION = 7

#: The service has this among its Features where its Freeze has option export.
EXPORTS = "freeze-exports"
#: And this where a verb of a handover takes one exchange: option said has the messages themselves,
#: and a job's Finish answers with all that came of it.
FINISHES = "finish"

MANAGER = BUS_NAME + ".Manager"
TARGET = BUS_NAME + ".Target"
HANDOVER = BUS_NAME + ".Handover"
JOB = BUS_NAME + ".Job"
BACKSTORE = BUS_NAME + ".Backstore"
ACL = BUS_NAME + ".Acl"
ERROR = BUS_NAME + ".Error."

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

#: The folders of the tree below ROOT.
TARGETS, HANDOVERS, JOBS, BACKSTORES, ACLS = "targets", "handovers", "jobs", "backstores", "acls"

#: This file exists while the service runs, so clients can check without a D-Bus call.
RUNNING = "/run/lio-handover/service"

#: user@host, or a Host of ssh_config(5); group 1 is without the user.  No match begins like an
#: option.
HOST = re.compile(r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?"
                  r"([A-Za-z0-9._:%\[\]][A-Za-z0-9._:%\[\]-]*)")


def encode(text: str) -> str:
    """Any text as one element of a path; "" becomes "_"."""
    encoded = re.sub(b"[^A-Za-z0-9]", lambda match: b"_%02x" % match[0][0],
                     text.encode("utf-8", "surrogateescape"))
    return encoded.decode() or "_"


def decode(element: str) -> str:
    """The text that `encode` made a path element of.  Raises ValueError for any other element."""
    if element == "_":
        return ""
    if not re.fullmatch("(?:[A-Za-z0-9]|_[0-9a-f]{2})+", element):
        raise ValueError(f"{element!a} is no path element of ours")
    return re.sub(b"_([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]),
                  element.encode()).decode("utf-8", "surrogateescape")


def path(folder: str, name: str) -> str:
    """The object path of a target (``FABRIC/WWN``), a handover (its id) or a job (its number)."""
    return f"{ROOT}/{folder}/{encode(name)}"
