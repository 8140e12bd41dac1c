"""The other QEMU's socket, as ssh forwards it: how long a login may take, and what is left of one
that failed."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.client import forward, ssh
from lio_handover.client.forward import Forwarded

#: Stands in for ssh, whose login takes as long as the test says.
SLOW = "#!/bin/sh\necho $$ >{folder}/pid\nexec sleep 1000\n"


class Clock:
    """forward's time: a second passes at each look whether ssh has made the socket."""

    def __init__(self, folder: Path, answers_after: float) -> None:
        self.folder, self.answers_after, self.now = folder, answers_after, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:
        self.now += 1
        if self.now >= self.answers_after:
            for folder in self.folder.glob("lio-handover-*"):
                (folder / "qmp").touch()


def forwarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_after: float
              ) -> tuple[Forwarded, Clock]:
    program = tmp_path / "ssh"
    program.write_text(SLOW.format(folder=tmp_path))
    program.chmod(0o755)
    clock = Clock(tmp_path, answers_after)
    monkeypatch.setattr(ssh, "PROGRAM", str(program))
    monkeypatch.setattr(forward, "time", clock)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Forwarded("b", "/run/guest.qmp"), clock


def test_a_login_by_ssh_may_take_two_minutes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A human types a password, or the other host is busy: as for its service."""
    line, clock = forwarded(tmp_path, monkeypatch, 119)
    line.open()
    assert clock.now == 119 and line.here.startswith(f"{tmp_path}/lio-handover-")
    line.close()
    assert not [*tmp_path.glob("lio-handover-*")]


def test_a_login_by_ssh_that_never_ends_is_given_up(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, clock = forwarded(tmp_path, monkeypatch, 1000)
    with pytest.raises(errors.PeerUnreachable, match="b does not let ssh forward its socket "
                       r"/run/guest.qmp \(no answer\); .*`ssh b true` works"):
        line.open()
    assert clock.now == 121
    assert not [*tmp_path.glob("lio-handover-*")]
    if (tmp_path / "pid").exists():     # else it was killed before it began
        pid = int((tmp_path / "pid").read_text() or 0)
        assert not pid or not os.path.exists(f"/proc/{pid}/exe")
