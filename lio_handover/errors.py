"""Every way in which a handover is refused or fails: one tree, one table.

A class's docstring says who must act; ``code`` is the exit code of the command line, and the
class's name is its name on D-Bus.  ``lio-handover errors`` prints the table.

Every message is one line: what failed; what was changed and what was not; what to run next.
"""
from __future__ import annotations

# The command line starts with this module alone, so it imports neither dataclasses nor typing.
from collections.abc import Iterator, Sequence

from .texts import (one_line as one_line, quoted as quoted,  # noqa: F401 - for who raises
                    shown as shown)

NOTHING_CHANGED = "nothing was changed"

#: Pages that messages name, where etc/install.map puts them.
RECOVERY_PAGE = "/usr/share/doc/lio-handover/operations/recovery.md"
PROTOCOL_PAGE = "/usr/share/doc/lio-handover/internals/handover-protocol.md"

#: The exceptions by which JSON of an unforeseen shape shows, where its parts are taken for what
#: they should be.
MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

#: Characters of a message at most; of them those that say what was changed, and what to run next.
LONGEST, CHANGED, NEXT = 2000, 300, 800

#: Exit codes that no error has.  A signal N ends a command with SIGNAL + N.
SAME, DIFFERENT, USAGE, SIGNAL = 0, 1, 2, 128


class HandoverError(Exception):
    """Something went wrong that has no name of its own: please report it."""

    code = 70

    def __init__(self, what: str, changed: str = NOTHING_CHANGED, do: str = "") -> None:
        self.what, self.changed, self.do = what, changed, do
        self.findings: Sequence[Finding] = ()  # all the reasons, where there are several
        super().__init__(what)

    @property
    def next(self) -> str:
        """The command to run next, or the next thing to do."""
        who = (self.__doc__ or "").strip().rstrip(".")
        return self.do or who[:1].lower() + who[1:]

    def __str__(self) -> str:
        """One line that a terminal can show, of at most 2000 characters, whatever is in it."""
        rest = f"; {shown(self.changed, CHANGED)}; next: {shown(self.next, NEXT)}"
        return shown(self.what, LONGEST - len(rest)) + rest


class NotRoot(HandoverError):
    """Run it as root: the kernel's target lets nobody else in."""

    code = 3


class NoTargetModules(HandoverError):
    """Load the kernel's target modules and mount configfs on this host."""

    code = 4


class NoSuchTarget(HandoverError):
    """Name a target that this host has."""

    code = 5


class BadSettings(HandoverError):
    """Correct the configuration file, or the option."""

    code = 6


class BadMap(HandoverError):
    """Correct the --map option."""

    code = 7


class BadFile(HandoverError):
    """Give a document that can be read, or a place where it can be written."""

    code = 8


class DocumentError(HandoverError):
    """Export the document again: this one can't be taken."""

    code = 10


class NotJson(DocumentError):
    """Give the file that export wrote: this is something else."""

    code = 11


class Truncated(DocumentError):
    """Copy the document again: its end is missing."""

    code = 12


class WrongVersion(DocumentError):
    """Use a lio-handover that knows this version of the document."""

    code = 13


class BadDigest(DocumentError):
    """Copy or export the document again: it was changed after it was written."""

    code = 14


class TooLarge(DocumentError):
    """Give the file that export wrote: no document is that large."""

    code = 15


class TooDeep(DocumentError):
    """Give the file that export wrote: no document is nested that deeply."""

    code = 16


class BadStructure(DocumentError):
    """Export the document again: a field is missing, unknown or of the wrong type."""

    code = 17


class BadName(DocumentError):
    """Correct the name: the kernel, or its file system, can't have it."""

    code = 18


class BadValue(DocumentError):
    """Correct the value: the kernel would refuse it, or be harmed by it."""

    code = 19


class Duplicate(DocumentError):
    """Correct the document: two objects claim one place."""

    code = 20


class Refusal(HandoverError):
    """Look at what is refused, then decide."""

    code = 30


class StorageMissing(Refusal):
    """Make the file or device reachable on this host, or name it with --map."""

    code = 31


class StorageDiffers(Refusal):
    """Attach the same storage to this host: what is here is not what the source served."""

    code = 32


class StorageNotAllowed(Refusal):
    """Allow the path in the configuration file, if it is meant to be served."""

    code = 33


class StorageInUse(Refusal):
    """Free the storage: this host uses it for something else."""

    code = 34


class TargetDiffers(Refusal):
    """Look at `diff`, then remove what is there if it is not wanted."""

    code = 35


class NotFrozen(Refusal):
    """Freeze the target on the source host, export again, and import that."""

    code = 36


class InUse(Refusal):
    """Free the target first: somebody uses it."""

    code = 37


class CannotRepresent(Refusal):
    """Decide about the state which can't be carried over as it is."""

    code = 38


class CannotChange(Refusal):
    """Remove the target and import it afresh: the kernel does not let this be changed in place."""

    code = 39


class HazardRefused(Refusal):
    """Report it: a write that is not known to be safe was about to be made, and was not."""

    code = 40


class KernelRefused(HandoverError):
    """Look at the kernel's log (dmesg) for the reason."""

    code = 50


class Meddled(KernelRefused):
    """Keep others from the target meanwhile: rtslib makes a nexus even when it only lists."""

    code = 55


