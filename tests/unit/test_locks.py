"""Locks: more of them than a shell lets a process have files."""
from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.system.locks import Locks, room_for


@pytest.fixture
def few_files() -> Iterator[int]:
    """The limit: few more files than this process has open, and may need besides."""
    before, few = resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd")) + 280
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_target_of_many_backstores_is_locked_where_a_shell_allows_few_files(
        few_files: int, tmp_path: Path) -> None:
    names = [f"fileio/disk{number}" for number in range(1500)]
    with Locks(str(tmp_path)).alone(names):
        there = len(os.listdir("/proc/self/fd"))
        assert there > 1500
        room_for(1500)      # for their backing files, as a freeze wants
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= there + 1500


def test_a_verb_waits_for_the_guard_which_waits_for_nobody(tmp_path: Path) -> None:
    name, locks = "iblock/disk", Locks(str(tmp_path))
    guards, ends = threading.Event(), threading.Event()

    def guard() -> None:
        with locks.alone([name], guard=True):
            guards.set()
            ends.wait(60)

    with ThreadPoolExecutor(2) as pool:
        guarding = pool.submit(guard)
        assert guards.wait(60)
        held = threading.Event()

        def verb() -> None:
            with locks.alone([name]):
                held.set()

        asked = pool.submit(verb)
        assert not held.wait(0.3)
        ends.set()
        asked.result()
        guarding.result()
        assert held.is_set()

    with locks.alone([name]):
        for guard_too in (True, False):         # another verb is refused at once
            with pytest.raises(errors.StillRunning, match=f"changing {name}; nothing"):
                with locks.alone([name, "iscsi/x"], guard_too):
                    pass
    with locks.alone(), pytest.raises(errors.StillRunning, match="changing this host"):
        with locks.alone([name], True):
            pass


def test_the_limit_stays_where_it_is_enough(few_files: int) -> None:
    room_for(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == few_files
