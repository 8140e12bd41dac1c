"""Who may what: subject × method × option.  One table, written by hand:
tests/service/test_access.py calls every cell of it, and holds it to have every method and option
that there is.

A line (an indented one goes on) is an object, a method, and what a caller needs who gives these
options (``-``: none): ``allow`` is one that loses something, ``overrides`` each of those by which
two hosts may end up serving one target; ``messages`` are the other host's, as descriptors.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: subject → what it has: polkit's actions, or (root alone) all.  ``group``: a member of [service]
#: group, where there is no polkit.
SUBJECTS = {
    "root": {"root", "read", "write", "document", "force", "manage"},
    "nobody": set(),
    "looks": {"read"},
    "changes": {"read", "write"},
    "manages": {"read", "manage"},
    "is handed documents": {"read", "document"},
    "vouches": {"read", "write", "document", "force", "manage"},
    "group": {"read", "write", "document", "manage"}}

OVERRIDES = ("exported", "imported", "handover", "not-frozen")

TABLE = """
manager  ListTargets        read: -
manager  ListHandovers      read: -
manager  Upload             read: -
manager  Show               read: -
manager  Prepare            read: - all allow overrides | read write: probe
manager  Freeze             write: - all allow probe | write force: overrides
manager  Export             write: - all allow probe | write force: overrides
manager  Thaw               write: - all allow | write force: overrides
manager  Diff               read: - upload maps | read document: secrets
manager  Plan               read: - upload maps allow overrides | read document: secrets
manager  Import             write: - upload maps allow
                          | write force: overrides
                          | write document: secrets
manager  Verify             read: - upload maps | read document: secrets
manager  Remove             write: - all allow | write force: overrides
manager  Adopt              write: - all allow | write force: overrides
manager  Giveback           write: - all allow | write force: overrides
manager  CreateBackstore    manage: - secret-fds dry-run allow | manage force: overrides
manager  CreateTarget       manage: - dry-run allow | manage force: overrides
manager  CreateObject       manage: - secret-fds dry-run allow words wait | manage force: overrides
manager  SetValues          manage: - secret-fds dry-run allow words wait | manage force: overrides
manager  DeleteObject       manage: - dry-run allow words wait | manage force: overrides
manager  RunLine            manage root: - allow wait preferences folder
                          | manage root force: overrides
manager  Apply              manage: - upload prune dry-run allow | manage force: overrides
manager  Move               write: - resume here mode guest-fds guest-there-fds guest-uri
                            deadline maps allow probe
                          | write force: overrides
                          | root: guest guest-there
manager  PrepareHandover    write: - handover mode probe allow document-version
                          | write force: peer overrides
manager  StageHandover      write: - maps allow document-version
                          | write force: messages uploads said peer overrides
manager  AbortHandover      write: - probe allow question document-version
                          | write force: messages uploads said peer overrides
manager  StatusHandovers    read: -
manager  RecoverHandovers   write: - guest-left allow
                          | write force: peer-is-fenced peer-never-returns overrides
handover Prepare            write: - probe allow document-version | write force: peer overrides
handover Freeze             write: - probe export allow document-version
                          | write force: peer overrides
handover Export             write: - probe allow document-version | write force: peer overrides
handover Release            write: - guest-left allow document-version
                          | write force: messages uploads said peer overrides
handover Thaw               write: - allow document-version
                          | write force: messages uploads said peer overrides
handover Retire             write: - allow document-version
                          | write force: messages uploads said peer overrides
handover Stage              write: - allow document-version | write force: peer overrides
handover Activate           write: - allow document-version
                          | write force: messages uploads said peer overrides
handover Verify             write: - allow document-version | write force: peer overrides
handover Confirm            write: - allow document-version
                          | write force: messages uploads said peer overrides
handover Abort              write: - probe allow question document-version
                          | write force: peer overrides
handover Status             read: - question
handover Recover            write: - guest-left allow document-version
                          | write force: messages uploads said peer peer-is-fenced
                            peer-never-returns overrides
