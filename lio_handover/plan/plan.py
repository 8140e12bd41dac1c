"""A plan: the requests to the kernel, one a step, in the one order.

A plan is data.  It can be shown, counted, kept, run, and stopped between any two steps; another
plan undoes it, from the host as it then is to the host as it was.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import errors
from ..model.attributes import Attribute
from ..model.keys import target_key
from ..model.objects import Key, State
from ..storage.block_devices import Identity
from ..storage.exclusive import DeferredOpen
from .order import PHASE, WHY

# --- what a step asks for ----------------------------------------------------------------------
MKDIR, RMDIR, LINK, UNLINK, WRITE = "mkdir", "rmdir", "link", "unlink", "write"
LOAD = "load"      # a kernel module
FOLDER = "folder"  # a directory outside configfs
FILE = "file"      # a file outside configfs, written whole
DELETE = "delete"  # such a file, if it is there
FLUSH = "flush"    # drop this host's cache of a file or device
SCSI = "scsi"      # REGISTER and unregister with APTPL=0 through the scratch nexus
DRIVERS = "drivers"  # off and on: whether this host attaches any to SCSI devices that come
DRAIN = "drain"    # fetch the unit attentions that a vhost target's LUNs owe, and drop them
VERIFY = "verify"  # read back and compare
ACQUIRE = "acquire"  # run the command after which this host may open the storage
PROVE = "prove"      # look at storage that could not be looked at before
RELEASE = "release"  # run the command after which another host may
OPEN = "open"        # a file or device, for SYNC
IDLE = "idle"        # wait until no command of the backstores is executing
SYNC = "sync"        # all that this host has of a file or device is on the storage
ALLOCATE = "allocate"  # make a file of a size, where nothing is; sparse, or with all its blocks
GROW = "grow"        # make a file at least so long

KERNEL_OPS = (MKDIR, RMDIR, LINK, UNLINK, WRITE)

#: A loopback target for the time of one step. Its disk is only asked, never written.
SCRATCH_TARGET = target_key("loopback", "naa.50014051f0ad0ff0")
SCRATCH_NEXUS = "naa.50014051f0ad0ff1"


class Step(NamedTuple):
    """One request.  ``path`` is below the target tree, but for FOLDER, FILE, FLUSH, OPEN, SYNC,
    ALLOCATE, GROW and PROVE, and for ACQUIRE and RELEASE, whose ``value`` is the command without
    the path.

    ``row`` makes a write an *ensure*: it is left out where the kernel has the value already
    (many refuse being told what they know), and where the kernel has no such attribute and
    does what the value asks anyway.  ``sure`` says that the kernel cannot have the value: it is
    not read first.
    """

    op: str
    path: str
    value: bytes = b""
    slot: str = ""
    about: Key = ()
    row: Optional[Attribute] = None
    secret: bool = False
    sure: bool = False

    @property
    def phase(self) -> str:
        return PHASE[self.slot]

    @property
    def description(self) -> str:
        """The step in a line about progress."""
        return f"{self.phase}: {self.slot}, {self.path}"

    @property
    def why(self) -> str:
        return WHY[self.slot]

    def __repr__(self) -> str:
        return f"<Step {self}>"

    def __str__(self) -> str:
        if not self.value or self.op == FILE:
            return f"{self.op} {self.path}"
        shown = "(secret)" if self.secret else self.value.decode(errors="replace").rstrip("\n")
        return f"{self.op} {self.path} {'→' if self.op == LINK else '='} {shown}"


@dataclass(frozen=True)
class Plan:
    """Steps in order; ``want`` is the state after them, as near to the requested state as the
    kernel can be brought.

    ``notes`` say where ``want`` differs from the requested state, and why.
    """

    steps: Tuple[Step, ...] = ()
    want: State = State()
    notes: Tuple[str, ...] = ()
    refused: Tuple[errors.Finding, ...] = ()
    partial: bool = False
    #: backstores whose storage is opened only inside the window
    late: Mapping[Key, DeferredOpen] = field(default_factory=dict)
    #: whether attributes that the table does not know may have this kernel's values
    unknown: bool = False
    #: whether it changes what is being served, beside others who may change it, too: then only
    #: what the steps are about is compared, and taken back
    live: bool = False
    #: a backstore's path → the identity of the file or device there when it was checked
    looked: Mapping[str, Identity] = field(default_factory=dict)

    @property
    def stage(self) -> Tuple[Step, ...]:
        return tuple(step for step in self.steps if step.phase == "stage")

    @property
    def activate(self) -> Tuple[Step, ...]:
        return tuple(step for step in self.steps if step.phase == "activate")

    def counts(self) -> Dict[str, int]:
        """How many steps of each op there are: ``{"mkdir": 3, …}``."""
        numbers: Dict[str, int] = {}
        for step in self.steps:
            numbers[step.op] = numbers.get(step.op, 0) + 1
        return numbers


def writes(steps: Sequence[Step]) -> int:
    """How many of the steps are requests to the kernel's target tree, at most."""
    return sum(1 for step in steps if step.op in KERNEL_OPS)
