"""The command line: words → the façade → words.

Data goes to standard output, words to standard error.  The exit code is that of errors.py's one
table; ``lio-handover errors`` prints it.

Only what parsing needs is imported here; everything else when a verb needs it.
"""
from __future__ import annotations

import argparse
import os
import sys

from . import __version__, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Mapping, NoReturn, Optional, Sequence

    from .core import Core, Ready
    from .document import Document
    from .plan import Step

PROG = "lio-handover"

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


# --- parsing -------------------------------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    """Says what it does not understand as every other error is said: in one line."""

    def error(self, message: str) -> NoReturn:
        text = f"{message}; {errors.NOTHING_CHANGED}; next: {self.prog} --help"
        _words(f"{PROG}: {text}")
        raise SystemExit(errors.USAGE)


#: verb → (what it does, a longer word and examples, its arguments)
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
""", ("targets", "all", "allow")),
    "freeze": ("shut the gates, wait until no command executes, flush all data", """\
Initiators are thrown out and try to come back; they find the destination, or this host after
thaw.  Where it can't be finished, the gates are opened again.

  lio-handover freeze iscsi/iqn.2003-01.org.example:db
""", ("targets", "all", "allow")),
    "export": ("write a document of targets; changes nothing", """\
Of frozen targets it is what import wants.  It holds CHAP secrets: a file is made for its owner
alone, whole or not at all; a terminal gets none.

  lio-handover export iscsi/iqn.2003-01.org.example:db -o db.json
  lio-handover export --all | ssh b lio-handover import -
""", ("targets", "all", "allow", "output")),
    "thaw": ("open the gates that freeze has shut", """\
Only where no other host serves the target: two that do destroy its data.

  lio-handover thaw iscsi/iqn.2003-01.org.example:db
  lio-handover thaw --all        everything that was frozen here
""", ("targets", "all")),
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
    "errors": ("the table of exit codes", "", ()),
}


def parser(verb: str = "") -> argparse.ArgumentParser:
    """The command line's parser; with a ``verb``, only that one's arguments are there."""
    made = Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    _common(made, False)
    verbs = made.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True,
                                parser_class=Parser)
    for name, (does, more, arguments) in VERBS.items():
        if verb in ("", name):
            one = verbs.add_parser(
                name, help=does, description=does[0].upper() + does[1:] + ".", epilog=more,
                formatter_class=argparse.RawDescriptionHelpFormatter)
            for argument in arguments:
                _argument(one, argument)
            _common(one, True)
    return made


def _common(one: argparse.ArgumentParser, again: bool) -> None:
    """Options that stand before or after the verb."""
    def default(value: object) -> object:
        return argparse.SUPPRESS if again else value

    one.add_argument("--json", action="store_true", default=default(False),
                     help="data as JSON on standard output, an error as well")
    one.add_argument("--config", metavar="FILE", default=default(""),
                     help="instead of /etc/lio-handover/lio-handover.conf")
    one.add_argument("--debug", action="store_true", default=default(False),
                     help="show where in the program an error came from")


def _argument(one: argparse.ArgumentParser, name: str) -> None:
    if name in ("targets", "targets?"):
        one.add_argument("targets", nargs="*", metavar="TARGET", help="iscsi/iqn..., vhost/naa..., "
                         "loopback/naa..." + (" (all, without one)" if name[-1] == "?" else ""))
    elif name == "all":
        one.add_argument("--all", action="store_true", help="every target of this host")
    elif name == "file":
        one.add_argument("file", metavar="FILE", help="a document; - is standard input")
    elif name == "output":
        one.add_argument("-o", "--output", metavar="FILE", default="-",
                         help="where the document goes (default -, standard output)")
    elif name == "dry-run":
        one.add_argument("--dry-run", action="store_true", help="only show the plan")
    elif name == "map":
        one.add_argument("--map", action="append", default=[], metavar="KIND:OLD=NEW",
                         help="another name on this host (KIND: device, root, portal, target, "
                              "initiator)")
    elif name == "allow":
        one.add_argument("--allow", action="append", default=[], metavar="NAME",
                         help="go on in spite of a finding; a refusal says which NAME")


# --- saying things -------------------------------------------------------------------------------
def _words(text: str) -> None:
    """A line for people."""
    if sys.stderr is not None:
        try:
            print(errors.one_line(text), file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody listens


def _done(args: argparse.Namespace, what: str, do: str = "") -> None:
    if not args.json:
        _words(f"{PROG}: {what}" + (f"; next: {do}" if do else ""))


def _data(tree: object) -> None:
    import json
    print(json.dumps(tree, indent=1, sort_keys=True))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


class Progress:
    """Long work shows where it is, in one line of a terminal; nowhere else."""

    def __init__(self) -> None:
        self.shown = False
        self.active = sys.stderr is not None and sys.stderr.isatty() \
            and os.environ.get("TERM", "dumb") != "dumb"
        self._last = 0.0

    def __call__(self, number: int, total: int, step: Step) -> None:
        if self.active:
            import time
            now = time.monotonic()
            if now - self._last > 0.05:
                self._last = now
                self.say(f"{step.phase} {number + 1}/{total}: {step.slot}, {step.path}")

    def say(self, text: str) -> None:
        if self.active:
            try:
                width = os.get_terminal_size(sys.stderr.fileno()).columns
            except OSError:
                width = 80
            self._put("\r" + errors.one_line(text)[:max(width - 1, 20)] + "\x1b[K")
            self.shown = True

    def clear(self) -> None:
        if self.shown:
            self._put("\r\x1b[K")
            self.shown = False

    @staticmethod
    def _put(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass


# --- signals -------------------------------------------------------------------------------------
class Stopped(BaseException):
    """A signal came while nothing was being changed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """SIGINT, SIGTERM and SIGHUP end a command at once; while the host is being changed, between
    two steps, and then all is taken back, however many signals come."""

    def __init__(self) -> None:
        self.number = 0
        self.deferred = False
        self.progress = Progress()

    def install(self) -> None:
        import signal
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, self._came)

    def _came(self, number: int, _frame: object) -> None:
        if not self.deferred:
            raise Stopped(number)
        if not self.number:
            self.number = number
            self.progress.say("stopping, and taking back what was done")

    def stop(self) -> bool:
        return self.number != 0


