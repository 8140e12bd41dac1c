"""The command line's grammar: its verbs and options, as tables, and the parser made of them.

What a verb does is in the modules of started.COMMANDS.  This imports little: it is part of what
starting takes.
"""
from __future__ import annotations

import argparse
import os

from .. import __version__, errors
from .output import PROG, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, NoReturn, Sequence

DESCRIPTION = """\
Moves a LIO target (iSCSI) with its persistent reservations from one host to another.

on the source:       prepare, freeze, export     (thaw takes a freeze back)
on the destination:  plan, import, verify
on the source:       remove
"""

EPILOG = """\
TARGET is what `show` prints: iscsi/iqn..., vhost/naa... or loopback/naa...
FILE is a document as export writes it; - is standard input or output.

A handover:
  a# lio-handover prepare iscsi/iqn.2003-01.org.example:db
  a# lio-handover freeze  iscsi/iqn.2003-01.org.example:db
  a# lio-handover export  iscsi/iqn.2003-01.org.example:db | ssh b lio-handover import -
  b# lio-handover verify  FILE
  a# lio-handover remove  iscsi/iqn.2003-01.org.example:db

Exit codes: 0 done, or the same; 1 they differ (diff); 2 not understood; 3 and up, see
`lio-handover errors`; 128+N ended by signal N, with everything taken back.
"""


# --- the tables ----------------------------------------------------------------------------------
#: What a human asserts, and recover and the engine believe: option → the claim.
WORDS: Mapping[str, str] = {
    "peer-is-fenced": "the other host is off now",
    "peer-never-returns": "nor will it ever boot with its records",
    "guest-left": "QEMU here has completed the migration, or is gone",
}

#: How a target is written.
_TARGET = "iscsi/iqn..., vhost/naa..., loopback/naa..."