target   AddTpg             manage: - dry-run allow | manage force: overrides
target   RemoveTpg          manage: - dry-run allow | manage force: overrides
target   AddPortal          manage: - dry-run allow | manage force: overrides
target   RemovePortal       manage: - dry-run allow | manage force: overrides
target   AddLun             manage: - dry-run allow | manage force: overrides
target   RemoveLun          manage: - dry-run allow | manage force: overrides
target   AddAcl             manage: - dry-run allow | manage force: overrides
target   SetNexus           manage: - dry-run allow | manage force: overrides
target   DropNexus          manage: - dry-run allow | manage force: overrides
target   SetValues          manage: - secret-fds dry-run allow | manage force: overrides
target   Delete             manage: - dry-run allow | manage force: overrides
acl      Map                manage: - dry-run allow | manage force: overrides
acl      Unmap              manage: - dry-run allow | manage force: overrides
acl      Protect            manage: - dry-run allow | manage force: overrides
acl      SetValues          manage: - secret-fds dry-run allow | manage force: overrides
acl      Delete             manage: - dry-run allow | manage force: overrides
backstore Grow               manage: - dry-run allow | manage force: overrides
backstore AddAluaGroup       manage: - dry-run allow | manage force: overrides
backstore RemoveAluaGroup    manage: - dry-run allow | manage force: overrides
backstore SetValues          manage: - secret-fds dry-run allow | manage force: overrides
backstore Delete             manage: - dry-run allow | manage force: overrides
target   Get                read: -
backstore Get               read: -
acl      Get                read: -
job      Wait               read: -
job      Open               read: -
job      Read               read: -
job      Cancel             write: -
job      Release            write: -
job      Finish             write: -
secret   Wait               read: -
secret   Open               read document: -
secret   Read               read document: -
secret   Cancel             write: -
secret   Release            write: -
secret   Finish             write document: -
own      Wait               read: -
own      Open               read: -
own      Read               read: -
own      Cancel             read: -
own      Release            read: -
own      Finish             read: -
manager  Introspect         open: -
handover Introspect         read: -
job      Introspect         read: -
manager  Ping               open: -
handover Ping               open: -
job      Ping               open: -
manager  GetMachineId       open: -
manager  Get                read: -
handover Get                read: -
job      Get                read: -
secret   Get                read: -
manager  GetAll             read: -
handover GetAll             read: -
job      GetAll             read: -
secret   GetAll             read: -
manager  Set                nobody: -
handover Set                nobody: -
job      Set                nobody: -
manager  GetManagedObjects  read: -
"""
#: What the same methods need where both hosts have a key by which messages are known.
WITH_KEY = """
manager  StageHandover      write: messages uploads said
manager  AbortHandover      write: messages uploads said
handover Release            write: messages uploads said
handover Thaw               write: messages uploads said
handover Retire             write: messages uploads said
handover Activate           write: messages uploads said
handover Confirm            write: messages uploads said
handover Recover            write: messages uploads said | write force: peer-is-fenced
"""
#: What a guest's file says → whether another user than root, who reaches the bus, may call Save()
#: and Load() of org.qemu.VMState1 there (tests/unit/test_vmstate_bus.py calls them).
HELPER = {"": True, "users = root\n": False, "users =\n  root\n  nobody\n": True,
          "bus = system\n": False, "bus = system\nusers = nobody\n": True}


class Cell(NamedTuple):
    object: str  # noqa: A003
    method: str
    option: str
    needs: frozenset[str]

    def allows(self, subject: str) -> bool:
        return self.needs <= SUBJECTS[subject] | {"open"}


def cells(table: str) -> Iterator[Cell]:
    """Every cell of a table, but for its subject."""
    for line in re.sub(r"\n +", " ", table).strip().splitlines():
        place, method, rest = line.split(None, 2)
        for part in rest.split("|"):
            needs, _, options = part.partition(":")
            for option in options.split():
                for name in ("allow=reserved",) if option == "allow" else \
                        tuple(f"allow={name}" for name in OVERRIDES) if option == "overrides" \
                        else (option,):
                    yield Cell(place, method, name, frozenset(needs.split()))
