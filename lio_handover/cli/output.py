"""The output of commands: data on standard output, text and progress on standard error.

The parser prints its errors by this module, so the module imports little, for a fast start.
"""
from __future__ import annotations

import os
import sys
import time

from .. import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Iterable, Mapping, Sequence

    from ..execute.step_runner import Describable
    from ..local.results import Result

PROG = "lio-handover"

#: The member of --json's answer for work that the service did.
BY_SERVICE = {"by": "lio-handoverd"}


# --- lines for people ----------------------------------------------------------------------------
def say(text: str) -> None:
    """Print a line on standard error, after the program's name."""
    if sys.stderr is not None:
        try:
            print(errors.one_line(f"{PROG}: {text}"), file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody listens


def say_done(args: argparse.Namespace, what: str, do: str = "") -> None:
    """Print what was done and what to run next; nothing with --json, whose data has both."""
    if not args.json:
        say(what + (f"; next: {do}" if do else ""))


def say_notes(args: argparse.Namespace, notes: Sequence[str]) -> None:
    """Print the notes; nothing with --json, whose data has them."""
    for note in notes if not args.json else ():
        say(f"note: {note}")


def credit(result: Result) -> str:
    """The end of a result's line: it names the service where the service did the work."""
    return f"; done by {result.by}" if result.by else ""


def seconds_text(seconds: Mapping[str, float]) -> str:
    """The sum of the seconds, and the seconds of each phase where there are several."""
    phases = ", ".join(f"{phase} {took:.2f} s" for phase, took in seconds.items())
    return f"{sum(seconds.values()):.2f} s" + (f" ({phases})" if len(seconds) > 1 else "")


def writes_text(number: int) -> str:
    return f"{number} kernel write" + "s"[:number != 1]


def quoted(words: Sequence[str]) -> str:
    """The words of a command as a shell takes them."""
    import shlex
    return " ".join(map(shlex.quote, words))


def repeat_option(option: str, values: Sequence[str]) -> list[str]:
    """The words that give an option once for each value."""
    return [word for value in values for word in (option, value)]


# --- data ----------------------------------------------------------------------------------------
def print_data(tree: object) -> None:
    """Print JSON on standard output."""
    import json
    print(json.dumps(tree, indent=1, sort_keys=True))


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def flushed(code: int) -> int:
    """Flush standard output; the exit code, or that of `unprinted` where it cannot be flushed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return unprinted(error)
    return code


def unprinted(error: OSError) -> int:
    """The exit code where standard output cannot be written; a closed pipe gets no message."""
    try:  # so that the interpreter does not fail again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass
    if isinstance(error, BrokenPipeError):
        return errors.SIGNAL + 13
    failure = errors.BadFile(f"standard output can't be written: {error.strerror}",
                             "what was printed is not whole", "look where it goes to")
    say(str(failure))
    return failure.code


# --- progress ------------------------------------------------------------------------------------
class Progress:
    """The progress of long work, in one line of a terminal; it prints nothing elsewhere."""

    def __init__(self) -> None:
        self.shown = False
        self.active = sys.stderr is not None and sys.stderr.isatty() \
            and os.environ.get("TERM", "dumb") != "dumb"
        self._last = 0.0

    def __call__(self, number: int, total: int, step: Describable) -> None:
        """Show the step that begins, at most 20 times a second."""
        if self.active:
            now = time.monotonic()
            if now - self._last > 0.05:
                self._last = now
                self.say(f"{number + 1}/{total} {step.description}")

    def say(self, text: str) -> None:
        """Replace the line."""
        if self.active:
            try:
                width = os.get_terminal_size(sys.stderr.fileno()).columns
            except OSError:
                width = 80
            self._put("\r" + errors.one_line(text)[:max(width - 1, 20)] + "\x1b[K")
            self.shown = True

    def clear(self) -> None:
        """Remove the line, before something else is printed."""
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
