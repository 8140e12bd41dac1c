"""The verbs of the command line: words → the façade → words.

Data goes to standard output, words to standard error.  The exit code is that of errors.py's one
table; ``lio-handover errors`` prints it.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import sys
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

from . import document as documents
from . import as_json, cautions, client, columns, errors, files, onward, steps, tree, wording
from .cli import PROG, flushed, say, unprinted
from .ours import Ours
from .core import Ready
from .document import Document
from .running import Doing
from .screen import Screen
from .settings import load


# --- from start to end ---------------------------------------------------------------------------
def run(args: argparse.Namespace) -> int:
    """Run a command that was understood; its exit code."""
    signals = Signals()
    signals.install()
    try:
        runs = RUN
        if args.verb not in RUN:
            from . import handover_verbs, ours_verbs
            runs = {**handover_verbs.RUN, **ours_verbs.RUN}
        code = runs[args.verb](args, signals)
        _start_units(args)
        return flushed(code)
    except BaseException as error:
        signals.progress.clear()
        if args.debug:
            import traceback
            traceback.print_exc()
        return _explain(error, args, signals)


def _start_units(args: argparse.Namespace) -> None:
    """From now on targetcli's unit takes these targets' units with it."""
    for core in _CORES:
        if core.begun:
            from . import restoring
            why = restoring.start_units(core, core.begun)
            say_notes(args, [why] if why else [])


def _explain(error: BaseException, args: argparse.Namespace, signals: Signals) -> int:
    """One line for a failure; its exit code."""
    if isinstance(error, BrokenPipeError):
        return unprinted(error)
    if isinstance(error, Usage):
        say(f"{PROG}: {error}; {errors.NOTHING_CHANGED}; next: {PROG} {args.verb} --help")
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
        try:
            print_data({"error": {"name": type(known).__name__, "code": code, "what": known.what,
                                  "changed": known.changed, "do": known.do, "findings": [
                                      as_json.finding_tree(one) for one in known.findings]}})
        except OSError:
            pass  # what is printed can't arrive; the line and the exit code can
    say(f"{PROG}: {known}")
    return flushed(code)


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


# --- saying things -------------------------------------------------------------------------------
def say_done(args: argparse.Namespace, what: str, do: str = "") -> None:
    if not args.json:
        say(f"{PROG}: {what}" + (f"; next: {do}" if do else ""))


def print_data(tree: object) -> None:
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

    def __call__(self, number: int, total: int, step: Doing) -> None:
        if self.active:
            now = time.monotonic()
            if now - self._last > 0.05:
                self._last = now
                self.say(f"{number + 1}/{total} {step.doing}")

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

    @contextmanager
    def later(self) -> Iterator[None]:
        """A signal that comes meanwhile ends the command afterwards.  Raises Stopped."""
        self.deferred = True
        yield
        self.deferred = False
        if self.number:
            raise Stopped(self.number)


# --- what verbs share ----------------------------------------------------------------------------
def as_root(verb: str) -> None:
    if os.geteuid() != 0:
        raise errors.NotRoot(f"only root may {verb}", do=f"sudo {PROG} {verb}")


#: What this command has worked with.
_CORES: List[Ours] = []


def the_core(args: argparse.Namespace) -> Ours:
    _CORES.append(_made(args))
    return _CORES[-1]


def _made(args: argparse.Namespace) -> Ours:
    if not args.config:
        return Ours(load())
    try:
        kind = os.stat(args.config).st_mode
    except (OSError, ValueError) as error:
        raise errors.BadSettings(f"{args.config} can't be read: "
                                 f"{getattr(error, 'strerror', None) or error}",
                                 do="correct --config") from None
    if not stat.S_ISREG(kind) and os.path.realpath(args.config) != os.devnull:
        raise errors.BadSettings(f"{args.config} is not a file", do="correct --config")
    return Ours(load(args.config))


def the_service(args: argparse.Namespace) -> Optional[client.Service]:
    """The service, where it runs and shall do the work.  It has a configuration of its own."""
    if args.alone or args.config:
        return None
    return client.find()


#: Who did it, where it was not this program: in the answer of --json, and in words.
BY = {"by": "lio-handoverd"}


def by_whom(came: Mapping[str, Any]) -> str:
    return "; done by lio-handoverd" if "by" in came else ""


def ask_service(service: client.Service, member: str, args: argparse.Namespace, signals: Signals,
                document: Optional[bytes] = None) -> client.Came:
    """What the service makes of these words: its answer, and the data that it hands out."""
    options = {name: value for name, value in (
        ("all", getattr(args, "all", False)), ("allow", args.allow),
        ("maps", getattr(args, "map", [])), ("probe", getattr(args, "probe", False))) if value}

    def progress(number: int, total: int, what: str) -> None:
        if total:
            signals.progress.say(f"{number}/{total} {what}")

    signals.deferred = True
    if document is None:
        came, data = service.run(member, target_names(args), options, progress, signals.stop)
    else:
        came, data = service.run_document(member, document, options, progress, signals.stop)
    signals.progress.clear()
    return {**came, **BY}, data


def _document(args: argparse.Namespace, core: Ours) -> Document:
    limit = core.settings.document_bytes
    return documents.loads(files.read(args.file, limit), limit)


def target_names(args: argparse.Namespace) -> List[str]:
    """The targets named, as `show` writes them; targetcli's users begin them with a slash."""
    if bool(args.targets) == getattr(args, "all", False):
        raise Usage("name targets, or give --all" if not args.targets else
                    "either name targets or give --all")
    return _named(args)


