"""This tree and the previous landing hand over to each other, and go on where the other was."""
from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lio_handover.drivers.move import STEP_NAMES
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.verb_table import HANDOVER_VERBS, MESSAGES
from tests import lab
from tests.drivers.test_move_lab import Pair, held as held_by, pair, serving, states
from tests.handover.test_engine import FIRST, WAY, Two, held, two
from tests.lab.scenario import PROGRAM
from tests.support import inhandover, inhost, inmove, neighbour
from tests.support.inbus import Service
from tests.support.inhandover import TARGET

__all__ = ["pair", "two"]

VERBS = WAY.split()
#: Where the handover stands after so many of them.
STANDS = (("prepared", "none"), ("prepared", "staged"), ("frozen", "staged"), ("frozen", "staged"),
          ("frozen", "armed"), ("released", "armed"), ("released", "opening"),
          ("released", "serving"), ("retired", "serving"), ("retired", "confirmed"))
#: So many are taken back by recover; after them, the destination owns.
TAKEN_BACK = VERBS.index("release") + 1


def environment(program: Path) -> dict[str, str]:
    return {} if program == PROGRAM else neighbour.ENVIRONMENT


class Carried:
    """A handover by the command line, its messages carried as files in the shared folder."""

    def __init__(self, pair: Two, folder: Path, programs: dict[str, Path]) -> None:
        self.pair, self.folder, self.programs = pair, folder, programs
        self.said: list[Path] = []
        self.given: list[Path] = []
        folder.mkdir()
        pair.id = ""
        for host in pair.host.values():
            host.call(inhandover.configure)

    def verb(self, word: str, again: bool = False) -> None:
        """A verb with what the other side said last; ``again``: with the same once more."""
        role, verb = DESTINATION if "*" in word else SOURCE, word.strip("*")
        path = self.folder / f"{len(self.said)}-{verb}.json"
        words = [] if verb == "stage" else [self.pair.id or TARGET]
        if not again:
            self.given = self.said[-1:] if HANDOVER_VERBS[verb].takes == MESSAGES else []
        for said in self.given:
            words += ["--messages", str(said)]
        self.pair.host[role].run([self.programs[role], "--alone", role, verb, *words,
                                  "--peer", "the other", "-o", path], timeout=120,
                                 env=environment(self.programs[role]))
        messages = json.loads(path.read_text())
        if messages:
            self.said.append(path)
            self.pair.id = messages[0]["handover"]


@pytest.fixture
def old(bed: lab.Lab, request: pytest.FixtureRequest) -> Path:
    """The launcher of the previous landing; a checkout without its history says so, and skips
    what --full fails."""
    try:
        return neighbour.take(bed.shared / "neighbour")
    except neighbour.NoNeighbour as error:
        if request.config.getoption("--full"):
            raise
        pytest.skip(str(error))


def test_a_clone_without_the_neighbour_says_what_to_fetch(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *words],
            check=True, capture_output=True, text=True).stdout

    whole, shallow = str(tmp_path / "whole"), str(tmp_path / "shallow")
    git("init", whole)
    for number in range(2):
        git("-C", whole, "commit", "--allow-empty", "-m", str(number))
    git("clone", "--depth", "1", f"file://{whole}", shallow)
    for repository, way in ((shallow, "next: git fetch --unshallow$"), (whole, "next: git fetch$")):
        with pytest.raises(neighbour.NoNeighbour, match=way):
            neighbour.take(tmp_path / "tree", "12" * 20, repository)
    for name in neighbour.PARTS:
        (tmp_path / "whole" / name).mkdir()
        (tmp_path / "whole" / name / "file").write_text("")
    git("-C", whole, "add", ".")
    git("-C", whole, "commit", "-m", "beside")
    beside = git("-C", whole, "rev-parse", "HEAD").strip()
    git("-C", whole, "checkout", "--detach", "HEAD~1")
    with pytest.raises(neighbour.NoNeighbour, match="no ancestor of what is checked out here"):
        neighbour.take(tmp_path / "tree", beside, whole)
    named = tmp_path / "neighbour.txt"
    for text in ("", "main\n", f"{'12' * 20}\n{'34' * 20}\n"):
        named.write_text(text)
        with pytest.raises(neighbour.NoNeighbour, match="is not one line with the 40 digits"):
            neighbour.commit(named)


def swapped(pair: Two) -> None:
    """From now on the other way."""
    pair.host = {SOURCE: pair.host[DESTINATION], DESTINATION: pair.host[SOURCE]}


