"""What tests of the handover engine run inside a lab host."""
from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lio_handover import errors
from lio_handover.actions import surviving_registrations
from lio_handover.client import ssh
from lio_handover.execute import rollback, step_runner
from lio_handover.handover import conditions
from lio_handover.handover.engine import (Handover, HandoverEngine, Reply, reply_from_json,
                                          reply_to_json)
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.local.by_file import ByFile
from lio_handover.model import pr_texts
from lio_handover.model.keys import display
from lio_handover.model.objects import State
from lio_handover.protocol import table
from lio_handover.protocol.authentication import Authentication
from lio_handover.protocol.messages import Message
from lio_handover.protocol.table import Transition
from lio_handover.records import journal, ownership, pr_record
from lio_handover.savefile import save_file as savefile
from lio_handover.scsi import cdb
from lio_handover.scsi.fingerprint import drain
from lio_handover.settings import Late
from lio_handover.system import atomic_file
from lio_handover.system.locks import Locks
from tests import lab
from tests.lab.isid import Session
from tests.support import inhost, samples

SIZE = 8 * lab.MiB
TARGET = f"iscsi/{samples.IQN}"
OTHER = "iscsi/iqn.2026-11.org.example:other"
SAVED = "/etc/rtslib-fb-target/saveconfig.json"


def state(shared: Path, registrants: int = 2, aptpl: bool = True) -> State:
    """One iSCSI target with two LUNs, the first of them registered and reserved."""
    paths = [str(shared / "zero.img"), str(shared / "one.img")]
    for path in paths:
        Path(path).write_bytes(b"\0" * SIZE)
    made = samples.iscsi(luns=2, acls=2, registrants=registrants, paths=paths,
                         portals=("0.0.0.0:3260",))
    held = samples.registrations(registrants, aptpl=aptpl)
    stores = tuple(replace(
        store, hba="", parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={name: value for name, value in store.attributes.items()
                    if name.startswith("wwn/")},
        reservations=held if not number else store.reservations)
        for number, store in enumerate(made.backstores))
    return replace(made, backstores=stores)


class Ask(Exception):
    """The other host must be asked, which only the test can do."""


#: What the other host answers to a verb; None: nothing.
Answers = dict[str, Reply | None]


def handovers(answers: Answers | None = None) -> HandoverEngine:
    def peer(_handover: Handover, verb: str) -> Reply:
        assert answers is not None
        if verb not in answers:
            raise Ask(verb)
        answer = answers[verb]
        if answer is None:
            raise errors.PeerUnreachable("it does not answer")
        return answer
    core = ByFile(replace(inhost.SETTINGS, late=late_rules()))
    return HandoverEngine(core, None if answers is None else peer)


#: Where a host finds the folder of what is served late, see ``serve_late``.
LATE_FOLDER = Path("/etc/lio-handover/late-folder")


def serve_late(folder: str) -> None:
    """From now on the files in ``folder`` are storage that one host alone may have open."""
    LATE_FOLDER.write_text(folder)
    script = Path(folder, "late.sh")
    script.write_text(f"""#!/bin/sh
# acquire|release PATH: what a cluster's lock would do
holder=$2.holder
case $1 in
acquire) [ ! -e $holder ] || [ "$(cat $holder)" = $(hostname) ] || exit 1; hostname >$holder ;;
release) rm -f $holder ;;
esac
echo $1 $(hostname) >>{folder}/late.log
""")
    script.chmod(0o755)


def late_rules() -> tuple[Late, ...]:
    if not LATE_FOLDER.exists():
        return ()
    folder = LATE_FOLDER.read_text()
    return (Late("files", (f"{folder}/*.img",), (f"{folder}/late.sh", "acquire"),
                 (f"{folder}/late.sh", "release")),)


def recover(id: str, answers: Answers, words: frozenset[str] = frozenset()  # noqa: A002
            ) -> Reply | str:
    """What recover answers, or the verb that the other host has to answer first."""
    try:
        return handovers(answers).recover(id, words, "the test")[0]
    except Ask as question:
        return str(question)


def recover_beside(id: str, words: frozenset[str]) -> Reply:  # noqa: A002
    """recover, while the other host is there, and its service is not."""
    def peer(_handover: Handover, _verb: str) -> Reply:
        raise ssh.host_answers("lio-handoverd does not run on b")
    return HandoverEngine(handovers().core, peer).recover(id, words, "the test")[0]