def _named(args: argparse.Namespace) -> List[str]:
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


def quoted(words: Sequence[str]) -> str:
    import shlex
    return " ".join(map(shlex.quote, words))


# --- the verbs -----------------------------------------------------------------------------------
def show(args: argparse.Namespace, signals: Signals) -> int:
    view = the_core(args).view(_named(args))
    if args.json:
        print_data(as_json.view_tree(view))
    else:
        _print(tree.tree(view, Screen.of(sys.stdout)))
    if view.unclear:
        say(f"{PROG}: reservations are not shown: {view.unclear}")
    for note in view.notes:
        say(f"{PROG}: {note}")
    return errors.SAME


def prepare(args: argparse.Namespace, signals: Signals) -> int:
    as_root("prepare")
    core = the_core(args)
    wanted = core.some(target_names(args), args.all)
    with signals.later():  # a scratch nexus may be there
        made, found = core.prepare(wanted, args.probe)
    against = errors.stopping(found, args.allow)
    notes = [*made.notes, *cautions.before_handover(core.fs, made.state)]
    names = [one.name for one in made.state.targets]
    if args.json:
        print_data({"targets": names, "frozen": made.frozen, "bytes": made.size,
                    "notes": notes,
                    "findings": [as_json.finding_tree(one, args.allow) for one in found]})
    else:
        print(errors.one_line(f"{wording.names(made.state, 99)}: {wording.contents(made.state)}"))
        _print(steps.findings(found, Screen.of(sys.stdout), args.allow))
    say_notes(args, notes)
    if against:
        return _against(args, against, "a handover")
    say_done(args, "nothing speaks against a handover; nothing was changed",
             f"{PROG} " + ("export" if made.frozen else "freeze") + f" {quoted(names)}")
    return errors.SAME


def say_notes(args: argparse.Namespace, notes: Sequence[str]) -> None:
    for note in notes if not args.json else ():
        say(f"{PROG}: note: {note}")


def _against(args: argparse.Namespace, against: Sequence[errors.Finding], what: str) -> int:
    """Findings were shown: how many, and the exit code of the first."""
    if not args.json:
        kinds = ", ".join(sorted({one.error.__name__ for one in against}))
        say(f"{PROG}: {wording.count(len(against), 'finding')} against {what} ({kinds}); "
            f"{errors.NOTHING_CHANGED}; next: see each finding")
    return against[0].error.code


def freeze(args: argparse.Namespace, signals: Signals) -> int:
    service = the_service(args)
    came = ask_service(service, "Freeze", args, signals)[0] if service else _freeze(args, signals)
    names = came["targets"]
    if args.json:
        print_data(came)
    say_done(args, f"froze {', '.join(names)}: gates shut, no command executing, data on the "
             "storage; "
             f"{_writes(came['writes'])} in {came['seconds']['freeze']:.2f} s{by_whom(came)}",
             came["next"])
    return errors.SAME


