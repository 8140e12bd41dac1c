"""lio-handover-hook: a migration that a guest's manager runs, before it and after it.

It is started by hooks: of libvirt (hooks/rows.py), of Proxmox, of oVirt, of scripts.  It calls none
of those managers, writes nothing to standard output (libvirt takes that for XML), and leaves all
that may take long to the guest's unit (incoming.py).
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Callable, List, Mapping, Optional, Sequence

from .. import __version__, errors
from ..host import guests
from ..host.guests import Guest
from . import domain, rows
from .rows import Do

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records.journal import Journal

PROG = "lio-handover-hook"
DESCRIPTION = """\
Hands a guest's vhost-scsi targets over where a manager (libvirt, Proxmox, oVirt, a script) migrates
the guest: called before the migration, and after it, by the manager's hooks.

GUEST names the file /etc/lio-handover/guests/GUEST.conf, which both hosts have, as they have its
lio-handover-vmstate@GUEST: QEMU's own stream carries the targets' run-time state.

  pre-migrate    on the destination, before its QEMU starts: the peer that serves the targets
                 ([service] peers, or --from) prepares, and they are staged here; bounded by [hooks]
                 deadline.  Where no QEMU of the guest's comes, or it ends, that is taken back.
  post-migrate   on either host, after the migration: waits until the handover is over
  failed         on either host, after a migration that failed: takes back what was prepared
  libvirt        what /etc/libvirt/hooks/qemu.d/lio-handover calls, with libvirt's four words
  incoming       what the unit lio-handover-incoming@GUEST runs

Nothing is written to standard output; a failure is one line on standard error.
"""
STATUS = """\
Exit status: 0, it is done (or there was nothing to do); 1, it failed, and may go well another time;
2, it is refused until somebody changes something, or was not understood.
"""
#: Exit codes.
DONE, FAILED, REFUSED = 0, 1, 2
#: Seconds between two looks at a journal.
OFTEN = 0.3


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; lio-handover-hook(8) is made from it."""
    program = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_argument("--version", action="version", version=f"{PROG} {__version__}",
                         help="show the version and end")
    program.add_argument("call", choices=tuple(RUN), help="when it is called, as above")
    program.add_argument("words", nargs="*", metavar="GUEST",
                         help="the guest's name (of libvirt: NAME OPERATION SUB-OPERATION EXTRA)")
    program.add_argument("--xml", default="", metavar="FILE",
                         help="libvirt's XML of the guest, in place of its name; - is standard "
                         "input")
    program.add_argument("--from", default="", metavar="HOST", dest="source",
                         help="how ssh reaches the source, where that is known (default: all of "
                         "[service] peers are asked)")
    program.add_argument("--guests", default=guests.FOLDER, metavar="FOLDER",
                         help=f"where guests' files are (default {guests.FOLDER})")
    program.add_argument("--config", default="", metavar="FILE",
                         help="instead of /etc/lio-handover/lio-handover.conf")
    return program


# ---- the guest -----------------------------------------------------------------------------------
def _guest(args: argparse.Namespace) -> Optional[Guest]:
    """The guest that is meant; None where the XML is of a guest without targets of lio-handover's.

    Raises BadSettings, BadCall.
    """
    if args.xml:
        if args.words:
            raise errors.BadCall("a guest is named by its name or by its XML, not by both",
                                 do=f"{PROG} --help")
        return _guest_of(_read(args.xml), args.guests)
    if len(args.words) != 1:
        raise errors.BadCall(f"{args.call} takes one guest", do=f"{PROG} --help")
    return guests.load(args.words[0], args.guests)


def _guest_of(xml: bytes, folder: str) -> Optional[Guest]:
    """The guest whose vhost-scsi targets a domain's XML has, or None.  Raises BadSettings where
    files here tell otherwise than the XML, BadCall for XML that no libvirt writes."""
    known = domain.parse(xml)
    if not known.targets:
        return None
    named = guests.of_targets(known.targets, folder)
    if not named:
        return None
    guest = named[0]
    path = f"{folder}/{guest.name}.conf"
    if len(named) > 1 or {*guest.targets} != {*known.targets}:
        raise errors.BadSettings(
            f"{errors.quoted(known.name)} has {', '.join(known.targets)}, and of these "
            + "; ".join(f"{other.name} has {', '.join(other.targets)}" for other in named),
            do=f"name all targets of the guest, and no other's, in {path}")
    return guest


def _read(path: str) -> bytes:
    try:
        with (sys.stdin.buffer if path == "-" else open(path, "rb")) as file:
            return file.read(domain.LIMIT + 1)
    except (OSError, ValueError) as error:
        raise errors.BadCall(f"{errors.quoted(path)}: {getattr(error, 'strerror', error)}",
                             do="give the guest's XML") from None


# ---- calls ---------------------------------------------------------------------------------------
def pre_migrate(args: argparse.Namespace) -> None:
    guest = _guest(args)
    if guest is not None:
        _stage(args, guest)