# --- what verbs share ----------------------------------------------------------------------------
def _root(verb: str) -> None:
    if os.geteuid() != 0:
        raise errors.NotRoot(f"only root may {verb}", do=f"sudo {PROG} {verb}")


def _core(args: argparse.Namespace) -> Core:
    from .core import Core
    from .settings import load
    if not args.config:
        return Core(load())
    import stat
    try:
        kind = os.stat(args.config).st_mode
    except (OSError, ValueError) as error:
        raise errors.BadSettings(f"{args.config} can't be read: "
                                 f"{getattr(error, 'strerror', None) or error}",
                                 do="correct --config") from None
    if not stat.S_ISREG(kind) and os.path.realpath(args.config) != os.devnull:
        raise errors.BadSettings(f"{args.config} is not a file", do="correct --config")
    return Core(load(args.config))


def _document(args: argparse.Namespace, core: Core) -> Document:
    from . import document, files
    limit = core.settings.document_bytes
    return document.loads(files.read(args.file, limit), limit)


def _targets(args: argparse.Namespace) -> list[str]:
    """The targets named, as `show` writes them; targetcli's users begin them with a slash."""
    if bool(args.targets) == getattr(args, "all", False):
        raise Usage("name targets, or give --all" if not args.targets else
                    "either name targets or give --all")
    return _named(args)


def _named(args: argparse.Namespace) -> list[str]:
    found = [name.strip("/") for name in args.targets]
    for name in found:
        if "/" not in name:
            raise Usage(f"{name} is no TARGET: it is FABRIC/WWN, as `{PROG} show` has it")
    return found


class Usage(Exception):
    """Words that can be parsed and yet make no sense."""


