"""What tests run inside a lab host: functions that a host's agent can call by name."""
from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from lio_handover import errors
from lio_handover.cli import main
from lio_handover.document import document as documents
from lio_handover.document.document import Document
from lio_handover.execute.executor import Outcome, apply
from lio_handover.execute.verify import Scope
from lio_handover.host import host as host_module
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.local.ours import Ours
from lio_handover.model.objects import State
from lio_handover.plan.planner import plan
from lio_handover.settings import Settings

#: The lab's shared folder is somewhere below /tmp, its disk is UML's.
SETTINGS = Settings(roots=("/tmp",), devices=("/dev/ubda", "/dev/vda"))
CONFIG = "[storage]\nroots =\n    /tmp\ndevices =\n    /dev/ubda\n    /dev/vda\n"


def core(fs: Configfs | None = None) -> Ours:
    return Ours(SETTINGS, fs)


def read_all() -> State:
    """All that the host serves."""
    return Reader(Configfs()).state()


def build(want: State) -> Outcome:
    """Make the host serve ``want`` besides what it serves; what it leaves open is as usual."""
    fs = Configfs()
    reader = Reader(fs)
    have = Scope.of(want).read(fs)
    facts = reader.facts()
    return apply(fs, plan(have, want, facts, partial=True), have, facts)


def freeze(everything: bool = True, allow: tuple[str, ...] = ()) -> None:
    one = core()
    one.freeze(one.names([], everything), allow)


def fail_flush(name: str, time: int) -> None:
    """Have this function of storage.evidence fail when it is called for the n-th time, and ever
    after."""
    from lio_handover.storage import evidence
    right, calls = getattr(evidence, name), itertools.count(1)

    def fail(*words: object) -> object:
        if next(calls) >= time:
            raise errors.KernelRefused("the disk is gone")
        return right(*words)
    setattr(evidence, name, fail)


def refused_freeze() -> tuple[str, list[str]]:
    """What a freeze is refused with, "" where it is not, and what it changed then."""
    before = tree()
    try:
        freeze()
    except errors.HandoverError as error:
        return str(error), differences(before, tree())
    return "", []


def thaw(allow: tuple[str, ...] = ("exported",)) -> None:
    one = core()
    one.thaw(one.names([], True), allow)


def export() -> bytes:
    """The document of all targets."""
    one = core()
    return documents.dumps(one.export(one.names([], True), ("all-tg-pt",)))


def import_(data: bytes, allow: tuple[str, ...] = ()) -> Outcome:
    one = core()
    return one.import_(one.ready(documents.loads(data)), allow)


def verify(data: bytes) -> None:
    core().verify(documents.loads(data))


def remove(allow: tuple[str, ...] = (), forget: bool = True) -> Outcome:
    """And ``forget`` that they ever were here: what is done next is done as if by another host."""
    outcome = core().remove([], True, allow)[0]
    if forget:
        forget_all()
    return outcome


def forget_all() -> None:
    """Every handover of this host, as if there had been none."""
    shutil.rmtree(f"{SETTINGS.state_directory}/handovers", ignore_errors=True)
    Path(SETTINGS.state_directory, "owners.json").unlink(missing_ok=True)
    Path(SETTINGS.key).unlink(missing_ok=True)


def tree() -> dict[str, str]:
    """Every path of the host's target tree and what it says, statistics left out; and the APTPL
    files."""
    fs = Configfs()
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(fs.root):
        folders[:] = sorted(one for one in folders if one != "statistics"
                            and one != "fabric_statistics")
        where = folder[len(fs.root) + 1:]
        found[where + "/"] = ""
        for name in list(folders):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[f"{where}/{name}"] = "-> " + os.readlink(path)
        for name in files:
            try:
                text = fs.read(f"{where}/{name}" if where else name)
                # The kernel numbers these as it makes them, and nobody else can see it.
                text = re.sub(r"(HBA Index|FILEIO ID|RamDisk ID): \d+", r"\1", text)
                if name == "members":  # in the order in which they came
                    text = "\n".join(sorted(re.split(r"[\n\0]+", text)))
                found[f"{where}/{name}"] = text
            except OSError as error:
                found[f"{where}/{name}"] = f"errno {error.errno}"
    aptpl = fs.read("dbroot").strip() + "/pr"
    for name in sorted(os.listdir(aptpl)) if os.path.isdir(aptpl) else ():
        with open(f"{aptpl}/{name}") as file:
            found[f"{aptpl}/{name}"] = file.read()
    return found