#: verb → (what it does, more of it with examples, its arguments: rows of OPTIONS)
VERBS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "show": ("what this host serves, as a tree", """\
Sessions, reservations and their holders included; never a secret.

  lio-handover show
  lio-handover show iscsi/iqn.2003-01.org.example:db
""", ("targets?",)),
    "prepare": ("what speaks against handing targets over; changes nothing", """\
All reasons at once, each with what can be done.  Run it while the target serves.

  lio-handover prepare iscsi/iqn.2003-01.org.example:db
  lio-handover prepare --all --json
""", ("targets", "all", "allow", "probe")),
    "freeze": ("shut the gates, wait until no command executes, flush all data", """\
Initiators are thrown out and try to come back; they find the destination, or this host after
thaw.  Where it can't be finished, the gates are opened again.

  lio-handover freeze iscsi/iqn.2003-01.org.example:db
""", ("targets", "all", "allow", "probe")),
    "export": ("write a document of targets; changes nothing", """\
Of frozen targets it is what import wants.  It holds CHAP secrets: a file is made for its owner
alone, whole or not at all; a terminal gets none.

  lio-handover export iscsi/iqn.2003-01.org.example:db -o db.json
  lio-handover export --all | ssh b lio-handover import -
""", ("targets", "all", "allow", "probe", "output")),
    "thaw": ("open the gates that freeze has shut", """\
Only where no other host serves the target: two that do destroy its data.

  lio-handover thaw iscsi/iqn.2003-01.org.example:db
  lio-handover thaw --all        everything that was frozen here
""", ("targets", "all", "allow")),
    "diff": ("this host beside a document, what differs marked", """\
  !  differs      +  only in the document      -  only here
Exit code 0 where they are the same, 1 where they differ.

  lio-handover diff db.json
""", ("file", "map")),
    "plan": ("the steps that import would take; changes nothing", """\
With the names that are mapped and all that speaks against it.

  lio-handover plan db.json --map root:/srv/a=/srv/b
""", ("file", "map", "allow")),
    "import": ("serve what a document says", """\
All of it or nothing: what fails, or is interrupted, is taken back.  --map takes
  device:/dev/sdb=/dev/sdc                 the path of one backstore
  root:/srv/a=/srv/b                       every path below a directory
  portal:192.0.2.1:3260=192.0.2.9:3260     a portal (without ports: all of that address)
  target:iqn.2003-01.a=iqn.2003-01.b       an IQN or WWPN
  initiator:naa.5001=naa.5002              an ACL or nexus
  rtpi:1=fresh                             the relative port 1, wherever a TPG has it, becomes one
                                           that only its name decides (rtpi:1=7: becomes 7)
  rtpi:iscsi/iqn.2003-01.a/tpg1=7          the relative port of one TPG
  limit:queue_depth=128                    at most 128, where this host's devices can't have more
Block devices with a WWID are found by it.

  lio-handover import db.json --dry-run
  lio-handover import db.json --map device:/dev/sdb=/dev/disk/by-id/wwn-0x5000c500a1b2c3d4
""", ("file", "dry-run", "map", "allow")),
    "verify": ("whether this host serves just what a document says", """\
Exit code 0 where it does.

  lio-handover verify db.json
""", ("file", "map")),
    "remove": ("take targets away, with the backstores that nothing else exports", """\
Refused where somebody is logged in, holds reservations or shares a backstore.  A document of
what is removed is kept.  PLUGIN/NAME names a backstore that no target exports.

  lio-handover remove iscsi/iqn.2003-01.org.example:db
  lio-handover remove iscsi/iqn.2003-01.org.example:db --allow reserved   after a handover
""", ("targets", "all", "allow")),
    "adopt": ("have lio-handover restore targets at a boot, whole", """\
With all that targetcli's file can't hold: registrations, identities, relative ports, a nexus.  They
are served all the time, and leave targetcli's file.  Once more after a change: the copy that a boot
goes by is made anew.

  lio-handover adopt iscsi/iqn.2003-01.org.example:db
""", ("targets", "all", "allow")),
    "giveback": ("have targetcli restore targets at a boot", """\
They go into its save file, as they were there before, unless they were changed since.  What that
file can't hold is named, and refused unless it may be lost at a boot.

  lio-handover giveback iscsi/iqn.2003-01.org.example:db
  lio-handover giveback iscsi/iqn.2003-01.org.example:db --allow not-saved
""", ("targets", "all", "allow")),
    "restore": ("bring targets back that lio-handover restores, as their units do", """\
Whole, with their registrations, shut until all of it is there.  Storage that is missing is named,
and waited for where systemd runs this.

  systemctl start lio-handover-target@$(systemd-escape iscsi/iqn.2003-01.org.example:db)
  lio-handover restore iscsi/iqn.2003-01.org.example:db
""", ("targets",)),
    "clear": ("take targets down that lio-handover restores, as their units do", """\
Their gates are shut and a copy is kept, registrations included; restore brings them back.

  systemctl stop lio-handover-target@$(systemd-escape iscsi/iqn.2003-01.org.example:db)
  lio-handover clear iscsi/iqn.2003-01.org.example:db
""", ("targets",)),
    "source": ("one step of a handover that survives a crash, on the source", """\
VERB: prepare TARGET..., then freeze, export, release, retire with the handover's ID; thaw
goes back.  Each answers with papers, which the other side's verb takes.  A verb may be
repeated; what is out of turn is refused.  See internals/handover-protocol.md in
/usr/share/doc/lio-handover.

  lio-handover source prepare iscsi/iqn.2003-01.org.example:db -o offer.json
  lio-handover source release ID --papers armed.json -o released.json
""", ("step", "names", "papers", "papers-out", "mode", "peer", *WORDS, "allow", "probe",
      "whole")),
    "destination": ("one step of a handover that survives a crash, on the destination", """\
VERB: stage, activate (with the document: armed; with released: open), verify, confirm; abort
ends it here, and gives back what was owned.

  lio-handover destination stage --papers offer.json --map root:/srv/a=/srv/b
  lio-handover destination activate ID --papers document.json -o armed.json
""", ("step", "names", "papers", "papers-out", "peer", *WORDS, "map", "allow", "probe",
      "whole")),
    "status": ("where handovers stand, and what leads on", """\
Every handover of this host, or one: its state, what went wrong, what to run next.

  lio-handover status
  lio-handover status ID -o papers.json     its papers, once more
""", ("id?", "papers-out", "whole")),
    "recover": ("finish what was cut off, or say what a human may order", """\
After a crash, a reboot or a lost answer, on both hosts, the source first.  It looks at kernel,
journal and the other side, and never guesses: where it can't know, it stays closed.

  lio-handover recover --ask 'ssh b lio-handover'
  lio-handover recover ID --peer-is-fenced     only if the other host is off now
  lio-handover recover --boot                  before targetcli restores, at boot
""", ("id?", "papers-out", "ask", "peer", *WORDS, "allow", "boot", "units", "whole")),
    "move": ("hand targets over to another host, from start to end", """\
lio-handoverd has to run on both hosts, and ssh to lead to the other one as root.  What fails
before the source has promised not to serve any more is taken back, and the source goes on.

  lio-handover move iscsi/iqn.2003-01.org.example:db --to b
  lio-handover move iscsi/iqn.2003-01.org.example:db --to root@b --map root:/srv/a=/srv/b
  lio-handover move --resume ID --to b        one that was cut off after that
""", ("targets", "to", "resume", "here", "mode", "map", "allow", "probe")),
    "errors": ("the table of exit codes", "", ()),
}


