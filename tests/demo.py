"""What scripts/demo shows: a target with its reservations leaves one real kernel for another."""
from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence

from lio_handover.model.objects import PrType
from lio_handover.scsi import replies
from tests import lab
from tests.lab import scenario
from tests.lab.differences import TABLE, Difference, reason
from tests.lab.scenario import ADDRESS, ALICE, BOB, LUNS, NAME, REGISTRATIONS, Scenario, Sight

WIDTH = 100


class Page:
    """Sections of lines, each with what it took; ``wrong`` counts what must not be."""

    def __init__(self, width: int = WIDTH) -> None:
        self.width = width
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.wrong: list[str] = []
        self._began = time.monotonic()

    def heading(self, text: str) -> None:
        print(f"\n{self._paint('1', text)}", flush=True)

    def line(self, text: str = "", seconds: float | None = None) -> None:
        if seconds is not None:
            text = f"{text:<{self.width - 12}}{seconds:7.2f} s"
        print(f"  {text}".rstrip(), flush=True)

    def check(self, good: bool, text: str) -> None:
        """A line that says whether something is as it must be."""
        if not good:
            self.wrong.append(text)
        self.line(f"{'ok ' if good else self._paint('1;31', 'NOT')} {text}")

    def bad(self, text: str) -> str:
        return self._paint("1;31", text)

    def marked(self, text: str) -> str:
        return self._paint("33", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def verdict(self, well: str) -> int:
        """The end: what must not be once more, or that all is well.  Returns the exit code."""
        self.line()
        for text in self.wrong:
            self.line(f"{self.bad('NOT')} {text}")
        self.line("Something is not as it must be." if self.wrong else well, self.seconds)
        return 1 if self.wrong else 0


def name_of(who: str) -> str:
    return who.rpartition(":")[2]


def show(page: Page, source: str, destination: str) -> None:
    """The whole story."""
    with lab.Lab() as bed:
        page.heading("Hosts")
        began = time.monotonic()
        a, b, client = bed.hosts(source, destination, "stable")
        booted = time.monotonic() - began
        page.line(f"A       Linux {a.release:<12} has the target")
        page.line(f"B       Linux {b.release:<12} will have it")
        page.line(f"client  Linux {client.release:<12} open-iscsi, as two initiators: alice, bob",
                  booted)
        story = Scenario(bed, a, b, client)
        _serve(page, story)
        _move(page, story)
        _writes(page, story)
        _sights(page, story)
        show_pages(page, story.sights["A"], story.sights["B"])
        _remove(page, story)


def _serve(page: Page, story: Scenario) -> None:
    page.heading(f"A serves {NAME} at {ADDRESS}")
    began = time.monotonic()
    story.serve()
    story.log_in()
    page.line("LUN 0   fileio  a file on storage that A and B share, 32 MiB")
    page.line("LUN 1   fileio  another, with buffered writes, blocks of 4096, an ALUA group and an")
    page.line('                identity of its own: "ACME", "Flux Array 9000", "7.01"')
    page.line("LUN 2   iblock  /dev/ubda, a disk that A and B share, 64 MiB")
    if not story.opcodes:
        page.line("All of them have emulate_rsoc=0: B's kernel could not list opcodes as A's does")
    page.line("alice   logs in by CHAP, both ways")
    page.line("bob     logs in without", time.monotonic() - began)
    page.heading("Reservations")
    began = time.monotonic()
    story.register()
    for one in REGISTRATIONS:
        keys = ", then ".join(f"{key:#x}" for key in one.keys)
        page.line(f"LUN {one.lun}   {name_of(one.initiator):<5}  registers {keys}"
                  + (" (APTPL)" if one.aptpl else ""))
        if one.kind:
            page.line(f"{'':14} reserves: type {one.kind}, {PrType(one.kind).text}")
    page.line(seconds=time.monotonic() - began)


def _move(page: Page, story: Scenario) -> None:
    page.heading("Handover, while alice writes to all three LUNs")
    story.look("A")
    story.start_writing()
    story.wait_for_writes(20)
    _ran(page, "A", story.prepare())
    story.wait_for_writes(20)
    _ran(page, "A", story.freeze())
    story.at_freeze()
    login = story.try_login(BOB)
    _ran(page, "A", story.export(), f"  → {len(story.document)} bytes")
    story.before_import()
    _ran(page, "B", story.import_())
    story.take_over()
    page.line(f"{ADDRESS} moves from A to B", story.times["address"])
    story.come_back()
    page.line("alice and bob are logged in again", story.times["log in again"])
    story.wait_for_writes(40)
    story.stop_writing()
    page.line("the longest that a write of alice's took", max(story.pause().values()))
    page.check(login.startswith("refused"), f"after the freeze, one more login to A is {login}")


def _ran(page: Page, host: str, done: scenario.Done, result: str = "") -> None:
    """A command, what it took, and its words for people."""
    page.line(f"{host}  {' '.join(done.words)}{result}", done.seconds)
    _said(page, done.stderr)


def _said(page: Page, words: str) -> None:
    for line in words.splitlines():
        line = line.removeprefix("lio-handover: ").replace("; next: ", "\nnext: ")
        for text in line.split("\n"):
            for part in textwrap.wrap(text, WIDTH - 16, subsequent_indent="  "):
                page.line(f"   │ {part}")


def _writes(page: Page, story: Scenario) -> None:
    page.heading("alice's writes")
    page.line("        acknowledged by A   by B   lost at the freeze   wrong when read back on B")
    counts, wrong = story.counts(), story.wrong_through_target()
    for lun in LUNS:
        by_a = story.frozen_counts[lun]
        page.line(f"LUN {lun}   {by_a:17}   {counts[lun] - by_a:4}   "
                  f"{len(story.lost[lun]):18}   {len(wrong[lun]):25}")
    page.check(not any(story.lost.values()), "all that A acknowledged was on the storage when "
                                             "freeze returned")
    page.check(story.late_counts == story.frozen_counts, "nothing was acknowledged between freeze "
                                                         "and import")
    page.check(not any(wrong.values()), "alice reads every acknowledged write back through B")


def _sights(page: Page, story: Scenario) -> None:
    a, b = story.sights["A"], story.look("B")
    page.heading("What the initiators see and may do")
    page.line(f"{'':38}{'on A':<29} on B")
    for what, on_a, on_b in [*_words(a, b), *((what, a.probes[what], b.probes[what])
                                              for what in a.probes)]:
        same = on_a == on_b == scenario.RIGHT.get(what, on_a)
        page.line(f"{what:<38}{on_a:<28}{'=' if same else page.bad('≠')} {on_b}")
        if not same:
            page.wrong.append(f"{what}: {on_a} on A, {on_b} on B"
                              + (f", not {right}" if (right := scenario.RIGHT.get(what)) else ""))


def _words(a: Sight, b: Sight) -> Iterator[tuple[str, str, str]]:
    """What alice is told, decoded."""
    for lun in LUNS:
        for what, told in (("says it is", _identity), ("is named", _naming), ("has keys", _keys),
                           ("is reserved", _reservation), ("has PRgeneration", _generation)):
            yield (f"LUN {lun} {what}", told(a.answers[ALICE, lun]), told(b.answers[ALICE, lun]))


def _identity(answers: dict[str, bytes]) -> str:
    one = replies.decode_inquiry(answers["inquiry"])
    return f"{one.vendor} {one.product} {one.revision}"


def _naming(answers: dict[str, bytes]) -> str:
    return f"naa.{answers['vpd 83'][8:24].hex()[:18]}…"


def _keys(answers: dict[str, bytes]) -> str:
    return ", ".join(f"{key:#x}" for key in replies.decode_keys(answers["pr in read keys"]).keys)


def _generation(answers: dict[str, bytes]) -> str:
    return str(replies.decode_keys(answers["pr in read keys"]).generation)


def _reservation(answers: dict[str, bytes]) -> str:
    found = replies.decode_full_status(answers["pr in read full status"])
    held = next((f"type {one.type} by {one.key:#x}" for one in found.registrations if one.holder),
                "no")
    aptpl = replies.decode_capabilities(answers["pr in report capabilities"]).ptpl_active
    return held + (", APTPL" if aptpl else "")


def show_pages(page: Page, a: Sight, b: Sight) -> None:
    """Every answer, and each difference with its reason, or marked as wrong."""
    found = scenario.differences(a, b)
    marks = _marks(found)
    page.heading("Every answer to every question, in bytes")
    page.line(f"{'':28}" + "".join(f"{'LUN ' + str(lun):<22}" for lun in LUNS))
    page.line(f"{'':28}" + f"{'alice':<11}{'bob':<11}" * len(LUNS))
    by_place = {(one.who, one.lun, one.question): one for one in found}
    for question in a.answers[ALICE, LUNS[0]]:
        cells = [_cell(a, b, who, lun, question, by_place, marks)
                 for lun in LUNS for who in (ALICE, BOB)]
        page.line(f"{question.removeprefix('report '):<28}"
                  + "".join(f"{cell:<11}" for cell in cells))
    page.line("=: same on A and B; a, b, …: see below; instead of bytes, ua: UNIT ATTENTION,")
    page.line("rc: RESERVATION CONFLICT")
    _explain(page, found, marks)


def _marks(found: Sequence[Difference]) -> dict[Difference, str]:
    """A letter for each reason that is needed; ? where there is none."""
    needed = [row for row in TABLE if any(reason(one) is row for one in found)]
    letters = {id(row): "abcdefghij"[number] for number, row in enumerate(needed)}
    return {one: letters.get(id(reason(one)), "?") for one in found}


def _size(answer: bytes) -> str:
    if not answer.startswith(b"status"):
        return str(len(answer))
    return "rc" if answer == b"status 0x18" else "ua" if b"sense 6/" in answer else "err"


def _cell(a: Sight, b: Sight, who: str, lun: int, question: str,
          by_place: dict[tuple[str, int, str], Difference], marks: dict[Difference, str]) -> str:
    was = _size(a.answers[who, lun].get(question, b""))
    one = by_place.get((who, lun, question))
    if one is None:
        return f"{was} ="
    now = _size(b.answers[who, lun].get(question, b""))
    return f"{was}→{now:<2} {marks[one]}" if len(was + now) < 8 else f"{was}→{now}{marks[one]}"


def _explain(page: Page, found: Sequence[Difference], marks: dict[Difference, str]) -> None:
    page.heading("Every answer that differs, and why" if found else "No answer differs")
    for one in found:
        if marks[one] == "?":
            page.wrong.append(f"{one.question} of LUN {one.lun} differs for {name_of(one.who)}")
            page.line(page.bad(f"?  nothing explains {one.question} of LUN {one.lun} for "
                               f"{name_of(one.who)}"))
            _side_by_side(page, one)
    for mark in sorted({*marks.values()} - {"?"}):
        alike = [one for one in found if marks[one] == mark]
        why = reason(alike[0])
        for number, text in enumerate(textwrap.wrap(why.why if why else "", WIDTH - 6)):
            page.line(f"{mark if not number else ' '}  {text}")
        _side_by_side(page, alike[0])


def _side_by_side(page: Page, one: Difference) -> None:
    for text in _two(page, one.a or b"", one.b or b""):
        page.line(f"     {text}")


def _two(page: Page, a: bytes, b: bytes) -> Iterator[str]:
    """The lines that differ, with a mark below each byte that does."""
    if a.startswith(b"status") or b.startswith(b"status"):
        for name, text in (("A", a), ("B", b)):
            said = text.partition(b"[")[0].decode() if text.startswith(b"status") else \
                f"{len(text)} bytes" if text else "GOOD"
            yield f"{name}  {said}"
        return
    for start in range(0, max(len(a), len(b)), 16):
        one, two = a[start:start + 16], b[start:start + 16]
        if one == two:
            continue
        marks = "".join("^^ " if one[n:n + 1] != two[n:n + 1] else "   " for n in range(16))
        yield f"A  {start:04x}  {_hex(one)}"
        yield f"B  {start:04x}  {_hex(two)}"
        yield f"         {page.marked(marks.rstrip())}"


def _hex(data: bytes) -> str:
    return " ".join([*(f"{byte:02x}" for byte in data), *["--"] * (16 - len(data))])


def _remove(page: Page, story: Scenario) -> None:
    page.heading("Removed from A; B goes on")
    _ran(page, "A", story.remove())
    left = story.left_on_source()
    page.check(not left, "nothing of it is left on A" + (f": {', '.join(left)}" if left else ""))
    page.check(story.probe([scenario.HOLDS, scenario.FENCED])
               == {one: scenario.RIGHT[one] for one in (scenario.HOLDS, scenario.FENCED)},
               "alice still writes LUN 0, and bob still may not")
    _ran(page, "B", story.verify())


def main() -> int:
    """0 where everything is as it was, or explained."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__,
        epilog="Roles of kernels: " + ", ".join(lab.ROLES) + ".  Exit code 1: something differs "
               "that nothing explains.")
    parser.add_argument("--source", metavar="ROLE", default="stable", choices=lab.ROLES,
                        help="the kernel of host A (default: %(default)s)")
    parser.add_argument("--destination", metavar="ROLE", default="newest", choices=lab.ROLES,
                        help="the kernel of host B (default: %(default)s)")
    wanted = parser.parse_args()
    page = Page()
    try:
        show(page, wanted.source, wanted.destination)
    except (lab.LabError, scenario.CommandFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return page.verdict("The target moved, and its initiators went on.")


if __name__ == "__main__":
    sys.exit(main())
