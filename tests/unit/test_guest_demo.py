"""What scripts/demo --guest says, where that needs no host."""
from __future__ import annotations

from pathlib import Path

import pytest

from lio_handover.drivers.live_steps import STEPS
from tests.migration import demo, downtime, guest


def test_each_step_of_a_move_is_in_one_phase() -> None:
    named = [name for names in demo.PHASES.values() for name in names]
    assert named == [step.name for step in STEPS]


def test_the_guest_s_log_is_in_words() -> None:
    said = "up\nreserved abcdef 5 2\nr abcdef 5 2\na 0 1\n! write 1: errno 5\na 1"
    assert demo.log(said) == ["reservation: key 0xabcdef, type 5", "record 0 is on the disk",
                              "! write 1: errno 5", "record 1 is on the disk"]
    assert all(len(line) <= demo.HALF for line in demo.log(said))


def test_the_pace_is_the_usual_time_between_two_records(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(guest.AREAS * guest.AREA))
    with disk.open("r+b") as file:
        for number, (qemu, clock) in enumerate(((1, 0), (1, 5), (1, 11), (2, 9011), (2, 9016))):
            file.seek(guest.place(qemu, number))
            file.write(guest.pack(1, qemu, number, clock * 1000000, guest.KEY, 5, 1, 0))
    assert downtime.pace(disk, 1) == pytest.approx(0.0055)
