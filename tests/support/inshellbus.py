"""What tests of `lio-handover shell` run inside a host whose lio-handoverd runs."""
from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from lio_handover.cli import boot, quick
from tests.lab import inside
from tests.support import inhost, inshell
from tests.support.inshell import IQN, ME, TPG, YOU

PROGRAM = "/usr/bin/lio-handover"


def line(*words: str, typed: str = "", alone: bool = False) -> tuple[int, str, str]:
    """A line as its program runs it: (exit code, standard output, standard error).  ``typed``: what
    standard input has."""
    out, err, was = io.StringIO(), io.StringIO(), sys.stdin
    for stream in (out, err):
        stream.reconfigure = lambda **_: None  # type: ignore[attr-defined]
    sys.stdin = io.StringIO(typed)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = boot.main([*(["--alone"] if alone else []), "shell", *words])
    finally:
        sys.stdin = was
    return code, out.getvalue(), err.getvalue()


class _Counted:
    """Counts the lines that the service has run."""

    def __enter__(self) -> _Counted:
        self.done, self._was = 0, quick.typed

        def counting(*args: Any) -> Optional[Mapping[str, Any]]:
            answer = self._was(*args)
            self.done += answer is not None
            return answer
        quick.typed = counting  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        quick.typed = self._was


def stories(texts: Sequence[Sequence[inshell.Row]], folder: str
            ) -> tuple[int, list[tuple[str, Any, Any]]]:
    """Each story by the service, and without it: (how many lines the service has run, the lines
    that came to something else, with both)."""
    wrong, ways = [], {}
    with _Counted() as counted:
        for alone in (False, True):
            ways[alone] = [_story(lines, folder, alone) for lines in texts]
    for lines, mine, other in zip(texts, ways[False], ways[True]):
        wrong += [(text, here, there) for (text, _), here, there in zip(lines, mine, other)
                  if here != there]
    return counted.done, wrong


def _story(lines: Sequence[inshell.Row], folder: str, alone: bool) -> list[Any]:
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(mode=0o755)
    inhost.forget_all()
    home = tempfile.mkdtemp(dir="/run")
    os.environ["LIO_HANDOVER_SHELL_HOME"] = home
    told: list[Any] = []
    for text, row in lines:
        more = ["--allow", "in-use"] if row == "in use" else []
        said = line(typed=text, alone=alone) if row == "secrets" else \
            line(*more, *shlex.split(text), alone=alone)
        told.append((said, inshell.tree()))
    kept = Path(home, "preferences.json")
    told.append(kept.read_text() if kept.exists() else "")
    shutil.rmtree(home)
    inside.clear_targets()
    return told


def roads() -> dict[str, Any]:
    """Lines by the program itself, as arguments, on standard input, and one with a secret."""
    inside.clear_targets()
    inhost.forget_all()
    os.environ["LIO_HANDOVER_SHELL_HOME"] = tempfile.mkdtemp(dir="/run")
    found: dict[str, Any] = {}
    with _Counted() as counted:
        found["made"] = [line("/backstores/ramdisk create r 1M"), line("/iscsi", "create", IQN),
                         line(f"{TPG}/luns", "create", "/backstores/ramdisk/r")]
        found["typed"] = line(typed=f"cd {TPG}/acls\ncreate {ME}\nnonsense\ncreate {YOU}\n"
                              f"./{ME} set auth userid=me password=secretsecret12\n")
        found["last"] = line(typed="@last pwd\n")
        found["wrong"] = line(f"{TPG}/acls", "create", "not a name")
        found["taken"] = line(f"{TPG}/luns", "create", "/backstores/ramdisk/r")
        found["twice"] = line(f"{TPG}/luns", "create", "/backstores/ramdisk/r", "lun=1", "lun=2")
        found["by the service"] = counted.done
    found["secret"] = inshell.file(f"iscsi/{IQN}/tpgt_1/acls/{ME}/auth/password")
    found["program"] = subprocess.run(
        [PROGRAM, "shell", f"{TPG}/acls", "delete", YOU], capture_output=True, text=True,
        check=False).stdout
    # Nothing of this is for the next boot, as nobody has saved it.
    found["kept"] = sorted(os.listdir("/var/lib/lio-handover/handovers")) \
        if os.path.isdir("/var/lib/lio-handover/handovers") else []
    return found
