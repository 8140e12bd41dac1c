"""Locks: more of them than a shell lets a process have files."""
from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lio_handover.system.locks import Locks, room_for


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_target_of_many_backstores_is_locked_where_a_shell_allows_few_files(
        few_files: None, tmp_path: Path) -> None:
    names = [f"fileio/disk{number}" for number in range(1500)]
    with Locks(str(tmp_path)).alone(names):
        there = len(os.listdir("/proc/self/fd"))
        assert there > 1500
        room_for(1500)      # for their backing files, as a freeze wants
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= there + 1500


def test_the_limit_stays_where_it_is_enough(few_files: None) -> None:
    room_for(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