def _freeze(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    as_root("freeze")
    core = the_core(args)
    found = core.some(target_names(args), args.all)
    signals.deferred = True
    signals.progress.say("shutting the gates, waiting for commands, flushing data")
    started = time.monotonic()
    state = core.freeze(found, args.allow, signals.stop, None, args.probe)
    took = time.monotonic() - started
    signals.progress.clear()
    names = [one.name for one in state.targets]
    return {"targets": names, "writes": core.fs.changes, "seconds": {"freeze": round(took, 6)},
            "next": onward.frozen(core.held(names), names)}


def export(args: argparse.Namespace, signals: Signals) -> int:
    service = the_service(args)
    if not service:
        as_root("export")
    files.check_stream() if args.output == files.STREAM else files.check_place(args.output)
    came, data = ask_service(service, "Export", args, signals) if service \
        else _export(args, signals)
    names, frozen = came["targets"], came["frozen"]
    try:
        files.write(args.output, data)
    except errors.HandoverError as error:
        if came["recorded"]:
            error.changed = f"{', '.join(names)}: recorded as exported, though nobody has the " \
                "document; export again hands out the same"
        raise
    if args.json and args.output != files.STREAM:
        print_data({**came, "file": args.output})
    say_notes(args, came["notes"])
    how = "frozen" if frozen else "NOT frozen: import will refuse it"
    say_done(args, f"exported {', '.join(names)} ({how}), {len(data)} bytes, "
             f"digest {came['digest'][:12]}…{by_whom(came)}; " + (
              "recorded: no boot brings it back here" if came["recorded"] else
              errors.NOTHING_CHANGED),
             f"{PROG} import FILE on the other host" if frozen else
             f"{PROG} freeze {quoted(names)}, and export again")
    return errors.SAME


def _export(args: argparse.Namespace, signals: Signals) -> client.Came:
    core = the_core(args)
    found = core.some(target_names(args), args.all)
    with signals.later():
        made = core.export(found, args.allow, args.probe)
    data = documents.dumps(made)
    return {"targets": [one.name for one in made.state.targets], "frozen": made.frozen,
            "digest": made.digest, "bytes": len(data), "notes": list(made.notes),
            "recorded": bool(made.carried)}, data


def thaw(args: argparse.Namespace, signals: Signals) -> int:
    service = the_service(args)
    came = ask_service(service, "Thaw", args, signals)[0] if service else _thaw(args, signals)
    thawed = came["targets"]
    if args.json:
        print_data(came)
    say_notes(args, came.get("notes", ()))
    if thawed:
        say_done(args, f"thawed {', '.join(thawed)}: initiators are let in again; "
                 f"{_writes(came['writes'])}{by_whom(came)}", f"{PROG} show {quoted(thawed)}")
    else:
        say_done(args, "nothing is frozen; nothing was changed")
    return errors.SAME


def _thaw(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    as_root("thaw")
    core = the_core(args)
    names = target_names(args)
    if args.all:
        names = [name for one in core.held() for name in one.targets]
    found = core.names(names)
    signals.deferred = True
    state = core.thaw(found, args.allow) if found else None
    return {"targets": [one.name for one in state.targets] if state else [],
            "writes": core.fs.changes, "notes": core.notes}


def diff(args: argparse.Namespace, signals: Signals) -> int:
    core = the_core(args)
    document = _document(args, core)
    have, want, changes = core.compare(document, args.map)
    if args.json:
        print_data({"same": not changes, "changes": [as_json.change_tree(one) for one in changes]})
        return errors.DIFFERENT if changes else errors.SAME
    rows = columns.rows(have, want, changes)
    origin = document.origin
    here, there = f"here: {os.uname().nodename}", f"document: {origin.host}" + (
        ", frozen" if document.frozen else "")
    if rows:
        _print(columns.columns(rows, here, there, Screen.of(sys.stdout)))
    say_done(args, columns.alike(want, rows))
    return errors.DIFFERENT if changes else errors.SAME


def plan(args: argparse.Namespace, signals: Signals) -> int:
    as_root("plan")
    core = the_core(args)
    return _show_plan(args, core.ready(_document(args, core), args.map))


def _show_plan(args: argparse.Namespace, ready: Ready) -> int:
    against = errors.stopping(ready.findings, args.allow)
    if args.json:
        print_data(as_json.plan_tree(ready, args.allow))
    else:
        _print(steps.plan(ready, Screen.of(sys.stdout), args.allow))
    if against:
        return _against(args, against, "this import")
    say_done(args, f"{steps.about_plan(ready.plan)}; nothing was changed", quoted(
        [PROG, "import", args.file, *_again("--map", args.map), *_again("--allow", args.allow)]))
    return errors.SAME


def _again(option: str, values: Sequence[str]) -> List[str]:
    return [word for value in values for word in (option, value)]


def import_(args: argparse.Namespace, signals: Signals) -> int:
    service = the_service(args) if not args.dry_run else None
    if not service:
        as_root("import")
    core = the_core(args)
    document = _document(args, core)
    if service:
        came, _ = ask_service(service, "Import", args, signals, documents.dumps(document))
    else:
        ready = core.ready(document, args.map)
        if args.dry_run:
            return _show_plan(args, ready)
        came, document = _import(core, ready, args, signals), ready.document
    if args.json:
        print_data(came)
    say_notes(args, came["notes"])
    state, names = document.state, came["targets"]
    what = wording.listed(names) if names else wording.names(state)
    if not came["steps"]:
        say_done(args, f"this host serves {what} just so already; nothing was changed")
        return errors.SAME
    origin = document.origin.host
    say_done(args, f"imported {what}: {_writes(came['writes'])} in "
             f"{_seconds(came['seconds'])}, read back and the same; lio-handover restores it here "
             f"at a boot, not targetcli{by_whom(came)}",
             f"on {origin or 'the source'}: {PROG} remove {quoted(names)}" + (
              " --allow reserved" if any(one.reservations for one in state.backstores) else ""))
    return errors.SAME


def _import(core: Ours, ready: Ready, args: argparse.Namespace, signals: Signals) \
        -> Dict[str, Any]:
    signals.deferred = True
    outcome = core.import_(ready, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    return {"targets": [one.name for one in ready.document.state.targets],
            "maps": as_json.maps_tree(ready), **as_json.outcome_tree(outcome)}


def verify(args: argparse.Namespace, signals: Signals) -> int:
    as_root("verify")
    core = the_core(args)
    document = _document(args, core)
    try:
        core.verify(document, args.map)
    except errors.VerifyFailed as error:
        raise errors.VerifyFailed(error.what, do=quoted(
            [PROG, "diff", args.file, *_again("--map", args.map)])) from None
    if args.json:
        print_data({"same": True, "targets": [one.name for one in document.state.targets]})
    state = document.state
    say_done(args, f"this host serves {wording.names(state)} just as the document says: "
             f"{wording.contents(state)}; nothing was changed")
    return errors.SAME


def remove(args: argparse.Namespace, signals: Signals) -> int:
    service = the_service(args)
    came = ask_service(service, "Remove", args, signals)[0] if service else _remove(args, signals)
    names, kept = came["targets"], came["kept"]
    if args.json:
        print_data(came)
    say_done(args, f"removed {', '.join(names) or 'every target'}: {_writes(came['writes'])} in "
             f"{_seconds(came['seconds'])}{by_whom(came)}"
             + (f"; what it was is kept in {kept}" if kept else ""), f"{PROG} show")
    return errors.SAME


def _remove(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    as_root("remove")
    core = the_core(args)
    names = target_names(args)
    signals.deferred = True
    outcome, kept = core.remove(names, args.all, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    return {"targets": names, "kept": kept, **as_json.outcome_tree(outcome)}


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    "show": show, "prepare": prepare, "freeze": freeze, "export": export, "thaw": thaw,
    "diff": diff, "plan": plan, "import": import_, "verify": verify, "remove": remove}
