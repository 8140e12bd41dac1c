"""A command of lio-handover, from its arguments to its exit code (see `lio-handover errors`).

This module imports only the parser before the arguments are parsed, so that the start is fast.
"""
from __future__ import annotations

import gc
import os
import sys

from .. import errors
from ..started import COMMANDS
from .output import PROG, flushed, print_data, say, unprinted
from .parser import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Optional, Sequence

    from .session import Signals

#: Verbs that change nothing, whatever goes wrong in them.
_ONLY_LOOKS = ("show", "diff", "plan", "verify", "prepare", "export")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse(words)
        if args.verb == "errors":
            return _print_errors(args)
        from .session import Signals
    except SystemExit as end:  # --help, --version, or not understood
        return flushed(end.code if isinstance(end.code, int) else errors.USAGE)
    except KeyboardInterrupt:
        say(f"interrupted; {errors.NOTHING_CHANGED}")
        return errors.SIGNAL + 2
    except OSError as error:
        return unprinted(error)
    # A command keeps its objects until it ends, so a garbage collection would find nothing.
    gc.disable()
    return _run(args, Signals())


def _print_errors(args: argparse.Namespace) -> int:
    """Print the table of exit codes."""
    rows = [(str(errors.SAME), "", "Done; or the same (diff)."),
            (str(errors.DIFFERENT), "", "They differ (diff)."),
            (str(errors.USAGE), "", "Look at --help: the command was not understood."),
            *((str(code), name, do) for code, name, do in errors.table()),
            (f"{errors.SIGNAL}+N", "", "Ended by signal N; what was begun was taken back.")]
    if args.json:
        print_data([{"code": int(code), "name": name, "do": do} for code, name, do in rows
                    if code.isdigit()])
    else:
        for code, name, do in rows:
            print(f"{code:>5}  {name:<17}  {do}".rstrip())
    return flushed(errors.SAME)


def _run(args: argparse.Namespace, signals: Signals) -> int:
    """Run a parsed command, and return its exit code."""
    signals.install()
    try:
        from importlib import import_module

        from .session import start_units
        code: int = import_module(COMMANDS[args.verb]).RUN[args.verb](args, signals)
        start_units(args)
        return flushed(code)
    except BaseException as error:
        signals.progress.clear()
        if args.debug:
            import traceback
            traceback.print_exc()
        return _explain(error, args, signals)


# --- failures ------------------------------------------------------------------------------------
def _explain(error: BaseException, args: argparse.Namespace, signals: Signals) -> int:
    """Print a failure as one line, and return its exit code."""
    from .session import Stopped, Usage
    if isinstance(error, BrokenPipeError):
        return unprinted(error)
    if isinstance(error, Usage):
        say(f"{error}; {errors.NOTHING_CHANGED}; next: {PROG} {args.verb} --help")
        return errors.USAGE
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        failure: errors.HandoverError = errors.Interrupted("interrupted")
        code = errors.SIGNAL + getattr(error, "number", 2)
    else:
        failure = _as_handover_error(error, args)
        code = failure.code
        if signals.number and isinstance(failure, (errors.Interrupted, errors.KernelRefused)):
            code = errors.SIGNAL + signals.number
    if args.json:
        from ..views import json_view
        try:
            print_data({"error": {
                "name": type(failure).__name__, "code": code, "what": failure.what,
                "changed": failure.changed, "do": failure.do, "findings": [
                    json_view.finding_tree(finding) for finding in failure.findings]}})
        except OSError:
            pass  # standard output is gone; the line on standard error and the exit code are not
    say(str(failure))
    return flushed(code)


def _as_handover_error(error: BaseException, args: argparse.Namespace) -> errors.HandoverError:
    """The error itself, or a HandoverError for an error of another kind."""
    if isinstance(error, errors.HandoverError):
        return error
    changed = errors.NOTHING_CHANGED if args.verb in _ONLY_LOOKS else \
        "whether anything was changed is not known"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            return errors.NotRoot(f"{where}only root may look there", do=f"sudo {PROG}")
        kind = errors.KernelRefused if str(error.filename or "").startswith("/sys/") else \
            errors.HandoverError
        return kind(f"{where}{error.strerror}", changed, f"{PROG} show, dmesg")
    failure = errors.unforeseen(error)
    failure.changed, failure.do = changed, "run it again with --debug, and report it"
    return failure
