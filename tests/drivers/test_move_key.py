"""A move, and recover, between two hosts that have a key in common, over ssh."""
from __future__ import annotations

import pytest

from lio_handover import errors
from tests import lab
from tests.drivers.test_move_lab import Pair, held, pair, serving, states
from tests.support import inhandover, inhost, inmove
from tests.support.inhandover import TARGET

__all__ = ["pair"]
KEY = "5e" * 32 + "\n"


def moved(source: lab.Host, to: str, here: str) -> tuple[int, str]:
    done = source.run([*inmove.PROGRAM, "move", TARGET, "--to", to, "--here", here], timeout=120,
                      check=False)
    return done.returncode, done.stderr


@pytest.mark.full
@pytest.mark.timeout(900)
def test_two_hosts_with_one_key(bed: lab.Lab, pair: Pair) -> None:
    """30 s: two moves, and recovers, by ssh."""
    a, b = pair
    a.call(inhost.build, inhandover.state(bed.shared))
    before = held(a)
    made = a.run([*inmove.PROGRAM, "keygen"])
    assert "carry it to the other host" in made.stderr and not made.stdout
    code, line = moved(a, "b", "a")
    assert code == errors.NotAuthentic.code, line
    assert f"{a.name} has a key, " in line and f"{b.name} has none that it can use; nothing was" \
        " changed; next: carry the key" in line
    for host in pair:
        assert host.call(inhandover.status) == []
        host.call(inhandover.have_key, KEY)
    assert KEY.strip() not in line + made.stderr

    code, line = moved(a, "b", "a")
    assert code == 0 and serving(pair) == [b], line
    code, line = moved(b, "a", "b")
    assert code == 0 and serving(pair) == [a] and held(a) == before, line

    handover = a.call(inmove.halfway, TARGET, "b", "a", 6)  # the source has released
    assert serving(pair) == []
    b.call(inhandover.have_key, "6f" * 32 + "\n")
    done = a.run([*inmove.PROGRAM, "recover", handover], check=False, timeout=90)
    assert done.returncode == errors.Undecided.code and serving(pair) == []
    assert "b can't be believed: the answer was made up or altered" in done.stderr
    assert "--peer-is-fenced" not in done.stderr
    b.call(inhandover.have_key, KEY)
    a.run([*inmove.PROGRAM, "recover", handover], timeout=90)
    b.run([*inmove.PROGRAM, "recover", handover], check=False, timeout=90)
    assert states(pair) == set() and serving(pair) == [a] and held(a) == before