#: argument → how argparse takes it (``flags`` are its option strings, or its name); those that
#: collect values begin with none.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "targets": dict(flags=["targets"], nargs="*", metavar="TARGET", help=_TARGET),
    "targets?": dict(flags=["targets"], nargs="*", metavar="TARGET",
                     help=f"{_TARGET} (all, without one)"),
    "all": dict(flags=["--all"], action="store_true", help="every target of this host"),
    "file": dict(flags=["file"], metavar="FILE", help="a document; - is standard input"),
    "output": dict(flags=["-o", "--output"], metavar="FILE", default="-",
                   help="where the document goes (default -, standard output)"),
    "probe": dict(flags=["--probe"], action="store_true",
                  help="ask the devices for what configfs does not show of registrations, through "
                       "a nexus that is gone afterwards; meanwhile initiators see one port more"),
    "step": dict(flags=["step"], metavar="VERB", help="see below"),
    "names": dict(flags=["names"], nargs="*", metavar="ID",
                  help="the handover; left out where just one is under way (for prepare: TARGETs)"),
    "id?": dict(flags=["id"], nargs="?", default="", metavar="ID",
                help="a handover (all, without one)"),
    "papers": dict(flags=["--papers"], action="append", metavar="FILE",
                   help="what the other side said; - is standard input"),
    "papers-out": dict(flags=["-o", "--output"], metavar="FILE", default="",
                       help="where the papers of the answer go; - is standard output"),
    "mode": dict(flags=["--mode"], default="iscsi", metavar="MODE",
                 help="of prepare: iscsi, iscsi-late, vhost-qmp, vhost-inband or vhost-stopped "
                      "(default iscsi)"),
    "peer": dict(flags=["--peer"], default="", metavar="HOST",
                 help="how ssh reaches the other host: recover asks it there"),
    "to": dict(flags=["--to"], required=True, metavar="HOST",
               help="how ssh reaches the destination (or unix:path=FILE, a bus of this machine)"),
    "resume": dict(flags=["--resume"], default="", metavar="ID",
                   help="go on with a move that was cut off after the source had released"),
    "here": dict(flags=["--here"], default="", metavar="HOST",
                 help="how ssh reaches this host from there (default: its name)"),
    **{word: dict(flags=[f"--{word}"], action="append_const", dest="words", const=word,
                  help=f"you say so: {claim}") for word, claim in WORDS.items()},
    "ask": dict(flags=["--ask"], default="", metavar="COMMAND",
                help="how to run lio-handover on the other host: 'ssh b lio-handover'"),
    "boot": dict(flags=["--boot"], action="store_true",
                 help="only take out of targetcli's save file what may not open alone"),
    "units": dict(flags=["--units"], action="store_true",
                  help="leave what has a unit of its own to that, and start it"),
    "whole": dict(flags=["--whole"], action="store_true",
                  help="the answer as --ask reads it, with documents and their secrets, on "
                       "standard output"),
    "dry-run": dict(flags=["--dry-run"], action="store_true", help="only show the plan"),
    "map": dict(flags=["--map"], action="append", metavar="KIND:OLD=NEW",
                help="another name on this host (KIND: device, root, portal, target, initiator, "
                     "rtpi, limit)"),
    "allow": dict(flags=["--allow"], action="append", metavar="NAME",
                  help="go on in spite of a finding; a refusal says which NAME"),
    "json": dict(flags=["--json"], action="store_true",
                 help="data as JSON on standard output, an error as well"),
    "config": dict(flags=["--config"], metavar="FILE", default="",
                   help="instead of /etc/lio-handover/lio-handover.conf"),
    "alone": dict(flags=["--alone"], action="store_true",
                  help="do the work here, even where lio-handoverd runs"),
    "debug": dict(flags=["--debug"], action="store_true",
                  help="show where in the program an error came from"),
}
#: Options that stand before or after the verb.
COMMON = ("json", "config", "alone", "debug")


