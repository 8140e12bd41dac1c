"""One step after the other → the kernel, and the host around it."""
from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Protocol, Sequence

from .. import errors
from ..kernel import portals
from ..kernel.configfs import Configfs
from ..kernel.facts import Facts
from ..kernel.reader import Reader
from ..kernel.scsi_bus import Drivers, sg_of
from ..model.objects import NO_RESERVATIONS, Backstore, Key, State
from ..plan.edits import without_ports
from ..plan.order import LATE
from ..plan.plan import (ACQUIRE, ALLOCATE, DELETE, DRAIN, DRIVERS, FILE, FLUSH, FOLDER, GROW, IDLE,
                         LINK, LOAD, MKDIR, OPEN, PROVE, RELEASE, RMDIR, SCSI, SYNC, UNLINK, VERIFY,
                         WRITE, Plan, Step)
from ..plan.staged import staged, to_link
from ..storage import exclusive
from ..storage.block_devices import HostSnapshot, Identity
from ..storage.made_files import MadeFiles
from ..storage.trusted import Watch
from ..system.atomic_file import write_files
from ..system.external_program import ENVIRONMENT
from ..system.locks import room_for
from .verify import Scope, check, check_touched, loaded


class Describable(Protocol):
    """A step of a plan, or of the protocol."""

    @property
    def slot(self) -> str:
        """Its kind."""

    @property
    def description(self) -> str:
        """It, in a line about progress."""


#: (number of the step that begins, from 0, how many there are, the step)
Progress = Callable[[int, int, Describable], None]

#: The slots in which a nexus is made.
_NEXUS = ("nexus", "late nexus", "last nexus")
#: The slots in which the kernel opens storage.
_ENABLE = ("enable", LATE["enable"])

#: Two looks at a LUN's command counter, so many seconds apart, prove that it is idle.
IDLE_SECONDS = 0.05
IDLE_TRIES = 100


class StepFailed(Exception):
    """A step that the kernel, or the host, refused."""

    def __init__(self, step: Step, error: BaseException) -> None:
        self.step, self.error = step, error
        super().__init__(f"{step}: {reason(error)}")


def reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"{errno.errorcode.get(error.errno, error.errno)} ({error.strerror})"
    # The text of an unforeseen error may hold what the step writes.
    return error.what if isinstance(error, errors.HandoverError) else type(error).__name__


def never() -> bool:
    return False


def nothing() -> None:
    """Nothing to be done."""


class Nexuses:
    """Is told of each nexus that a run makes and drops, by the path of its TPG.  This one does
    nothing about it.  An error that a method raises fails the step, and so the run."""

    def before_nexus(self, tpg: str) -> None:
        """A nexus is about to be made: from then on anybody can take a vhost endpoint."""

    def after_nexus(self, tpg: str) -> None:
        """There is a nexus now."""

    def before_drop(self, tpg: str) -> None:
        """A nexus is about to be dropped, and no LUN is linked.  The kernel drops none of an
        endpoint that somebody has (drivers/vhost/scsi.c:vhost_scsi_drop_nexus)."""

    def drain(self, wwpn: str, tpgts: Sequence[int]) -> None:
        """Take the pending unit attentions of a vhost target's LUNs away."""
        from ..scsi.vhost import drain
        drain(wwpn, tpgts)