def _seconds(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{phase} {took:.2f} s" for phase, took in seconds.items())
    return f"{sum(seconds.values()):.2f} s" + (f" ({parts})" if len(seconds) > 1 else "")


def _writes(number: int) -> str:
    return f"{number} kernel write" + "s"[:number != 1]


def _quoted(words: Sequence[str]) -> str:
    import shlex
    return " ".join(map(shlex.quote, words))


# --- the verbs -----------------------------------------------------------------------------------
def show(args: argparse.Namespace, signals: Signals) -> int:
    from . import render
    view = _core(args).view(_named(args))
    if args.json:
        _data(render.view_tree(view))
    else:
        _print(render.tree(view, render.Screen.of(sys.stdout)))
    if view.unclear:
        _words(f"{PROG}: reservations are not shown: {view.unclear}")
    return errors.SAME


def prepare(args: argparse.Namespace, signals: Signals) -> int:
    from . import document, render
    _root("prepare")
    core = _core(args)
    made, found = core.prepare(core.names(_targets(args), args.all))
    against = errors.stopping(found, args.allow)
    names = [one.name for one in made.state.targets]
    if args.json:
        _data({"targets": names, "frozen": made.frozen, "bytes": len(document.dumps(made)),
               "findings": [render.finding_tree(one, args.allow) for one in found]})
    else:
        print(errors.one_line(f"{render.names(made.state, 99)}: {render.contents(made.state)}"))
        _print(render.findings(found, render.Screen.of(sys.stdout), args.allow))
    if against:
        return _against(args, against, "a handover")
    _done(args, "nothing speaks against a handover; nothing was changed",
          f"{PROG} " + ("export" if made.frozen else "freeze") + f" {_quoted(names)}")
    return errors.SAME


def _against(args: argparse.Namespace, against: Sequence[errors.Finding], what: str) -> int:
    """Findings were shown: how many, and the exit code of the first."""
    if not args.json:
        _words(f"{PROG}: {len(against)} finding{'s'[:len(against) > 1]} "
               f"against {what} ({', '.join(sorted({one.error.__name__ for one in against}))}); "
               f"{errors.NOTHING_CHANGED}; next: see each finding")
    return against[0].error.code


def freeze(args: argparse.Namespace, signals: Signals) -> int:
    import time
    _root("freeze")
    core = _core(args)
    found = core.names(_targets(args), args.all)
    signals.deferred = True
    signals.progress.say("shutting the gates, waiting for commands, flushing data")
    started = time.monotonic()
    state = core.freeze(found, args.allow, signals.stop)
    took = time.monotonic() - started
    signals.progress.clear()
    names = [one.name for one in state.targets]
    if args.json:
        _data({"targets": names, "writes": core.fs.changes, "seconds": round(took, 6)})
    _done(args, f"froze {', '.join(names)}: gates shut, no command executing, data on the storage; "
          f"{_writes(core.fs.changes)} in {took:.2f} s",
          f"{PROG} export {_quoted(names)} -o FILE (or thaw)")
    return errors.SAME


def export(args: argparse.Namespace, signals: Signals) -> int:
    from . import document, files
    _root("export")
    if args.output == files.STREAM:
        files.check_stream()
    core = _core(args)
    made = core.export(core.names(_targets(args), args.all), args.allow)
    data = document.dumps(made)
    files.write(args.output, data)
    names = [one.name for one in made.state.targets]
    if args.json and args.output != files.STREAM:
        _data({"targets": names, "frozen": made.frozen, "digest": made.digest,
               "bytes": len(data), "file": args.output})
    how = "frozen" if made.frozen else "NOT frozen: import will refuse it"
    _done(args, f"exported {', '.join(names)} ({how}), {len(data)} bytes, "
          f"digest {made.digest[:12]}…; nothing was changed",
          f"{PROG} import FILE on the other host" if made.frozen else
          f"{PROG} freeze {_quoted(names)}, and export again")
    return errors.SAME


def thaw(args: argparse.Namespace, signals: Signals) -> int:
    _root("thaw")
    core = _core(args)
    names = _targets(args)
    if args.all:
        there = [f"{fabric}/{wwn}" for fabric, wwn in core.names((), True)]
        names = [one for one in core.frozen().names() if one in there]
    found = core.names(names)
    signals.deferred = True
    state = core.thaw(found) if found else None
    thawed = [one.name for one in state.targets] if state else []
    if args.json:
        _data({"targets": thawed, "writes": core.fs.changes})
    if thawed:
        _done(args, f"thawed {', '.join(thawed)}: initiators are let in again; "
              f"{_writes(core.fs.changes)}", f"{PROG} show {_quoted(thawed)}")
    else:
        _done(args, "nothing is frozen; nothing was changed")
    return errors.SAME


def diff(args: argparse.Namespace, signals: Signals) -> int:
    from . import render
    core = _core(args)
    document = _document(args, core)
    have, want, changes = core.compare(document, args.map)
    if args.json:
        _data({"same": not changes, "changes": [render.change_tree(one) for one in changes]})
        return errors.DIFFERENT if changes else errors.SAME
    rows = render.rows(have, want, changes)
    origin = document.origin
    here, there = f"here: {os.uname().nodename}", f"document: {origin.host}" + (
        ", frozen" if document.frozen else "")
    if rows:
        _print(render.columns(rows, here, there, render.Screen.of(sys.stdout)))
    _done(args, render.alike(want, rows))
    return errors.DIFFERENT if changes else errors.SAME


def plan(args: argparse.Namespace, signals: Signals) -> int:
    _root("plan")
    core = _core(args)
    return _show_plan(args, core.ready(_document(args, core), args.map))


def _show_plan(args: argparse.Namespace, ready: Ready) -> int:
    from . import render
    against = errors.stopping(ready.findings, args.allow)
    if args.json:
        _data(render.plan_tree(ready, args.allow))
    else:
        _print(render.plan(ready, render.Screen.of(sys.stdout), args.allow))
    if against:
        return _against(args, against, "this import")
    _done(args, f"{render.about_plan(ready.plan)}; nothing was changed", _quoted(
        [PROG, "import", args.file, *_again("--map", args.map), *_again("--allow", args.allow)]))
    return errors.SAME


def _again(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def import_(args: argparse.Namespace, signals: Signals) -> int:
    from . import render
    _root("import")
    core = _core(args)
    ready = core.ready(_document(args, core), args.map)
    if args.dry_run:
        return _show_plan(args, ready)
    state = ready.document.state
    signals.deferred = True
    outcome = core.import_(ready, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    names = [one.name for one in state.targets]
    if args.json:
        _data({"targets": names, "maps": [
            {"kind": what, "old": old, "new": new} for what, old, new in ready.mapped],
            **render.outcome_tree(outcome)})
    for note in outcome.notes if not args.json else ():
        _words(f"{PROG}: note: {note}")
    if not outcome.steps:
        _done(args, f"this host serves {render.names(state)} just so already; nothing was changed")
        return errors.SAME
    origin = ready.document.origin.host
    _done(args, f"imported {render.names(state)}: {_writes(outcome.writes)} in "
          f"{_seconds(outcome.seconds)}, read back and the same",
          f"on {origin or 'the source'}: {PROG} remove {_quoted(names)}" + (
              " --allow reserved" if any(one.reservations for one in state.backstores) else ""))
    return errors.SAME


def verify(args: argparse.Namespace, signals: Signals) -> int:
    from . import render
    _root("verify")
    core = _core(args)
    document = _document(args, core)
    try:
        core.verify(document, args.map)
    except errors.VerifyFailed as error:
        raise errors.VerifyFailed(error.what, do=_quoted(
            [PROG, "diff", args.file, *_again("--map", args.map)])) from None
    if args.json:
        _data({"same": True, "targets": [one.name for one in document.state.targets]})
    _done(args, f"this host serves just what the document says: {render.contents(document.state)}; "
          "nothing was changed")
    return errors.SAME


def remove(args: argparse.Namespace, signals: Signals) -> int:
    from . import render
    _root("remove")
    core = _core(args)
    names = _targets(args)
    signals.deferred = True
    outcome, kept = core.remove(names, args.all, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    if args.json:
        _data({"targets": names, "kept": kept, **render.outcome_tree(outcome)})
    _done(args, f"removed {', '.join(names) or 'every target'}: {_writes(outcome.writes)} in "
          f"{_seconds(outcome.seconds)}" + (f"; what it was is kept in {kept}" if kept else ""),
          f"{PROG} show")
    return errors.SAME


def errors_(args: argparse.Namespace, signals: Signals) -> int:
    rows = [(str(errors.SAME), "", "Done; or the same (diff)."),
            (str(errors.DIFFERENT), "", "They differ (diff)."),
            (str(errors.USAGE), "", "Look at --help: the command was not understood."),
            *((str(code), name, who) for code, name, who in errors.table()),
            (f"{errors.SIGNAL}+N", "", "Ended by signal N; what was begun was taken back.")]
    if args.json:
        _data([{"code": int(code), "name": name, "do": who} for code, name, who in rows
               if code.isdigit()])
        return errors.SAME
    for code, name, who in rows:
        print(f"{code:>5}  {name:<17}  {who}".rstrip())
    return errors.SAME


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    "show": show, "prepare": prepare, "freeze": freeze, "export": export, "thaw": thaw,
    "diff": diff, "plan": plan, "import": import_, "verify": verify, "remove": remove,
    "errors": errors_}


# --- from start to end ---------------------------------------------------------------------------
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser(_verb(words)).parse_args(words)
    except SystemExit as end:  # --help, --version, or not understood
        return _flushed(end.code if isinstance(end.code, int) else errors.USAGE)
    signals = Signals()
    if args.verb != "errors":
        signals.install()
    try:
        return _flushed(RUN[args.verb](args, signals))
    except BaseException as error:
        signals.progress.clear()
        if args.debug:
            import traceback
            traceback.print_exc()
        return _explain(error, args, signals)


def _verb(words: Sequence[str]) -> str:
    """The verb among the words, "" where all verbs' arguments are wanted: making one is faster."""
    before = ""
    for word in words:
        if not word.startswith("-") and before != "--config":
            return word if word in VERBS else ""
        before = word
        if word in ("-h", "--help"):
            break
    return ""


def _flushed(code: int) -> int:
    """The exit code, once all that was printed has arrived."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _quietly()
    return code


def _quietly() -> int:
    """Nobody reads on: end as programs do that die of it."""
    _drop_output()
    return errors.SIGNAL + 13


def _drop_output() -> None:
    """What could not be written must not be tried again when the interpreter ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass


def _explain(error: BaseException, args: argparse.Namespace, signals: Signals) -> int:
    """One line for a failure; its exit code."""
    if isinstance(error, BrokenPipeError):
        return _quietly()
    if isinstance(error, Usage):
        _words(f"{PROG}: {error}; {errors.NOTHING_CHANGED}; next: {PROG} {args.verb} --help")
        return errors.USAGE
    code = None
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        code = errors.SIGNAL + getattr(error, "number", 2)
        known: errors.HandoverError = errors.Interrupted("interrupted")
    else:
        known = _known(error, args)
        if signals.number and isinstance(known, (errors.Interrupted, errors.KernelRefused)):
            code = errors.SIGNAL + signals.number
    code = known.code if code is None else code
    if args.json:
        from . import render
        try:
            _data({"error": {"name": type(known).__name__, "code": code, "what": known.what,
                             "changed": known.changed, "do": known.do, "findings": [
                                 render.finding_tree(one) for one in known.findings]}})
            _flushed(0)
        except OSError:
            _drop_output()
    _words(f"{PROG}: {known}")
    return code


def _known(error: BaseException, args: argparse.Namespace) -> errors.HandoverError:
    """The error, or what an error of another kind means."""
    if isinstance(error, errors.HandoverError):
        return error
    changed = errors.NOTHING_CHANGED if args.verb in ("show", "diff", "plan", "verify", "prepare",
                                                      "export") else \
        "whether anything was changed is not known"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            return errors.NotRoot(f"{where}only root may look there", do=f"sudo {PROG}")
        kind = errors.KernelRefused if str(error.filename or "").startswith("/sys/") else \
            errors.HandoverError
        return kind(f"{where}{error.strerror or error}", changed, f"{PROG} show, dmesg")
    return errors.HandoverError(f"{type(error).__name__}: {error}", changed,
                                "run it again with --debug, and report it")


if __name__ == "__main__":
    sys.exit(main())