class Stopping(Configfs):
    """A tree whose ``point``-th change fails: before the kernel is asked, or after."""

    def __init__(self, point: int, how: str) -> None:
        super().__init__()
        self.point, self.how = point, how
        self.asked = False

    def _change(self, change: Callable[[], None]) -> None:
        hit = self.changes + 1 == self.point
        if hit and self.how == "before":
            self.changes += 1
            raise OSError(5, "injected")
        try:
            change()
        finally:  # also where the kernel has no such attribute, which may be as good
            if hit:
                self._stop_here()

    def _stop_here(self) -> None:
        if self.how == "after":
            raise OSError(5, "injected")
        if self.how == "stop":
            self.asked = True
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "SIGINT":
            os.kill(os.getpid(), signal.SIGINT)

    def stop(self) -> bool:
        asked, self.asked = self.asked, False
        return asked

    def mkdir(self, path: str) -> None:
        self._change(lambda: Configfs.mkdir(self, path))

    def rmdir(self, path: str) -> None:
        self._change(lambda: Configfs.rmdir(self, path))

    def link(self, path: str, target: str) -> None:
        self._change(lambda: Configfs.link(self, path, target))

    def unlink(self, path: str) -> None:
        self._change(lambda: Configfs.unlink(self, path))

    def write(self, path: str, data: bytes) -> None:
        self._change(lambda: Configfs.write(self, path, data))


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [f"{path}: {old.get(path)!r} became {new.get(path)!r}"
            for path in sorted({*old, *new}) if old.get(path) != new.get(path)]


def stopped_everywhere(verb: str, data: bytes, how: str) -> tuple[int, list[str]]:
    """Run ``import`` or ``remove`` once for each of its kernel changes and stop it there.

    (number of points, what was not as before).  At the end it runs through.
    """
    document: Document = documents.loads(data)
    before = tree()
    wrong: list[str] = []
    point = 0
    while True:
        point += 1
        fs = Stopping(point, how)
        one = core(fs)
        try:
            if verb == "import":
                one.import_(one.ready(document), stop=fs.stop)
            else:
                one.remove([], True, ("reserved",), stop=fs.stop)
        except errors.UndoFailed as error:
            return point, [*wrong, f"point {point}: {error}"]
        except errors.HandoverError as error:
            if "nothing was changed" not in str(error):
                wrong.append(f"point {point}: {error}")
        else:
            if fs.changes >= point and how != "stop":
                wrong.append(f"point {point}: a change that failed went unnoticed")
            return point - 1, wrong
        left = differences(before, tree())
        if left:
            wrong += [f"point {point}: {one}" for one in left[:5]]
            if len(wrong) > 20:
                return point, wrong


def interrupted_everywhere(data: bytes) -> tuple[int, list[str]]:
    """Run the command ``import`` once for each of its kernel changes, and press Ctrl-C there.

    (number of points, what was not as it should be).
    """
    before = tree()
    wrong: list[str] = []
    point = 0
    kept = getattr(host_module, "Configfs")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("document", data), ("conf", CONFIG.encode())):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        words = ["import", f"{folder}/document", "--config", f"{folder}/conf"]
        while len(wrong) < 20:
            point += 1
            fs = Stopping(point, "SIGINT")
            setattr(host_module, "Configfs", lambda: fs)
            try:
                code = main.main(words)
            finally:
                setattr(host_module, "Configfs", kept)
            if code == 0:
                return point - 1, wrong
            left = differences(before, tree())
            if code != 128 + signal.SIGINT or left:
                wrong += [f"point {point}: exit {code}", *left[:5]]
    return point, wrong


def export_state() -> bytes:
    """The document of all targets as they serve."""
    one = core()
    return documents.dumps(one.prepare(one.names([], True))[0])