class StepRunner:
    """One run of one plan: a method for each op, and what it has touched outside the tree."""

    def __init__(self, fs: Configfs, the_plan: Plan, before: State, facts: Facts,
                 fuse: Sequence[str] = ()) -> None:
        self.fs, self.plan, self.before, self.facts = fs, the_plan, before, facts
        self.scope = Scope.of(before, the_plan.want)
        self.started = 0  # so many of the steps were begun
        self.files: Dict[str, Optional[bytes]] = {}  # what they were before
        self.pending_files: Dict[str, Step] = {}  # to be written with the others of their slot
        self.gate_opened = False
        self.drivers = Drivers()
        #: late storage that was acquired, or begun to be, and not released since → its path
        self.acquired: Dict[Key, str] = {}
        self.opened: Dict[str, int] = {}  # path → descriptor
        self.storage_files = MadeFiles()
        self.watch = Watch(fuse)  # of what this run has the kernel open
        #: what paths led to when their storage was checked
        self.looked: Dict[str, Identity] = dict(the_plan.looked)
        #: all that is in scope, as it was read back, unless something was done since
        self.now: Optional[State] = None
        self.stop: Callable[[], bool] = never
        self.before_gate: Callable[[], None] = nothing
        self.nexuses = Nexuses()

        self.handlers = {op: getattr(self, f"_{op}") for op in (
            MKDIR, RMDIR, LINK, UNLINK, WRITE, LOAD, FOLDER, FILE, DELETE, FLUSH, SCSI, DRIVERS,
            DRAIN, VERIFY, ACQUIRE, PROVE, RELEASE, OPEN, IDLE, SYNC, ALLOCATE, GROW)}

    def run(self, steps: Sequence[Step], seconds: Dict[str, float],
            progress: Optional[Progress], stop: Callable[[], bool]) -> None:
        """Do the steps; ``seconds`` of each phase, and of reading back, are added up.

        Raises StepFailed, or what verify raises.
        """
        slot, span, started = "", "", time.monotonic()
        self.stop = stop
        try:
            for step in steps:
                if stop():
                    raise errors.Interrupted("interrupted before it was done")
                if progress:
                    progress(self.started, len(steps), step)
                if step.slot is not slot:
                    if self.pending_files:
                        self.write_pending()
                    slot = step.slot
                    if slot == "gate":
                        self.before_gate()
                    elif slot in _ENABLE:
                        self._watch(slot)
                    last, span = span, "verify" if step.op == VERIFY else step.phase
                    if last and last != span:
                        now = time.monotonic()
                        seconds[last] = seconds.get(last, 0.0) + now - started
                        started = now
                self.started += 1
                if step.op != VERIFY:
                    self.now = None
                try:
                    self.handlers[step.op](step)
                except (OSError, ValueError, errors.Refusal, errors.Meddled) as error:
                    raise StepFailed(step, error) from error
                if slot == "gate":
                    self.gate_opened = True
            self.write_pending()
        finally:
            if span:
                seconds[span] = seconds.get(span, 0.0) + time.monotonic() - started

    # ---- the kernel's tree ---
    def _mkdir(self, step: Step) -> None:
        try:
            self.fs.mkdir(step.path)
        except FileExistsError:
            if step.slot != "fabric":  # which another handover may have wanted, too
                raise

    def _rmdir(self, step: Step) -> None:
        try:
            self.fs.rmdir(step.path)
        except OSError as error:
            if step.slot != "remove fabric" or error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise

    def _link(self, step: Step) -> None:
        self.fs.link(step.path, os.fsdecode(step.value))

    def _unlink(self, step: Step) -> None:
        self.fs.unlink(step.path)

    def _write(self, step: Step) -> None:
        row = step.row
        if step.slot in _NEXUS:
            return self._nexus(step)
        if row is not None and not step.sure and self._has_already(step):
            return
        if step.slot == "drop nexus":
            self.nexuses.before_drop(os.path.dirname(step.path))
        try:
            self.fs.write(step.path, step.value)
        except FileNotFoundError:
            if row is None or not step.sure:
                raise
            self._has_already(step)  # raises where the kernel would need the attribute

    def _nexus(self, step: Step) -> None:
        """rtslib gives a vhost TPG that has no nexus a random one, even when it only lists
        (rtslib/target.py:TPG._gen_wwn): while no LUN is linked, such a one is dropped."""
        tpg, makes = os.path.dirname(step.path), step.row is not None
        for _attempt in range(100):
            if makes:
                self.nexuses.before_nexus(tpg)
            if self._is_written(step):
                return self.nexuses.after_nexus(tpg) if makes else None
            self._drop_strange(step, tpg)
        raise OSError(errno.EEXIST, "somebody makes a nexus there again and again")

    def _is_written(self, step: Step) -> bool:
        """Write a nexus; False where there is another one."""
        if step.row is not None and not step.sure and self._has_already(step):
            return True
        try:
            self.fs.write(step.path, step.value)
        except OSError as error:
            if step.row is None and error.errno == errno.ENODEV:
                return True  # there is none, which is what was asked for
            if error.errno != errno.EEXIST:
                raise
            return step.row is not None and self._has_already(step)
        return True

    def _drop_strange(self, step: Step, tpg: str) -> None:
        self.nexuses.before_drop(tpg)
        try:
            self.fs.write(step.path, b"NULL\n")
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EPERM):
                raise errors.Meddled(f"{step.path}: somebody has made a nexus there, which "
                                     "can't go as LUNs are linked") from None
            if error.errno != errno.ENODEV:
                raise

    def _has_already(self, step: Step) -> bool:
        """Many attributes refuse being told what they are already."""
        assert step.row is not None
        wanted = os.fsdecode(step.value)
        if step.row.format.newline:
            wanted = wanted[:-1]
        try:
            text = self.fs.read(step.path)
        except FileNotFoundError:
            if wanted == step.row.if_absent:
                return True
            raise errors.CannotRepresent(
                f"this kernel has no {step.row.path}, and {wanted} is not what it does "
                "without") from None
        except OSError:
            return False
        try:
            return step.row.format.read(text) == wanted
        except ValueError:
            return False

    # ---- around it ---
    def _load(self, step: Step) -> None:
        if os.path.isdir(f"/sys/module/{step.path}"):
            return
        import subprocess
        done = subprocess.run(["modprobe", step.path], capture_output=True, text=True,
                              env=ENVIRONMENT)
        if done.returncode:
            raise OSError(errno.ENODEV, f"modprobe {step.path}: {done.stderr.strip()}")

    def _folder(self, step: Step) -> None:
        os.makedirs(self._below_dbroot(step.path), mode=0o700, exist_ok=True)

    def _file(self, step: Step) -> None:
        path = self._below_dbroot(step.path)
        self._remember(path)
        self.pending_files[path] = step

    def write_pending(self) -> None:
        """The files of one slot at once: their folder is made durable once."""
        files, self.pending_files = self.pending_files, {}
        try:
            write_files({path: step.value for path, step in files.items()})
        except OSError as error:
            last = next(reversed(files.values()))
            raise StepFailed(last, error) from error

    def _delete(self, step: Step) -> None:
        path = self._below_dbroot(step.path)
        self._remember(path)
        if self.files[path] is not None and os.path.exists(path):  # two may share it
            os.unlink(path)

    def _below_dbroot(self, path: str) -> str:
        """rtslib moves dbroot to its distribution's folder whenever it looks at a host without
        backstores (rtslib/root.py), so it may have moved since the plan was made."""
        inside = path[len(self.facts.dbroot):]
        return self.fs.read("dbroot").strip() + inside

    def _remember(self, path: str) -> None:
        if path not in self.files:
            try:
                with open(path, "rb") as file:
                    self.files[path] = file.read()
            except FileNotFoundError:
                self.files[path] = None

    def _flush(self, step: Step) -> None:
        from ..storage.evidence import drop_cache
        drop_cache(step.path)

    def _acquire(self, step: Step) -> None:
        self.acquired[step.about] = step.path  # first: a command that fails may have done it
        exclusive.run("acquire", self.plan.late[step.about].rule, step.path)

    def _prove(self, step: Step) -> None:
        """Compare the storage, as preflight does where it may open it."""
        from ..storage.policy import findings
        opening = self.plan.late[step.about]
        store = self.plan.want.backstore(step.about) or self.before.backstore(step.about)
        assert store is not None
        here = HostSnapshot()
        errors.refuse(findings(store, opening.proof, opening.settings, Reader(self.fs).outline(),
                               here), opening.allowed)
        self.looked.update(here.looked)

    def _release(self, step: Step) -> None:
        exclusive.run("release", self.plan.late[step.about].rule, step.path)
        self.acquired.pop(step.about, None)

    # ---- the data ---
    def _allocate(self, step: Step) -> None:
        size, _, sparse = step.value.decode().partition(" ")
        self.looked[step.path] = self.storage_files.make(step.path, int(size), bool(sparse))

    def _grow(self, step: Step) -> None:
        self.storage_files.grow(step.path, int(step.value))

    def _open(self, step: Step) -> None:
        from ..storage.evidence import opened
        if not self.opened:
            room_for(len(self.plan.steps))
        if step.path not in self.opened:  # two backstores may share it
            self.opened[step.path] = opened(step.path)

    def _idle(self, step: Step) -> None:
        """Two looks at every LUN's counter of commands that say the same."""
        paths = [f"core/{(self.facts.placed or {})[store.key]}/{store.name}/statistics/scsi_lu/"
                 "num_cmds" for store in self.plan.want.backstores]
        before: Optional[List[str]] = None
        for _ in range(IDLE_TRIES):
            if self.stop():
                raise errors.Interrupted("interrupted before it was done")
            now = [self.fs.read(path) for path in paths]
            if now == before:
                return
            before = now
            time.sleep(IDLE_SECONDS)
        raise errors.StillRunning("commands are still being executed although the gates are shut")

    def _sync(self, step: Step) -> None:
        from ..storage.evidence import flush
        flush(step.path, self.opened[step.path])

    def close(self) -> None:
        """Let go of what was opened."""
        for fd in self.opened.values():
            os.close(fd)
        self.opened.clear()
        self.watch.close()

    def _drivers(self, step: Step) -> None:
        if step.value == b"off":
            self.drivers.off()
        else:
            self.drivers.on()

    def _drain(self, step: Step) -> None:
        self.nexuses.drain(step.path, [int(tag) for tag in step.value.split(b",")])

    def _scsi(self, step: Step) -> None:
        """REGISTER, then unregister, with APTPL=0: the device forgets that bit and its file
        (target_core_pr.c:core_scsi3_emulate_pro_register)."""
        from ..scsi import cdb
        from ..scsi.fingerprint import drain
        from ..scsi.sg import Device
        store = self.plan.want.backstore(step.about)
        if store is not None:
            self._remember(self._below_dbroot(f"{self.facts.dbroot}/pr/aptpl_{store.serial}"))
        address = self.fs.read(f"{step.path}/address").strip()
        lun = int(step.value)
        key = 0x6C696F68616E6476  # any key that is not 0
        with Device(sg_of(address, lun)) as device:
            drain(device.execute)
            for command in (cdb.register(0, key), cdb.register(key, 0)):
                result = device.execute(*command)
                if not result.good:
                    raise OSError(errno.EIO, f"REGISTER answered status {result.status:#x}")

    # ---- before the gate ---
    def _verify(self, step: Step) -> None:
        want, partial, unknown = self.plan.want, self.plan.partial, self.plan.unknown
        if self.plan.live:
            touched = {step.about for step in self.plan.steps}
            now = self.scope.read_touched(self.fs, touched)
            if not self.facts.has_rtpi:
                now = without_ports(now)
            check_touched(now, want, touched)
            self._is_what_was_opened(now)
        elif step.phase == "stage":
            want = staged(want, self.plan.steps, self.facts.has_rtpi)
            # Links come later, and are read then.
            self.now = now = self.scope.read(self.fs, reservations=False,
                                             unlinked=to_link(self.plan.steps))
            check(now, want, False, partial, unknown)
            portals.check(want)
            self._is_what_was_opened(now)
        else:
            later = {step.about for step in self.plan.steps if step.op == ACQUIRE}
            if later:  # no stage has read them back
                built = Scope(frozenset(), frozenset(later)).read(self.fs, reservations=False)
                check(replace(built, lu_groups=()), State((), tuple(
                    replace(backstore, reservations=NO_RESERVATIONS)
                    for backstore in want.backstores
                    if backstore.key in later)), False, partial, unknown)
                self._is_what_was_opened(built)
            # The rest was read back at the end of the stage.
            loaded(self.fs, want, partial, unknown)

    def _enabled(self, slots: Sequence[str], state: State) -> List[Backstore]:
        """The backstores of ``state`` that this plan enables in these slots."""
        enabled = {step.about for step in self.plan.steps
                   if step.op == WRITE and step.slot in slots}
        return [store for store in state.backstores if store.key in enabled]

    def _watch(self, slot: str) -> None:
        """Look at what the kernel is about to open, as long after it was checked as may be."""
        self.watch.before(self._enabled([slot], self.plan.want), self.looked)

    def _is_what_was_opened(self, now: State) -> None:
        """Paths may lead elsewhere since they were looked at, or while the kernel opened them."""
        from ..storage.opened import findings
        enabled = self._enabled(_ENABLE, now)
        errors.refuse([*self.watch.after(enabled), *findings(enabled)])