# ── power ────────────────────────────────────────────────────────────────────────────────────

#: Where another generation of rtslib is, if that is to be used.
GENERATION = Path("/run/rtslib-generation")


def use_rtslib(folder: str) -> None:
    """From now on, until the host boots, targetctl is that of this generation; "" for the
    distribution's."""
    GENERATION.write_text(folder)


def targetctl(*words: str) -> subprocess.CompletedProcess[str]:
    """The program, of the generation that is to be used."""
    folder = GENERATION.read_text() if GENERATION.exists() else ""
    command, more = (["python3", f"{folder}/bin/targetctl"], {"PYTHONPATH": folder}) if folder \
        else (["targetctl"], {})
    return subprocess.run([*command, *words], capture_output=True, text=True,
                          env={**os.environ, **more})


def disk(folder: str) -> None:
    """Let this host keep what a real one has on its disk in ``folder``, past a power cut: of what
    it writes there only what it has synced, as its page cache ends with it."""
    for path in ("/var/lib/lio-handover", "/etc/target", "/etc/rtslib-fb-target"):
        os.makedirs(folder + path, exist_ok=True)
        subprocess.run(["mount", "--bind", folder + path, path], check=True)


def before_targetcli_restore() -> tuple[str, ...]:
    return handovers().before_targetcli_restore()


def boots(folder: str) -> tuple[str, ...]:
    """What a host does when it boots: our unit, then targetcli's."""
    disk(folder)
    notes = before_targetcli_restore()
    if os.path.exists(SAVED):
        done = targetctl("restore", SAVED)
        assert done.returncode == 0, done.stderr
    return notes


def stale_reservations(wanted: State) -> None:
    """Of another time, where the kernel's dbroot was another; by a clock that was wrong then."""
    dbroot = Configfs().read("dbroot").strip()
    folder = Path(next(other for other in ("/etc/target", "/etc/rtslib-fb-target")
                       if other != dbroot), "pr")
    folder.mkdir(exist_ok=True)
    for store in wanted.backstores:
        file = folder / f"aptpl_{store.serial}"
        file.write_bytes(pr_texts.aptpl_text(
            samples.registrations(1, kind=3, aptpl=True), {(samples.IQN, 1): 1}))
        os.utime(file, (4e9, 4e9))


def save() -> None:
    """As targetcli does."""
    assert targetctl("save", SAVED).returncode == 0


def save_file(data: bytes | None = None) -> bytes:
    """What is in it, or is from now on."""
    if data is not None:
        Path(SAVED).write_bytes(data)
    return Path(SAVED).read_bytes()


def saved(targets: Sequence[str] = (TARGET, OTHER)) -> dict[str, bool]:
    """Target → whether targetcli would bring it back serving."""
    return {one.target: one.enabled for one in savefile.entries(targets) if one.path == SAVED}


# ── being killed anywhere ────────────────────────────────────────────────────────────────────

