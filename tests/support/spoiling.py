"""A host that serves a target, a good document of another, and ways to spoil it.

Every document is given to the real ``import`` there.  The target tree is compared byte for byte,
and the changes asked of the kernel are counted.
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lio_handover import errors, settings
from lio_handover.cli import main
from lio_handover.document import document as documents
from lio_handover.document.document import Document
from lio_handover.kernel.configfs import ROOT, Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.model import keys, objects, reservations
from lio_handover.storage import evidence as storage_evidence
from tests import lab
from tests.support import inhost, samples

CHECKOUT = Path(__file__).resolve().parents[2]
LAUNCHER = CHECKOUT / "scripts" / "lio-handover"
SERVED = "iqn.2026-11.org.example:served"
NEW = "iqn.2026-11.org.example:new"
SIZE = 1 << 20

Tree = dict[str, Any]
Change = Callable[[Tree], None]


# ── in the host ──────────────────────────────────────────────────────────────────────────────

@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code, its output, and what it did to the kernel."""

    code: int
    out: str
    err: str
    changes: int
    differences: list[str]


def furnish(shared: str) -> None:
    """The host's configuration: what lies in the shared folder may be served."""
    os.makedirs("/etc/lio-handover", exist_ok=True)
    Path(settings.PATH).write_text(
        f"[storage]\nroots =\n    {shared}\ndevices =\n    /dev/ubd*\n")


def command(words: Sequence[str], data: bytes | None = None, user: int = 0) -> Answer:
    """Run the command as it runs from a shell; ``data`` is the document that it gets."""
    return commands([(words, data)], user)[0]


def commands(asked: Sequence[tuple[Sequence[str], bytes | None]], user: int = 0) -> list[Answer]:
    """Run commands one after the other, watching the kernel's tree and counting changes to it."""
    trees: list[Configfs] = []
    begin = Configfs.__init__

    def noted(self: Configfs, root: str = ROOT) -> None:
        begin(self, root)
        trees.append(self)

    Configfs.__init__ = noted  # type: ignore[method-assign]
    before = inhost.tree()
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        for words, data in asked:
            if data is not None:
                Path(folder, "document").write_bytes(data)
                words = [*words, f"{folder}/document"]
            trees.clear()
            code, out, err = run(words, user)
            changes = sum(one.changes for one in trees)
            answers.append(Answer(code, out, err, changes,
                                  inhost.differences(before, inhost.tree())))
    return answers


def run(words: Sequence[str], user: int) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command line, in this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        if user:
            os.seteuid(user)
        try:
            code = main.main(words)
            sys.stderr.flush()
        finally:
            os.seteuid(0)
            for number, fd in enumerate(kept, 1):
                os.dup2(fd, number)
                os.close(fd)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return code, said[0], said[1]


def served_as(state: objects.State) -> Document:
    """What the host says of this target once it serves it."""
    inhost.build(state)
    one = state.targets[0]
    full = Reader(Configfs()).state([(one.fabric, one.wwn)])
    full = replace(full, backstores=tuple(
        replace(store, reservations=reservations.with_known_all_tg_pt(store.reservations))
        for store in full.backstores))
    proofs = {keys.display(store.key): storage_evidence.evidence(store, sample=True)
              for store in full.backstores}
    return replace(samples.document(full, frozen=True), storage=proofs)


def taken_away(name: str) -> None:
    core = inhost.core()
    core.remove([name], allow=("reserved",))


def read(path: str) -> str:
    return Configfs().read(path)


# ── a document, and ways to spoil it ─────────────────────────────────────────────────────────

@dataclass
class Bench:
    """A host that serves SERVED, and a good document of NEW."""

    host: lab.Host
    shared: Path
    good: Document
    served: Document

    def spoilt(self, change: Change, base: Document | None = None) -> bytes:
        """The good document with a change, sealed as an export would seal it."""
        tree = json.loads(documents.dumps(base or self.good))
        change(tree)
        return documents.encode(tree)

    def refused(self, data: bytes | None, kind: type[errors.HandoverError], *words: str,
                user: int = 0, verb: str = "import") -> str:
        """A command is refused with its own code, one line, and nothing done; the line."""
        answer = self.host.call(command, [verb, *words], data, user)
        judge(answer, kind)
        return answer.err

    def all_refused(self, cases: Sequence[tuple[str, bytes, type[errors.HandoverError]]]) -> None:
        """Every one of these documents is."""
        answers = self.host.call(commands, [(["import"], data) for _, data, _ in cases],
                                 timeout=240)
        wrong = []
        for (what, _, kind), answer in zip(cases, answers, strict=True):
            try:
                judge(answer, kind)
            except AssertionError as error:
                wrong.append(f"{what}: {answer}: {error}")
        assert not wrong, "\n".join(wrong)