class ModuleMissing(HandoverError):
    """Install the kernel module, or boot a kernel that has it."""

    code = 56


class StorageCommandFailed(HandoverError):
    """Run the storage's acquire or release command by hand, and see why it fails."""

    code = 59


class Interrupted(HandoverError):
    """Run it again when it suits."""

    code = 51


class UndoFailed(HandoverError):
    """Look at what is left with `show`, and take it away with `remove`."""

    code = 52


class VerifyFailed(HandoverError):
    """Compare with `diff`; the destination must not serve until they are the same."""

    code = 53


class StillRunning(HandoverError):
    """Wait: the kernel has not come back from a request, or commands are still executing."""

    code = 54


class WrongState(HandoverError):
    """Look at `status`: it says where this handover stands and what leads on."""

    code = 60


class NoSuchHandover(HandoverError):
    """Name a handover that this host has: `status` lists them."""

    code = 61


class StaleEpoch(HandoverError):
    """Prepare again on the source: this attempt is over, or another one has begun."""

    code = 62


class PeerUnreachable(HandoverError):
    """Make the other host answer; if it is off, say so to `recover --peer-is-fenced`."""

    code = 63
    #: something of that host has answered all the same, so it is not off
    alive = False
    #: it says that it works on it, so it is not asked once more
    hangs = False


class JournalBroken(HandoverError):
    """Look at the journal's folder: nothing goes on while it can't be written and read."""

    code = 64


class StructureChanged(HandoverError):
    """Thaw, then prepare again: the target was changed by other means since."""

    code = 65


class SavefileBroken(HandoverError):
    """Look at targetcli's save file: a handover must be able to read and to write it."""

    code = 66
    #: it is no whole file, which it may be in a moment
    half = False


class Undecided(HandoverError):
    """Decide, if you know what can't be seen from here: recover prints what may be ordered."""

    code = 67


class NotAuthentic(HandoverError):
    """Have both hosts use one key: what this host can't know to be the other's is not believed."""

    code = 68


class NotAuthorized(HandoverError):
    """Ask an administrator: polkit, or the service's group, says who may do what."""

    code = 80


class BadCall(HandoverError):
    """Correct the call: its arguments or options make no sense."""

    code = 81


class TooMany(HandoverError):
    """Wait, or release jobs that have ended: the service holds as many as it may."""

    code = 82


class NotEnded(HandoverError):
    """Wait until the job has ended."""

    code = 83


class WorkerDied(HandoverError):
    """Look at what is there with `show` and `status`: the process that changed it is gone."""

    code = 84


class NoService(HandoverError):
    """Start lio-handoverd, or see why it does not answer: systemctl status lio-handoverd."""

    code = 85


class VersionsDiffer(HandoverError):
    """Bring the older of the two hosts up to date: only neighbouring versions work together."""

    code = 86


class FenceFailed(HandoverError):
    """See why the fence program does not say that the other host is off; till then it may serve."""

    code = 87


class GuestFailed(HandoverError):
    """Look at the guest's QEMU, on both hosts: its log says why it does not go on."""

    code = 88
    gone = False  # its monitor hung up


class Finding:
    """One reason to refuse.  ``override`` is what --allow takes to go on all the same, or ""."""

    __slots__ = ("error", "subject", "sentence", "override", "do")

    def __init__(self, error: type[HandoverError], subject: str, sentence: str,
                 override: str = "", do: str = "") -> None:
        self.error, self.subject, self.sentence = error, subject, sentence
        self.override, self.do = override, do

    def __repr__(self) -> str:
        return f"<Finding {self.error.__name__} {self.subject}: {self.sentence}>"


def stopping(findings: Sequence[Finding], allowed: Sequence[str] = ()) -> list[Finding]:
    """The findings that are not allowed."""
    return [finding for finding in findings
            if finding.override not in allowed or not finding.override]


def refuse(findings: Sequence[Finding], allowed: Sequence[str] = ()) -> list[Finding]:
    """Raise the first finding that is not allowed, counting the others; return the allowed ones."""
    refused = stopping(findings, allowed)
    if not refused:
        return list(findings)
    first = refused[0]
    what = f"{first.subject}: {first.sentence}"
    if len(refused) > 1:
        what += f" (and {len(refused) - 1} more: " + ", ".join(
            sorted({f"{finding.subject} {finding.error.__name__}"
                    for finding in refused[1:]})) + ")"
    do = first.do
    if first.override:
        do = (do + ", or " if do else "") + f"--allow {first.override} to go on all the same"
    error = first.error(what, do=do)
    error.findings = refused
    raise error


def classes() -> list[type[HandoverError]]:
    """Every error, in the order of the codes."""

    def below(kind: type[HandoverError]) -> Iterator[type[HandoverError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return sorted(below(HandoverError), key=lambda kind: kind.code)


def table() -> Iterator[tuple[int, str, str]]:
    """(exit code, name, who must act) of every error, in the order of the codes."""
    for kind in classes():
        yield kind.code, kind.__name__, (kind.__doc__ or "").strip()


def unforeseen(error: BaseException) -> HandoverError:
    """The error for one of a type that nobody expects: of its text, which may be anything (a
    secret, a document's bytes), nothing is told."""
    return HandoverError(f"{type(error).__name__} in lio-handover",
                         "whether anything was changed is not known", "report it")
