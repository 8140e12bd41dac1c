"""Runs a reader on inputs made by chance, and judges what it says of them.

An escape is an error that the reader does not document, too much time of the processor, a file
that is not as it was, and an error that is not one line, is long, holds raw text of others, or a
secret.
"""
from __future__ import annotations

import json
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lio_handover.errors import HandoverError

from .mutations import Changes, json_line

#: Seconds of the processor for one input; characters of one error; MiB of one process.
SECONDS, CHARACTERS, MEBIBYTES = 4.0, 2000, 256
#: Every secret in a seed has this word.
SECRET = "battery"

#: What a reader is given: bytes, or for VALUES a tree.
JSON, LINES, JSON_LINES, BYTES, VALUES = "json", "lines", "json lines", "bytes", "values"


@dataclass(frozen=True)
class Reader:
    """A row.

    name     as --reader has it
    how      what is changed of a seed: a word above
    seeds    gives inputs that are read; for VALUES and JSON trees may be given
    read     reads an input; what else is to be true it asserts
    allowed  the errors that it documents
    whole    a changed tree → bytes (for JSON: of what has a digest)
    share    of all inputs, beside other readers
    """

    name: str
    how: str
    seeds: Callable[[], Sequence[Any]]
    read: Callable[[Any], object]
    allowed: tuple[type[BaseException], ...] = ()
    whole: Callable[[Any], bytes] | None = None
    share: int = 1


class Hang(BaseException):
    """The processor's time for one input is up."""


@dataclass
class Told:
    """The outcome of many inputs of one reader."""

    reader: str
    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    #: (number of the input, what is wrong)
    escapes: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: tuple[float, int, int] = (0.0, 0, 0)  # seconds, bytes, number
    peak: int = 0  # MiB

    def line(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in self.kinds.most_common())
        return (f"{self.reader}: {self.inputs} inputs in {self.seconds:.0f} s, peak {self.peak} "
                f"MiB, slowest {self.slowest[0] * 1000:.0f} ms ({self.slowest[1]} bytes, number "
                f"{self.slowest[2]}); {kinds}; {len(self.escapes)} escapes")


def made(reader: Reader, seeds: Sequence[Any], seed: str, number: int) -> Any:
    """The input of this number."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    changes, first = Changes(rng), rng.choice(seeds)
    if reader.how == VALUES:
        return changes.tree(first)
    if reader.how == JSON:
        if rng.random() < 0.15:
            raw = [reader.whole(one) if reader.whole else json.dumps(one).encode() for one in seeds]
            return changes.raw(raw[seeds.index(first)], raw)
        tree = changes.tree(first)
        if reader.whole and rng.random() < 0.8:
            try:
                return reader.whole(tree)
            except (ValueError, TypeError, HandoverError):
                pass
        return changes.dumped(tree)
    if reader.how == BYTES or rng.random() < 0.2:
        return changes.raw(first, seeds)
    return changes.lines(first, json_line(changes) if reader.how == JSON_LINES
                         else lambda line: changes.raw(line, seeds))


@contextmanager
def _timed(seconds: float) -> Iterator[None]:
    def late(_number: int, _frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def peak() -> int:
    """The most memory that this process had since its exec, MiB (getrusage counts before that)."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) // 1024


def judged(error: BaseException) -> str:
    """What is wrong with an error's words, "" for nothing."""
    texts = [str(error)]
    if isinstance(error, HandoverError):
        texts += [f"{finding.subject}: {finding.sentence}; {finding.do}"
                  for finding in error.findings]
    for text in texts:
        if len(text) > CHARACTERS:
            return f"an error of {len(text)} characters: {text[:200]!r}"
        if not text.isprintable():
            return f"an error that is not printable: {text[:400]!r}"
        if SECRET in text:
            return f"an error with a secret: {text!r}"
    return ""


def wrong_with(reader: Reader, given: Any) -> tuple[str, str]:
    """(the kind of the outcome, what is wrong with it or "") of one input."""
    try:
        with _timed(SECONDS):
            reader.read(given)
        return "taken", ""
    except Hang:
        return "Hang", f"more than {SECONDS:g} s of the processor"
    except reader.allowed as error:
        wrong = judged(error) if isinstance(error, HandoverError) else ""
        return type(error).__name__, wrong
    except BaseException as error:  # noqa: B902 - whatever comes is the finding
        if isinstance(error, KeyboardInterrupt):
            raise
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
                           for frame in traceback.extract_tb(error.__traceback__)[:-6:-1])
        return type(error).__name__, f"{type(error).__name__}: {str(error)[:300]!r} at {where}"


def run(reader: Reader, seed: str, first: int, count: int) -> Told:
    """Inputs ``first`` to ``first + count - 1`` of a reader."""
    told, seeds = Told(reader.name), list(reader.seeds())
    begin = time.process_time()
    for number in range(first, first + count):
        given = made(reader, seeds, seed, number)
        before = time.process_time()
        kind, wrong = wrong_with(reader, given)
        took = time.process_time() - before
        told.kinds[kind] += 1
        if wrong and len(told.escapes) < 1000:
            told.escapes.append((number, wrong))
        if took > told.slowest[0]:
            size = len(given) if isinstance(given, bytes) else len(repr(given))
            told.slowest = took, size, number
    told.inputs, told.seconds = count, time.process_time() - begin
    told.peak = peak()
    if told.peak > MEBIBYTES:
        told.escapes.append((-1, f"{told.peak} MiB of memory"))
    return told