# --- parsing -------------------------------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    """Says what it does not understand as every other error is said: in one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; {errors.NOTHING_CHANGED}; next: {self.prog} --help")
        raise SystemExit(errors.USAGE)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal; found out without shutil, which takes longer than all the rest."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
        except (OSError, ValueError):
            width = 80
        super().__init__(prog, width=max(width - 2, 40))


def parser(verb: str = "") -> Parser:
    """The parser of one verb's command line; without a ``verb``, of what stands before one."""
    program = Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=Formatter)
    program.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    for option in COMMON:
        _add(program, option)
    verbs = program.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True,
                                   parser_class=Parser)
    for name, (does, more, arguments) in VERBS.items():
        if verb in ("", name):
            command = verbs.add_parser(
                name, help=does, description=does[0].upper() + does[1:] + ".", epilog=more,
                formatter_class=Formatter, add_help=bool(verb))
            for argument in arguments if verb else ():
                _add(command, argument)
            for option in COMMON if verb else ():
                _add(command, option, default=argparse.SUPPRESS)  # what stands before it stays
    return program


def _add(to: Parser, name: str, **more: Any) -> None:
    """Add a row of OPTIONS to a parser."""
    keywords = {**OPTIONS[name], **more}
    if keywords.get("action") in ("append", "append_const"):
        keywords["default"] = []
    to.add_argument(*keywords.pop("flags"), **keywords)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line.  Raises SystemExit once --help, --version or what was not
    understood is printed."""
    program = parser(_verb(words))
    args, unknown = program.parse_known_args(words)
    # argparse takes names that come after an option for something it does not know.
    if unknown and hasattr(args, "names") and not any(word.startswith("-") for word in unknown):
        args.names += unknown
    elif unknown:
        program.error("unrecognized arguments: " + " ".join(unknown))
    return args


def _verb(words: Sequence[str]) -> str:
    """The verb among the words, whose arguments alone are then made; "" to make all."""
    before = ""
    for word in words:
        if not word.startswith("-") and before != "--config":
            return word if word in VERBS else ""
        before = word
        if word in ("-h", "--help"):
            return ""
        if word == "--version":
            return word
    return ""