def judge(answer: Answer, kind: type[errors.HandoverError]) -> None:
    assert answer.code == kind.code, (kind.__name__, answer.err)
    assert answer.out == ""
    one_line(answer.err)
    assert answer.changes == 0
    assert answer.differences == []


def one_line(text: str) -> None:
    """What failed; what was changed; what to run next."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    assert text[:-1].isprintable()
    assert text.startswith("lio-handover: ")
    parts = text[:-1].split("; ")
    assert len(parts) >= 3, text
    assert errors.NOTHING_CHANGED in parts
    assert "; next: " in text


def files(shared: Path, *names: str) -> list[str]:
    paths = []
    for name in names:
        path = shared / f"{name}.img"
        path.write_bytes(name.encode() * (SIZE // len(name)) + b"." * (SIZE % len(name)))
        paths.append(str(path))
    return paths


def make_bench(bed: lab.Lab, host: lab.Host) -> Bench:
    host.call(furnish, str(bed.shared))
    served = renamed(samples.iscsi(
        luns=2, acls=2, portals=("127.0.0.1:3260",), wwn=SERVED, chap=True, registrants=2,
        paths=files(bed.shared, "served0", "served1"), groups=("fast",)), "served", "1")
    new = renamed(samples.iscsi(
        luns=2, acls=2, portals=("127.0.0.1:3261",), wwn=NEW, chap=True, registrants=2,
        paths=files(bed.shared, "new0", "new1"), groups=("fast",)), "new", "2")
    there = host.call(served_as, served)
    good = host.call(served_as, new)
    host.call(taken_away, f"iscsi/{NEW}")
    return Bench(host, bed.shared, good, there)


def renamed(state: objects.State, name: str, port: str) -> objects.State:
    """The sample's disks under other names, of SIZE, with serials and a port of their own."""
    def key(old: objects.Key | None) -> Any:
        return old and (*old[:2], old[2].replace("disk", name), *old[3:])

    stores = tuple(replace(
        store, key=key(store.key), alua_groups=tuple(
            replace(group, key=key(group.key)) for group in store.alua_groups),
        parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={**store.attributes, "wwn/vpd_unit_serial": f"{name}-{number}"})
        for number, store in enumerate(state.backstores))
    one = state.targets[0]
    tpg = one.tpgs[0]
    return replace(state, backstores=stores, targets=(replace(one, tpgs=(replace(
        tpg, attributes={**tpg.attributes, "rtpi": port},
        luns=tuple(replace(lun, backstore=key(lun.backstore)) for lun in tpg.luns)),)),))


# Where things stand in a document's tree.
def store(tree: Tree, number: int = 0) -> Tree:
    return tree["state"]["backstores"][number]  # type: ignore[no-any-return]


def tpg(tree: Tree) -> Tree:
    return tree["state"]["targets"][0]["tpgs"][0]  # type: ignore[no-any-return]


def acl(tree: Tree, number: int = 0) -> Tree:
    return tpg(tree)["acls"][number]  # type: ignore[no-any-return]


def held(tree: Tree) -> list[Tree]:
    return store(tree)["reservations"]["registrations"]  # type: ignore[no-any-return]


def put(where: Callable[[Tree], Any], name: Any, value: Any) -> Change:
    """The change that gives one member of an object another value."""
    def change(tree: Tree) -> None:
        where(tree)[name] = value
    return change


def twice(where: Callable[[Tree], list[Any]], number: int = 0) -> Change:
    """The change that repeats an entry of a list."""
    def change(tree: Tree) -> None:
        where(tree).append(json.loads(json.dumps(where(tree)[number])))
    return change


def attribute(where: Callable[[Tree], Tree], name: str, value: str) -> Change:
    return put(lambda tree: where(tree)["attributes"], name, value)


def parameter(name: str, value: str, number: int = 0) -> Change:
    return put(lambda tree: store(tree, number)["parameters"], name, value)


def proof(name: str, value: Any) -> Change:
    return put(lambda tree: tree["storage"]["fileio/new0"], name, value)


def iblock(path: str, **evidence: Any) -> Change:
    """The change that makes the first backstore one on a block device."""
    def change(tree: Tree) -> None:
        one = store(tree)
        tree["storage"].pop("fileio/new0")
        tree["host"].pop("fileio/new0", None)
        tree["storage"]["iblock/new0"] = {"kind": "block", **evidence}
        one.update(plugin="iblock", parameters={"udev_path": path})
        tpg(tree)["luns"][0]["backstore"] = "iblock/new0"
    return change