class Points:
    """Counts what a verb does to the kernel and to the disk: SIGKILL before or after one of them.

    Each change has two points, before it and after it; a record of the journal a third, when half
    of it is written.  Notes that a step begins are left out: nobody acts on them.  With
    ``records`` only the records count.  A ``point`` that is no number: once that state is recorded.

    With ``kinds`` what leaves the same behind is one point: nothing is between the end of a change
    and the beginning of the next, and of the changes of a kind, such as those of attributes, that
    come between two records the first counts; half a record shows them with the last of them done.
    Of records alone, which is of power cuts, it is half a record: neither that nor one that is
    written and not yet synced is there after the boot.
    """

    def __init__(self, point: int | str, records: bool = False, kinds: bool = False) -> None:
        self.point, self.seen, self.what, self.records = point, 0, "", records
        self.kinds: set[str] | None = set() if kinds else None

    def pass_(self, what: str, kind: str = "") -> None:
        if self.left_out(what, kind):
            return
        if self.kinds is not None and kind:
            self.kinds.add(kind)
        elif self.kinds is not None:
            self.kinds.clear()
        self.seen += 1
        self.what = what
        if self.seen == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def left_out(self, what: str, kind: str = "") -> bool:
        """Whether it leaves behind what the last point did."""
        if self.kinds is None:
            return False
        if self.records:
            return not what.startswith("in ")
        return kind in self.kinds or bool(self.seen) and (
            what.startswith("before ") or what.startswith("in ") and not self.kinds)

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            folder, = [os.path.basename(os.path.dirname(str(arg))) for arg in args
                       if isinstance(arg, (str, Path))][:1] or [""]
            self.pass_(f"before {name}")
            result = work(*args, **keywords)
            self.pass_(f"after {name}", f"{name} {folder.strip('0123456789')}")
            return result
        return wrapped

    def install(self) -> None:
        """Into this process, which is a fork of its own."""
        for name in () if self.records else ("mkdir", "rmdir", "link", "unlink", "write"):
            setattr(Configfs, name, self.around(name, getattr(Configfs, name)))
        for module in () if self.records else (
                journal, ownership, savefile, step_runner, rollback, pr_record):
            setattr(module, "write_file", self.around("write_file", atomic_file.write_file))
        if not self.records:
            setattr(surviving_registrations, "write_files",
                    self.around("write_files", atomic_file.write_files))
        plain = os.write

        def half(fd: int, data: bytes) -> int:
            if bytes(data[:2]) != b'{"' or b'"record": "step"' in data:
                return plain(fd, data)
            self.pass_("before a record")
            if self.seen + 1 == self.point and not self.left_out("in a record"):
                plain(fd, data[:len(data) // 2])
            self.pass_("in a record")
            done = plain(fd, data)
            if f'"record": "state", "state": "{self.point}"'.encode() in data:
                os.kill(os.getpid(), signal.SIGKILL)
            self.pass_("after a record")
            return done
        setattr(os, "write", half)


def crash(point: int | str, verb: str, role: str, id: str,  # noqa: A002
          messages: Sequence[Message] = (), records: bool = False, **more: Any
          ) -> tuple[bool, Reply | None]:
    """(whether the verb was killed at that point, its answer if it ended before)."""
    return killed_at(lambda: do(verb, role, id, messages, **more), Points(point, records))


def killed_at(verb: Callable[[], Any], points: Points) -> tuple[bool, Any]:
    """(whether a process was killed at the point of ``verb``, what that answered if it ended
    before).  Raises what the verb raised."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            points.install()
            result: Any = verb()
        except BaseException as error:  # noqa: B902 - raised again by the parent
            result = error
        with os.fdopen(its, "wb") as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(its)
    with os.fdopen(ours, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True, None
    ended = pickle.loads(data)
    if isinstance(ended, BaseException):
        raise ended
    return False, ended


def killed_recover(id: str, state: str) -> bool:  # noqa: A002
    """Whether a recover on the word that the other host is off was killed as it had recorded that
    state."""
    return killed_at(lambda: recover(id, {"status": None}, frozenset({"peer-is-fenced"})),
                     Points(state))[0]


def kernel_is_stale(id: str) -> bool:  # noqa: A002
    """Whether what came back is kept, and the kernel does not have it yet."""
    return journal.Journal(FOLDER, id).facts.stale and is_kept(id, journal.RETURNED)


def is_kept(id: str, name: str) -> bool:  # noqa: A002
    """Whether a document of that name is kept."""
    return journal.Journal(FOLDER, id).has(name)


def recover_again(id: str, answers: Answers) -> str | tuple[int, str, str]:  # noqa: A002
    """(changes asked of the kernel, states recorded before, and after) of another recover; or the
    verb that the other host has to answer first."""
    one = handovers(answers)
    one.get(id)
    before = _states(id)
    try:
        one.recover(id)
    except Ask as question:
        return str(question)
    return one.core.fs.changes, before, _states(id)


def _states(id: str) -> str:  # noqa: A002
    return "".join(line for line in told(id).splitlines() if '"record": "state"' in line)


def told(id: str) -> str:  # noqa: A002
    """The journal of a handover."""
    return Path(inhost.SETTINGS.state_directory, "handovers", id, "journal").read_text()


def do(verb: str, role: str, id: str = "", messages: Sequence[Message] = (),  # noqa: A002
       **more: object) -> Reply:
    return handovers().do(verb, role, id, messages=messages, **more)  # type: ignore[arg-type]


def status(id: str = "") -> list[Reply]:  # noqa: A002
    return handovers().status(id)


def stand(id: str) -> tuple[list[Reply], dict[str, str], str]:  # noqa: A002
    """A handover's status, the gates, and its journal."""
    return status(id), gates(), told(id)


def slow_freeze(id: str) -> tuple[list[str], str, list[str]]:  # noqa: A002
    """(verbs that the alarm was for, the state after, progress) of a freeze that takes longer than
    it may."""
    alarms: list[str] = []
    told: list[str] = []
    plain = table.rows_for

    def hurried(*args: Any) -> list[Transition]:
        return [replace(row, deadline=0.01) for row in plain(*args)]

    setattr(conditions, "rows_for", hurried)
    one = HandoverEngine(inhost.core(), alarm=lambda _handover, verb: alarms.append(verb))
    after = one.do("freeze", "source", id, progress=lambda number, total, step: told.append(
        f"{number + 1}/{total} {step.description}"))
    return alarms, after.handover.state, told


def stores() -> list[str]:
    """Backstores that are here, whole or not."""
    return [display(one.key) for one in Reader(Configfs()).outline().backstores]


def gates() -> dict[str, str]:
    """TPG → enable, of every iSCSI TPG here."""
    fs = Configfs()
    found = {}
    for wwn in fs.entries("iscsi")[1] if fs.exists("iscsi") else ():
        if wwn != "discovery_auth":
            for tpgt in fs.entries(f"iscsi/{wwn}")[1]:
                if tpgt.startswith("tpgt_"):
                    found[f"iscsi/{wwn}/{tpgt}"] = fs.read(f"iscsi/{wwn}/{tpgt}/enable").strip()
    return found


# ── spoiling ─────────────────────────────────────────────────────────────────────────────────

FOLDER = inhost.SETTINGS.state_directory


def configure(more: str = "") -> None:
    """What the command reads."""
    Path("/etc/lio-handover/lio-handover.conf").write_text(inhost.CONFIG + more)


def small_disk(there: bool = True) -> None:
    """A state directory on a disk of its own."""
    if there:
        os.makedirs(FOLDER, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", FOLDER], check=True)
    else:
        subprocess.run(["umount", FOLDER], check=True)


def spoil(how: str, id: str, room: int) -> None:  # noqa: A002
    """That disk full, but for so many bytes that a journal may still have; or read-only."""
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", FOLDER], check=True)
        return
    with _journal(id).open("ab") as journal:    # up to the end of a page
        note = b'{"record": "step", "do": "%s"}\n'
        journal.write(note % bytes(-(journal.tell() + room + len(note) - 2) % 4096).replace(
            b"\0", b"x"))
    with open(f"{FOLDER}/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass


def mend() -> None:
    subprocess.run(["mount", "-o", "remount,rw", FOLDER], check=True)
    Path(FOLDER, "filler").unlink(missing_ok=True)


def _journal(id: str) -> Path:  # noqa: A002
    return Path(FOLDER, "handovers", id, "journal")


def owners_file(data: bytes) -> None:
    Path(FOLDER, ownership.NAME).write_bytes(data)


def half_a_record(id: str) -> None:  # noqa: A002
    with _journal(id).open("ab") as file:
        file.write(b'{"at": 1764110000.0, "boot": "1e0f')


def garble(id: str) -> None:  # noqa: A002
    lines = _journal(id).read_bytes().splitlines(True)
    _journal(id).write_bytes(b"".join([*lines[:2], b"{]\n", *lines[3:]]))


def forget(id: str) -> None:  # noqa: A002
    """Somebody removes the journal."""
    shutil.rmtree(_journal(id).parent)


def more_luns(there: bool) -> None:
    """What somebody does with targetcli: one more backstore and LUN, or none any more."""
    tpg = Path(Configfs().path(f"{TARGET}/tpgt_1/lun/lun_9"))
    store = Path(Configfs().path("core/rd_mcp_9/added"))
    if there:
        store.mkdir(parents=True)
        (store / "control").write_text("rd_pages=16")
        (store / "enable").write_text("1")
        tpg.mkdir()
        (tpg / "link").symlink_to(store)
    else:
        (tpg / "link").unlink()
        for folder in (tpg, store, store.parent):
            folder.rmdir()


def register(lun: int, number: int, key: int, kind: int = 0) -> None:
    """What an initiator does while its gate is open: register, and reserve."""
    isid = f"00023d{number:06x}"
    with Session("127.0.0.1", 3260, samples.IQN, samples.initiator(number), isid) as session:
        unit = session.unit(lun)
        drain(unit.execute)
        for one in (cdb.register(0, key, aptpl=True),
                    *([cdb.reserve(key, kind)] if kind else [])):
            result = unit.execute(*one)
            assert result.good, result


def release_while_somebody_saves(id: str, messages: Sequence[Message]) -> None:  # noqa: A002
    """targetcli saves what it saw while the gate was open, each time after we took it out."""
    open_gates()
    save()
    seen, plain = save_file(), savefile.drop

    def raced(*args: Any) -> list[str]:
        changed = plain(*args)
        save_file(seen)
        return changed

    setattr(savefile, "drop", raced)
    try:
        do("release", "source", id, messages)
    finally:
        setattr(savefile, "drop", plain)


def open_gates() -> None:
    Configfs().write(f"{TARGET}/tpgt_1/enable", b"1\n")


def clock(seconds: int) -> None:
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def without_configfs(id: str) -> None:  # noqa: A002
    """configfs is unmounted under us: an error with a name, and status still tells."""
    subprocess.run(["umount", "/sys/kernel/config"], check=True)
    try:
        for verb in ("retire", "recover"):
            try:
                do(verb, "source", id)
            except errors.NoTargetModules:
                continue
            raise AssertionError(f"{verb} did not notice")
        assert status(id)[0].handover.state == "retired"
    finally:
        subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=True)


# ── side by side ─────────────────────────────────────────────────────────────────────────────

def other_state(shared: Path) -> State:
    """Another target, on a backstore of its own."""
    path = shared / "other.img"
    path.write_bytes(b"\0" * SIZE)
    made = samples.iscsi(wwn=OTHER.partition("/")[2], paths=[str(path)],
                         portals=("0.0.0.0:3261",))
    store = replace(samples.backstore("other", path=str(path), size=SIZE), hba="")
    store = replace(store, attributes={"wwn/vpd_unit_serial": "0ther"})
    target, = made.targets
    tpg, = target.tpgs
    lun, = tpg.luns
    tpg = replace(tpg, luns=(replace(lun, backstore=store.key),),
                  attributes={**tpg.attributes, "rtpi": "2"})
    return State((), (store,), (replace(target, tpgs=(tpg,)),))


def share() -> None:
    """One more target, with the first LUN of the other."""
    tpg = Path(Configfs().path(f"{OTHER}/tpgt_1"))
    tpg.mkdir(parents=True)
    (tpg / "np/0.0.0.0:3261").mkdir()
    lun, = [one for one in Path(Configfs().path(f"{TARGET}/tpgt_1/lun/lun_0")).iterdir()
            if one.is_symlink()]
    (tpg / "lun/lun_0").mkdir()
    (tpg / "lun/lun_0/link").symlink_to(os.path.realpath(lun))
    (tpg / "enable").write_text("1")


def stage_at_once(offers: Sequence[Sequence[Message]]) -> list[str]:
    """Each offer staged by a process of its own, all at the same time; where each then stands."""
    pids = []
    for offer in offers:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                do("stage", "destination", messages=offer)
                code = 0
            except BaseException as error:  # noqa: B902 - to the console
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0, "see the console"
    return [status(offer[0].handover)[0].handover.state for offer in offers]


def while_held(name: str, id: str) -> Reply:  # noqa: A002
    """freeze while another process holds a lock."""
    with Locks(FOLDER).hold(name):
        return do("freeze", "source", id)


def restart_targetcli() -> None:
    """What the restart of its unit does: everything is cleared, and restored from its file."""
    assert targetctl("clear").returncode == 0
    before_targetcli_restore()
    assert targetctl("restore", SAVED).returncode == 0


# ── the key of two hosts ─────────────────────────────────────────────────────────────────────

def have_key(text: str | None) -> None:
    """This host's key from now on; None: it has none."""
    path = Path(inhost.SETTINGS.key)
    path.unlink(missing_ok=True)
    if text is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)


def signed(message: Message, host: str, key: str) -> Message:
    """What a host of that name and key would say."""
    return Authentication(host, bytes.fromhex(key)).signed(message)


def whole(answer: Reply, question: str = "") -> bytes:
    """An answer as it goes to the other host."""
    return reply_to_json(answer, Authentication.of(inhost.SETTINGS), question)


def believed(data: bytes, question: str = "") -> Reply:
    """An answer of the other host, where this host's key proves it."""
    return reply_from_json(data, Authentication.of(inhost.SETTINGS), question)


def hostname() -> str:
    return os.uname().nodename