def _stage(args: argparse.Namespace, guest: Guest) -> None:
    from .. import dbus_names, settings
    from . import unit
    if args.source and not dbus_names.HOST.fullmatch(args.source):
        raise errors.BadCall(f"{errors.quoted(args.source)} is no host for ssh",
                             do="name it as ssh does: HOST or USER@HOST")
    unit.start(guest.name, args.source, settings.load(
        *([args.config] if args.config else [])).hook_seconds)


def post_migrate(args: argparse.Namespace) -> None:
    guest = _guest(args)
    if guest is None:
        return
    journal = _until(args, guest, ("retired", "confirmed"), ("idle", "none"))
    if journal is None:
        raise errors.NoSuchHandover(f"nothing of {guest.name} was handed over, or begun to be",
                                    do="lio-handover status")
    state = journal.handover.state
    if state not in ("retired", "confirmed", "given"):
        raise errors.WrongState(
            f"{guest.name} has not moved: handover {journal.id} is {state} here",
            do=f"lio-handover status {journal.id}")


def failed(args: argparse.Namespace) -> None:
    from .. import settings
    from . import unit
    from .staging import Staging
    guest = _guest(args)
    if guest is None:
        return
    known = settings.load(*([args.config] if args.config else []))
    unit.stop(guest.name, known.hook_seconds)
    staging = Staging(guest, known, _say)
    staging.take_back()
    staging.give_up()
    journal = _until(args, guest, ("idle", "none"), ("retired", "confirmed"))
    if journal is not None and journal.handover.state not in ("idle", "none"):
        raise errors.WrongState(
            f"{guest.name}: handover {journal.id} is {journal.handover.state} here, and is not "
            "taken back", do=f"lio-handover status {journal.id}")


def _until(args: argparse.Namespace, guest: Guest, good: Sequence[str], bad: Sequence[str]
           ) -> Optional[Journal]:
    """The last handover of a guest, once it has come to one of these states, or at the latest after
    the hook's time; None where there is none."""
    from .. import settings
    from .staging import of_guest
    known = settings.load(*([args.config] if args.config else []))
    until = time.monotonic() + known.hook_seconds
    while True:
        journals = of_guest(guest, known)
        if not journals or journals[-1].handover.state in (*good, *bad) \
                or time.monotonic() > until:
            return journals[-1] if journals else None
        time.sleep(OFTEN)


# ---- libvirt -------------------------------------------------------------------------------------
def libvirt(args: argparse.Namespace) -> None:
    """One call of libvirt's hook; the guest's XML is on standard input."""
    _name, *call, _extra = [*args.words, "", "", "", ""][:4]
    row = rows.ROWS.get((call[0], call[1]))
    if row is None or row.does is Do.NOTHING:
        return
    guest = _guest_of(_read("-"), args.guests)
    if guest is not None:
        _DO[row.does](args, guest)


def _look(args: argparse.Namespace, guest: Guest) -> None:
    """Raises NoSuchTarget where this host neither serves the guest's targets nor has them staged.

    QEMU would exit, and libvirt's own `hostdev` wants the target's directory before it labels it
    (security_dac.c).
    """
    from .. import settings
    from .staging import Staging, not_served
    known = settings.load(*([args.config] if args.config else []))
    if Staging(guest, known, _say).staged():
        return
    why = not_served(guest, known)
    if why:
        raise errors.NoSuchTarget(f"{guest.name} can't start here: {why}",
                                  do="start the guest on the host that serves it, or bring the "
                                     "target here first: lio-handover move")


def _let_go(_args: argparse.Namespace, guest: Guest) -> None:
    """The guest's unit, where one runs, is told to end; nothing is waited for."""
    from . import unit
    unit.stop(guest.name)


_DO: Mapping[Do, Callable[[argparse.Namespace, Guest], None]] = {
    Do.STAGE: _stage, Do.LOOK: _look, Do.LET_GO: _let_go}


# ---- the unit ------------------------------------------------------------------------------------
def incoming(args: argparse.Namespace) -> int:
    from .. import settings
    from ..system.journald import Log
    from . import unit
    from .incoming import Incoming
    guest = _guest(args)
    assert guest is not None  # the unit has no XML
    return Incoming(guest, settings.load(*([args.config] if args.config else [])),
                    Log(program=PROG), unit.source_of(guest.name)).run()


RUN: Mapping[str, Callable[[argparse.Namespace], Optional[int]]] = {
    "pre-migrate": pre_migrate, "post-migrate": post_migrate, "failed": failed,
    "libvirt": libvirt, "incoming": incoming}


def _say(text: str) -> None:
    """Print a line on standard error."""
    try:
        print(errors.one_line(f"{PROG}: {text}"), file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a call, and return its exit code."""
    os.umask(0o077)
    words: List[str] = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["libvirt"]:  # a domain may be named as an option is
        args = parser().parse_args(["libvirt"])
        args.words = words[1:]
    else:
        args = parser().parse_args(words)
    try:
        if os.geteuid() != 0:
            raise errors.NotRoot("only root may hand targets over", do=f"sudo {PROG}")
        return RUN[args.call](args) or DONE
    except errors.HandoverError as error:
        from .incoming import refused
        _say(str(error))
        return REFUSED if refused(error) else FAILED
    except Exception as error:  # noqa: B902 - the manager is told in one line, whatever it is
        _say(str(errors.unforeseen(error)))
        return FAILED
