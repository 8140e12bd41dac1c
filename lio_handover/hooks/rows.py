"""The calls of libvirt's hook for QEMU, and what is done at each: a row a call.

libvirt runs ``/etc/libvirt/hooks/qemu NAME OPERATION SUB-OPERATION EXTRA``, then each program of
``qemu.d/`` beside it (docs/hooks.rst), waits for each without a limit, and must not be called by
any.  A call that has no row here is none of lio-handover's: nothing is done, and the hook succeeds.

The hooks of a live migration, in the order in which libvirt 9.0 and 12.8 called them:

    destination  migrate begin, prepare begin, start begin, started begin   before memory is sent
    source       stopped end, release end migrated                          after it ran there
    destination  stopped end, release end failed                            where it failed

After a migration that fails before QEMU was started there, the destination is called no more; so
whoever stages has to take it back by itself (incoming.py).
"""
from __future__ import annotations

from enum import Enum
from typing import Mapping, NamedTuple, Tuple


class Do(str, Enum):
    """The work of a row; the value is the sentence for the documentation."""

    STAGE = ("has the peer that serves the guest's targets prepare, and stages them here; where "
             "that fails, so does the migration")
    LOOK = ("looks whether this host serves the guest's targets, or has them staged; else the "
            "guest is not started")
    LET_GO = "has what is only staged here taken back; what QEMU has carried is the helpers' to end"
    NOTHING = "nothing"


class Row(NamedTuple):
    """A call.  ``where``: the host that is called; ``why``: the reason for what is done."""

    operation: str
    sub_operation: str
    does: Do
    where: str
    why: str


_ROWS = (
    Row("migrate", "begin", Do.STAGE, "destination",
        "the last call before QEMU is started that says that a guest comes from another host"),
    Row("prepare", "begin", Do.LOOK, "where the guest starts",
        "a start, a restore or a migration: QEMU would exit where it has no endpoint"),
    Row("start", "begin", Do.NOTHING, "where the guest starts", "all is there since prepare"),
    Row("started", "begin", Do.NOTHING, "where the guest starts",
        "of a migration, memory has not been sent yet"),
    Row("stopped", "end", Do.NOTHING, "where the guest was", "QEMU may be there still"),
    Row("release", "end", Do.LET_GO, "where the guest was",
        "QEMU is gone: the journal says how far it came, whatever the fourth word is (- up to "
        "libvirt 10.4)"),
    Row("restore", "begin", Do.NOTHING, "where the guest starts",
        "prepare follows; the saved guest's Load() is judged by lio-handover-vmstate"),
    Row("reconnect", "begin", Do.NOTHING, "where the guest runs", "libvirtd alone was restarted"),
    Row("attach", "begin", Do.NOTHING, "where the guest runs", "libvirt attaches to a QEMU"),
)
ROWS: Mapping[Tuple[str, str], Row] = {(row.operation, row.sub_operation): row for row in _ROWS}
#: The calls for which the program is started; etc/libvirt/lio-handover has them, too.
CALLS = tuple(f"{row.operation}/{row.sub_operation}" for row in _ROWS
              if row.does is not Do.NOTHING)
