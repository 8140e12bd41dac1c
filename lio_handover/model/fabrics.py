"""The fabrics whose targets are handed over: one row each, and what differs is a column.

A row is all that a fabric like one of these needs.  Its attributes are rows of attributes.py; its
name and WWNs in targetcli's words, rtslib's, stand in savefile/rtslib_names.py.
"""
from __future__ import annotations

from enum import Enum
from typing import Mapping, NamedTuple, Optional, Tuple


class Gate(Enum):
    """The means by which a target lets initiators in, and keeps them out."""

    ENABLE = "enable"      # the attribute enable of a TPG
    ENDPOINT = "endpoint"  # a guest attaches: that can be seen, not done (VHOST_SCSI_SET_ENDPOINT)
    LOCAL = "local"        # nothing: its initiator is this very host, which a LUN's link asks in


class Fabric(NamedTuple):
    """A fabric.

    name      its folder in the target tree
    pr_name   as the kernel's PR code shows and takes it (get_fabric_name)
    module    the kernel module that has it
    wwns      how the WWN of a target, and a nexus, begins
    max_tag   the highest number of a TPG
    gate      see Gate; None for a fabric that is not handed over
    portals   whether its TPGs have network portals
    logins    whether initiators log in by name: sessions with an ISID, CHAP, discovery, and an ACL
              for each initiator, given or dynamic
    nexus     whether a TPG has one I_T nexus, made by writing it
    c_numbers whether the kernel reads a TPG's number as C does, see directories
    """

    name: str
    pr_name: str
    module: str
    wwns: Tuple[str, ...] = ()
    max_tag: int = 0
    gate: Optional[Gate] = None
    portals: bool = False
    logins: bool = False
    nexus: bool = False
    c_numbers: bool = False


_ROWS = (
    Fabric("iscsi", "iSCSI", "iscsi_target_mod", ("iqn.", "eui.", "naa."), 2**16 - 1, Gate.ENABLE,
           portals=True, logins=True, c_numbers=True),
    Fabric("vhost", "vhost", "vhost_scsi", ("naa.", "fc.", "iqn."), 255, Gate.ENDPOINT, nexus=True),
    Fabric("loopback", "loopback", "tcm_loop", ("naa.", "fc.", "iqn."), 31, Gate.LOCAL, nexus=True),
)

#: The fabrics that this program hands over, by name; it refuses all others by name.
FABRICS: Mapping[str, Fabric] = {row.name: row for row in _ROWS}
BY_PR_NAME: Mapping[str, Fabric] = {row.pr_name: row for row in _ROWS}


def of(name: str) -> Fabric:
    """The row of a fabric; a fabric that is not handed over has a row without a gate."""
    return FABRICS.get(name) or Fabric(name, name, name)


def gate_of(name: str) -> Optional[Gate]:
    """The gate of a fabric, None for a fabric that is not handed over."""
    return of(name).gate


def of_pr_name(name: str) -> Fabric:
    """The row of a fabric by the name that the kernel's PR code has for it."""
    return BY_PR_NAME.get(name) or Fabric(name, name, name)


def named(**column: object) -> str:
    """The names of the fabrics with these values in their columns: ``vhost,loopback``."""
    return ",".join(row.name for row in _ROWS
                    if all(getattr(row, name) == value for name, value in column.items()))