def test_a_target_moves_from_the_old_to_the_new_and_back(
        bed: lab.Lab, two: Callable[[str, str], Two], old: Path) -> None:
    told = two("stable", "newest")
    before = held(told, SOURCE)
    for programs in ({SOURCE: old, DESTINATION: PROGRAM}, {SOURCE: PROGRAM, DESTINATION: old}):
        carried = Carried(told, bed.shared / f"by-{programs[SOURCE] == old}", programs)
        for word, (source, destination) in zip(VERBS, STANDS):
            carried.verb(word)
            assert told.states() == (source, destination)
            assert told.serving() == (
                [SOURCE] if source == "prepared" else
                [DESTINATION] if destination in ("opening", "serving", "confirmed") else [])
        assert held(told, DESTINATION) == before
        assert not told.host[SOURCE].call(inhost.read_all).backstores
        swapped(told)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", ["newer", "older"])
def test_the_other_version_goes_on_after_each_verb(
        bed: lab.Lab, two: Callable[[str, str], Two], old: Path, way: str) -> None:
    """An upgrade in the middle, and one that is taken back."""
    told = two("stable", "newest")
    before = held(told, SOURCE)
    first, then = (old, PROGRAM) if way == "newer" else (PROGRAM, old)
    for count in range(1, len(VERBS)):
        carried = Carried(told, bed.shared / f"after-{count}", dict.fromkeys(told.host, first))
        for word in VERBS[:count]:
            carried.verb(word)
        carried.programs = dict.fromkeys(told.host, then)
        for number, (word, stands) in enumerate(list(zip(VERBS, STANDS))[count - 1:]):
            carried.verb(word, again=not number)  # the last of them once more
            assert told.states() == stands, (count, word)
        assert told.serving() == [DESTINATION] and held(told, DESTINATION) == before, count
        swapped(told)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_new_recovers_what_the_old_has_begun(
        bed: lab.Lab, two: Callable[[str, str], Two], old: Path) -> None:
    told = two("stable", "newest")
    before = held(told, SOURCE)
    for count in range(1, len(VERBS) + 1):
        carried = Carried(told, bed.shared / f"after-{count}", dict.fromkeys(told.host, old))
        for word in VERBS[:count]:
            carried.verb(word)
        for role in (SOURCE, DESTINATION) * 2:
            if told.state(role) != FIRST[role]:
                told.recover(role)
            assert len(told.serving()) < 2
        if count <= TAKEN_BACK:
            assert told.states() == (FIRST[SOURCE], FIRST[DESTINATION]), count
            assert told.serving() == [SOURCE] and held(told, SOURCE) == before
            assert not told.host[DESTINATION].call(inhost.read_all).backstores
            continue
        carried.programs = dict.fromkeys(told.host, PROGRAM)
        for word in VERBS[VERBS.index("verify*"):]:
            carried.verb(word)
        assert told.states() == STANDS[-1] and told.serving() == [DESTINATION], count
        assert held(told, DESTINATION) == before
        swapped(told)


@pytest.fixture
def services(bed: lab.Lab, pair: Pair, old: Path) -> Pair:
    """Two hosts whose services are of the previous landing; the first one serves."""
    a, b = pair
    for host in pair:
        upgraded(host, old)
    a.call(inhost.build, inhandover.state(bed.shared))
    return a, b


def upgraded(host: lab.Host, program: Path = PROGRAM) -> None:
    """The service is stopped, and that of another tree started."""
    host.call(inmove.stop_service)
    Service(host).restart("" if program == PROGRAM else
                          neighbour.DAEMON.format(folder=str(program.parents[1])))


def move(host: lab.Host, program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run([program, "move", *words], timeout=120, env=environment(program))


@pytest.mark.full
@pytest.mark.timeout(600)
def test_services_of_both_move_to_each_other(services: Pair, old: Path) -> None:
    """The command is that of the host on which it is run."""
    a, b = services
    before = held_by(a)
    upgraded(b)
    for source, program, destination in ((a, old, b), (b, PROGRAM, a)):
        name = {a: "a", b: "b"}
        done = move(source, program, TARGET, "--to", name[destination], "--here", name[source])
        assert f"moved {TARGET} to {name[destination]}: 1 target, 2 backstores" in done.stderr
        assert serving((a, b)) == [destination] and held_by(destination) == before
        assert states((a, b)) == set()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_services_are_upgraded_in_the_middle(services: Pair, old: Path) -> None:
    a, b = services
    before = held_by(a)
    for count in range(1, len(STEP_NAMES) + 1):
        to, here = ("b", "a") if a is services[0] else ("a", "b")
        for host in (a, b):
            upgraded(host, old)
        id = a.call(inmove.halfway, TARGET, to, here, count, timeout=120)  # noqa: A001
        for host in (a, b):
            upgraded(host)
        if count < STEP_NAMES.index("release") + 1:
            for host in (a, b)[:count]:  # before stage, the destination has not heard of it
                host.call(inmove.recover_by_daemon, id, timeout=90)
        else:
            done = move(a, PROGRAM, "--resume", id, "--to", to)
            assert "moved" in done.stderr
            a, b = b, a
        assert states((a, b)) == set() and serving((a, b)) == [a], STEP_NAMES[count - 1]
        assert held_by(a) == before
