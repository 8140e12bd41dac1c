"""Steps → the kernel.  Runs a plan, or leaves the host as it was.

A plan may be stopped between any two steps; what takes it back is planned from what the
kernel then shows, so a step that was half done needs no inverse of its own.
"""
from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple

from . import diff as differ
from . import dynamic, errors, late
from .configfs import Configfs
from .diff import Change, Create, Register, Relink, Remove, diff
from .locks import room_for
from .model import NO_RESERVATIONS, Key, State, say
from .plan import (ACQUIRE, DELETE, DRAIN, DRIVERS, FILE, FLUSH, FOLDER, IDLE, KERNEL_OPS, LINK,
                   LOAD, MKDIR, OPEN, PROVE, RELEASE, RMDIR, SCRATCH_TARGET, SCSI, SYNC, UNLINK,
                   VERIFY, WRITE, Plan, Step, plan)
from .reader import Facts, Reader
from .revival import reachable
from .scsibus import AUTOPROBE, Drivers, sg_of
from .staged import staged
from .wholefile import write_file, write_files

Progress = Callable[[int, int, Step], None]

#: Two looks at a LUN's command counter, so many seconds apart, prove that it is idle.
IDLE_SECONDS = 0.05
IDLE_TRIES = 100


@dataclass(frozen=True)
class Scope:
    """Which part of the host a plan may touch, and its undo looks at."""

    targets: FrozenSet[Tuple[str, str]]
    backstores: FrozenSet[Key]
    lu_groups: FrozenSet[str] = frozenset()
    discovery: bool = False

    @staticmethod
    def of(*states: State) -> "Scope":
        return Scope(
            frozenset((one.fabric, one.wwn) for state in states for one in state.targets),
            frozenset(one.key for state in states for one in state.backstores),
            frozenset(one.name for state in states for one in state.lu_groups),
            any(state.discovery_auth for state in states))

    def part_of(self, state: State) -> State:
        """What of ``state`` is in scope."""
        return State(tuple(one for one in state.lu_groups if one.name in self.lu_groups),
                     tuple(one for one in state.backstores if one.key in self.backstores),
                     tuple(one for one in state.targets
                           if (one.fabric, one.wwn) in self.targets),
                     state.discovery_auth if self.discovery else None)

    def read(self, fs: Configfs, reservations: bool = True, known: State = State(),
             untouched: bool = False) -> State:
        """The part of the host that is in scope, whatever of it is there.

        ``known``: a state whose registrations, as they are or as they could be restored, are
        believed where the kernel, which does not show all of them, agrees as far as it goes (see
        reservations.read).
        """
        nearest = reachable(known)[0] if any(one.reservations for one in known.backstores) \
            else known
        reader = Reader(fs, reservations=reservations, untouched=untouched, known={
            one.key: (one.reservations, other.reservations)
            for one, other in zip(known.backstores, nearest.backstores)})
        there = [one for one in reader.target_names() if one in self.targets]
        found = reader.state(there, self.backstores, self.discovery)
        names = self.lu_groups | {one.name for one in found.lu_groups}
        return replace(found, lu_groups=reader.lu_groups(sorted(names)))


@dataclass
class Outcome:
    """What running a plan took: kernel writes, and seconds of each phase."""

    steps: int = 0
    writes: int = 0
    seconds: Dict[str, float] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()


class StepFailed(Exception):
    """A step that the kernel, or the host, refused."""

    def __init__(self, step: Step, error: BaseException) -> None:
        self.step, self.error = step, error
        super().__init__(f"{step}: {reason(error)}")


def reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"{errno.errorcode.get(error.errno, error.errno)} ({error.strerror})"
    return error.what if isinstance(error, errors.HandoverError) else str(error)


def never() -> bool:
    return False


def apply(fs: Configfs, the_plan: Plan, before: State, facts: Facts,
          progress: Optional[Progress] = None, stop: Callable[[], bool] = never,
          reservations: bool = True) -> Outcome:
    """Run a plan made from ``before``; where it fails or ``stop`` says so, undo it.

    ``reservations`` says whether ``before`` was read with them: only then can what loses them
    be undone.  Raises KernelRefused, VerifyFailed or Interrupted after an undo (the message says
    that nothing is changed), UndoFailed where the undo failed too.
    """
    run = _Run(fs, the_plan, before, facts, reservations)
    outcome = Outcome(notes=the_plan.notes)
    began = fs.changes
    try:
        run.through(the_plan.steps, outcome.seconds, progress, stop)
    except (StepFailed, errors.HandoverError) as error:
        raise run.undo(error) from error
    except BaseException as error:
        failed = run.undo(errors.KernelRefused(f"{type(error).__name__}: {error}"))
        if isinstance(failed, errors.UndoFailed):
            raise failed from error
        raise
    finally:
        run.close()
    outcome.steps = run.begun
    outcome.writes = fs.changes - began
    return outcome


#: Steps which end registrations, or what else comes back only into a backstore made afresh.
LOSING = ("unlink mapped LUN", "remove mapped LUN", "remove ACL", "unlink LUN", "drop nexus",
          "remove LUN", "remove backstore")


class _Run:
    """One run of one plan: what it has touched outside the tree, and the way back."""

    def __init__(self, fs: Configfs, the_plan: Plan, before: State, facts: Facts,
                 reservations: bool) -> None:
        self.fs, self.plan, self.before, self.facts = fs, the_plan, before, facts
        self.reservations = reservations
        self.scope = Scope.of(before, the_plan.want)
        self.begun = 0  # so many of the steps were begun
        self.files: Dict[str, Optional[bytes]] = {}  # what they were before
        self.waiting: Dict[str, Step] = {}  # to be written with the others of their slot
        self.gate_opened = False
        self.drivers = Drivers()
        #: late storage that was acquired, or begun to be, and not released since → its path
        self.acquired: Dict[Key, str] = {}
        self.opened: Dict[Key, int] = {}  # descriptors
        self.stop: Callable[[], bool] = never

        self.deeds = {op: getattr(self, f"_{op}") for op in (
            MKDIR, RMDIR, LINK, UNLINK, WRITE, LOAD, FOLDER, FILE, DELETE, FLUSH, SCSI, DRIVERS,
            DRAIN, VERIFY, ACQUIRE, PROVE, RELEASE, OPEN, IDLE, SYNC)}

    def through(self, steps: Sequence[Step], seconds: Dict[str, float],
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
                    progress(self.begun, len(steps), step)
                if step.slot is not slot:
                    if self.waiting:
                        self._write_waiting()
                    slot = step.slot
                    last, span = span, "verify" if step.op == VERIFY else step.phase
                    if last and last != span:
                        now = time.monotonic()
                        seconds[last] = seconds.get(last, 0.0) + now - started
                        started = now
                self.begun += 1
                try:
                    self.deeds[step.op](step)
                except (OSError, ValueError, errors.Refusal, errors.Meddled) as error:
                    raise StepFailed(step, error) from error
                if slot == "gate":
                    self.gate_opened = True
            self._write_waiting()
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
        self.fs.link(step.path, step.value.decode())

    def _unlink(self, step: Step) -> None:
        self.fs.unlink(step.path)

    def _write(self, step: Step) -> None:
        row = step.row
        if row is not None and not step.sure and self._has_already(step):
            return
        if step.slot in ("nexus", "late nexus"):
            return self._nexus(step)
        try:
            self.fs.write(step.path, step.value)
        except FileNotFoundError:
            if row is None or not step.sure:
                raise
            self._has_already(step)  # raises where the kernel would need the attribute

    def _nexus(self, step: Step) -> None:
        """rtslib gives a vhost TPG that has no nexus a random one, even when it only lists
        (rtslib/target.py:TPG._gen_wwn): while no LUN is linked, such a one is dropped."""
        for _attempt in range(100):
            try:
                return self.fs.write(step.path, step.value)
            except OSError as error:
                if step.row is None and error.errno == errno.ENODEV:
                    return  # there is none, which is what was asked for
                if error.errno != errno.EEXIST:
                    raise
            if step.row is not None and self._has_already(step):
                return
            try:
                self.fs.write(step.path, b"NULL\n")
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.EPERM):
                    raise errors.Meddled(f"{step.path}: somebody has made a nexus there, which "
                                         "can't go as LUNs are linked") from None
                if error.errno != errno.ENODEV:
                    raise
        raise OSError(errno.EEXIST, "somebody makes a nexus there again and again")

    def _has_already(self, step: Step) -> bool:
        """Many attributes refuse being told what they are already."""
        assert step.row is not None
        wanted = step.value.decode()
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
        done = subprocess.run(["modprobe", step.path], capture_output=True, text=True)
        if done.returncode:
            raise OSError(errno.ENODEV, f"modprobe {step.path}: {done.stderr.strip()}")

    def _folder(self, step: Step) -> None:
        os.makedirs(self._below_dbroot(step.path), mode=0o700, exist_ok=True)

    def _file(self, step: Step) -> None:
        path = self._below_dbroot(step.path)
        self._remember(path)
        self.waiting[path] = step

    def _write_waiting(self) -> None:
        """The files of one slot at once: their folder is made durable once."""
        files, self.waiting = self.waiting, {}
        try:
            write_files({path: step.value for path, step in files.items()})
        except OSError as error:
            last = next(reversed(files.values()))
            raise StepFailed(last, error) from error

    def _delete(self, step: Step) -> None:
        path = self._below_dbroot(step.path)
        self._remember(path)
        if self.files[path] is not None:
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
        from .storage import drop_cache
        drop_cache(step.path)

    def _acquire(self, step: Step) -> None:
        self.acquired[step.about] = step.path  # first: a command that fails may have done it
        late.run("acquire", self.plan.late[step.about].rule, step.path)

    def _prove(self, step: Step) -> None:
        """What preflight looks at where it may."""
        from .storage import findings
        opening = self.plan.late[step.about]
        store = self.plan.want.backstore(step.about) or self.before.backstore(step.about)
        assert store is not None
        errors.refuse(findings(store, opening.proof, opening.settings, Reader(self.fs).outline()),
                      opening.allowed)

    def _release(self, step: Step) -> None:
        late.run("release", self.plan.late[step.about].rule, step.path)
        self.acquired.pop(step.about, None)

    # ---- the data ---
    def _open(self, step: Step) -> None:
        from .storage import opened
        if not self.opened:
            room_for(len(self.plan.steps))
        self.opened[step.about] = opened(step.path)

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
        from .storage import flush
        flush(step.path, self.opened[step.about])

    def close(self) -> None:
        """Let go of what was opened."""
        for fd in self.opened.values():
            os.close(fd)
        self.opened.clear()

    def _drivers(self, step: Step) -> None:
        if step.value == b"off":
            self.drivers.off()
        else:
            self.drivers.on()

    def _drain(self, step: Step) -> None:
        from .initiator.vhost import drain
        drain(step.path, [int(tag) for tag in step.value.split(b",")])

    def _scsi(self, step: Step) -> None:
        """REGISTER, then unregister, with APTPL=0: the device forgets that bit and its file
        (target_core_pr.c:core_scsi3_emulate_pro_register)."""
        from .initiator import commands
        from .initiator.sg import Device
        store = self.plan.want.backstore(step.about)
        if store is not None:
            self._remember(self._below_dbroot(f"{self.facts.dbroot}/pr/aptpl_{store.serial}"))
        address = self.fs.read(f"{step.path}/address").strip()
        lun = int(step.value)
        key = 0x6C696F68616E6476  # any key that is not 0
        with Device(sg_of(address, lun)) as device:
            commands.drain(device.execute)
            for command in (commands.register(0, key), commands.register(key, 0)):
                result = device.execute(*command)
                if not result.good:
                    raise OSError(errno.EIO, f"REGISTER answered status {result.status:#x}")

    # ---- before the gate ---
    def _verify(self, step: Step) -> None:
        want, partial, unknown = self.plan.want, self.plan.partial, self.plan.unknown
        if step.phase == "stage":
            want = staged(want, self.plan.steps, self.facts.has_rtpi)
            check(self.scope.read(self.fs, reservations=False), want, False, partial, unknown)
        else:
            later = {one.about for one in self.plan.steps if one.op == ACQUIRE}
            if later:  # no stage has read them back
                made = Scope(frozenset(), frozenset(later)).read(self.fs, reservations=False)
                check(replace(made, lu_groups=()), State((), tuple(
                    replace(one, reservations=NO_RESERVATIONS) for one in want.backstores
                    if one.key in later)), False, partial, unknown)
            # The rest was read back at the end of the stage.
            known = {one.key: (one.reservations,) for one in want.backstores}
            check(Reader(self.fs, untouched=True, known=known).runtime(want), want, False, partial,
                  unknown)

    # ---- the way back ---
    def undo(self, error: Exception) -> errors.HandoverError:
        """Bring the host back to ``before``; the error to raise, which says how it went."""
        self.waiting.clear()
        what = str(error) if isinstance(error, StepFailed) else getattr(error, "what", str(error))
        kind, do = type(error), getattr(error, "do", "")
        if isinstance(error, StepFailed):
            inner = error.error
            kind = type(inner) if isinstance(inner, errors.HandoverError) else \
                errors.KernelRefused
            do = do or getattr(inner, "do", "") or "dmesg | tail"
        assert issubclass(kind, errors.HandoverError)
        try:
            changed = self._take_back()
        except (StepFailed, OSError, ValueError, errors.HandoverError) as second:
            return errors.UndoFailed(
                f"{what}; and taking it back failed: {reason(second)}", changed=self._in_between(),
                do="lio-handover show, then lio-handover remove")
        return kind(what, changed=changed, do=do)

    def _in_between(self) -> str:
        open_gates = []
        for fabric, wwn in self.scope.targets:
            for tpg in (self.fs.entries(f"{fabric}/{wwn}")[1]
                        if self.fs.exists(f"{fabric}/{wwn}") else ()):
                path = f"{fabric}/{wwn}/{tpg}"
                if self.fs.exists(f"{path}/enable") and self.fs.read(f"{path}/enable") == "1\n":
                    open_gates.append(path)
        drivers = "" if self.drivers.are_on() else \
            "; drivers are not attached to new SCSI devices (write 1 to " + AUTOPROBE + ")"
        held = [path for key, path in self.acquired.items() if self.before.backstore(key) is None]
        return ("the host is left in between, with " + (
            f"{', '.join(open_gates)} enabled" if open_gates else "its gates shut") + drivers
            + (f"; {', '.join(held)} not released" if held else ""))

    def _take_back(self) -> str:
        """Bring back what this run has touched, and nothing else; what is changed all the same."""
        if self.gate_opened:
            self._shut_gates()
        scope = self._touched_scope()
        before = scope.part_of(self.before)
        scope = replace(scope, targets=scope.targets | {(SCRATCH_TARGET[1], SCRATCH_TARGET[2])})
        ways = self._ways_back(scope, before)
        notes: Tuple[str, ...] = ()
        if len(ways) > 1:  # nothing is taken down that could not be built up again
            # Who was there by a dynamic ACL gets no registration back without one.
            before, notes = dynamic.made_explicit(before, {})
            ways = [*ways[:-1], before]
            self._refuse(plan(State(before.lu_groups), before, Reader(self.fs).facts(),
                              verify=False))
        for want in ways:
            # What a target in scope links to need not be in scope.
            now = scope.part_of(scope.read(self.fs, reservations=False))
            now = _with_reservations_of(now, before)
            back = plan(now, want, Reader(self.fs).facts(), self.facts.fabrics, verify=False,
                        late=self.plan.late)
            self._refuse(back)
            self._go(back)
        self._remove_empty_hbas()
        for key, path in [*self.acquired.items()][::-1]:
            if before.backstore(key) is None:
                late.run("release", self.plan.late[key].rule, path)
                del self.acquired[key]
        self.drivers.on()
        for path, content in self.files.items():
            if content is not None:
                write_file(path, content)
            elif os.path.exists(path):
                os.unlink(path)
        return self._compare(scope, before, notes)

    def _touched_scope(self) -> Scope:
        """What the run has touched, with what shares backstores with it."""
        targets = [one for state in (self.before, self.plan.want) for one in state.targets]
        links = {target.key: {lun.backstore for tpg in target.tpgs for lun in tpg.luns
                              if lun.backstore} for target in targets}
        touched = {step.about[:2] if step.about[:1] == ("lu_group",) else step.about[:3]
                   for step in self.plan.steps[:self.begun]}
        stores = {key for key in touched if key[:1] == ("backstore",)}
        for key in links:
            if key in touched:
                stores |= links[key] & self.scope.backstores
        touched |= {key for key, linked in links.items() if linked & stores}
        return Scope(frozenset((one.fabric, one.wwn) for one in targets if one.key in touched),
                     frozenset(stores & self.scope.backstores),
                     frozenset(key[1] for key in touched if key[:1] == ("lu_group",)),
                     any(key[:1] == ("discovery_auth",) for key in touched))

    def _compare(self, scope: Scope, before: State, notes: Tuple[str, ...]) -> str:
        """Raises VerifyFailed where the host is not as it was, as far as a kernel can be."""
        if not self.reservations:
            now = scope.part_of(scope.read(self.fs, reservations=False))
            now = _with_reservations_of(now, before)
        else:
            now = scope.part_of(scope.read(self.fs, known=before, untouched=True))
        left = diff(now, before)
        if left and self.reservations:
            nearest, more = reachable(before)
            notes += more
            left = diff(scope.part_of(scope.read(self.fs, known=nearest, untouched=True)), nearest)
        if left:
            raise errors.VerifyFailed("; ".join(describe(one) for one in left[:3]))
        return ("all is as it was, but: " + "; ".join(notes)) if notes else errors.NOTHING_CHANGED

    def _ways_back(self, scope: Scope, before: State) -> List[State]:
        """Straight to ``before``, unless a backstore that is still there has lost what it gets
        only when it is made afresh: registrations and, up to 6.1, relative port numbers."""
        lost = any(step.slot in LOSING for step in self.plan.steps[:self.begun])
        if not lost or not before.targets:
            return [before]
        if not self.reservations:
            raise errors.CannotChange("its registrations could not be told, and are lost")
        held = {one.key: one.reservations for one in before.backstores if one.reservations}
        afresh = [State(before.lu_groups), before]
        try:
            now = scope.read(self.fs, known=before, untouched=True)
        except errors.CannotRepresent:
            return afresh
        there = {one.key: one.reservations for one in now.backstores}
        linked = {lun.key for _, _, lun in now.luns() if lun.backstore}
        lost = any(there.get(key, found) != found for key, found in held.items()) or (
            not self.facts.has_rtpi and any(
                lun.key not in linked and lun.backstore in there
                for _, _, lun in before.luns()))
        return afresh if lost else [before]

    @staticmethod
    def _refuse(back: Plan) -> None:
        if back.refused:
            one = back.refused[0]
            raise errors.CannotChange(f"{one.subject}: {one.sentence}")

    def _go(self, back: Plan) -> None:
        for step in back.steps:
            try:
                self.deeds[step.op](step)
            except OSError as error:
                raise StepFailed(step, error) from error
        self._write_waiting()

    def _shut_gates(self) -> None:
        """An initiator may have come in: what it did to its reservations must not be lost."""
        for step in self.plan.steps:
            if step.slot == "gate" and step.path.endswith("/enable"):
                if self.fs.read(step.path).strip() == "1":
                    self.fs.write(step.path, b"0\n")
        if not self.reservations:
            return
        now = self.scope.read(self.fs, known=self.plan.want)
        changed = [one for one in diff(now, self.plan.want, gates=False)
                   if isinstance(one, Register)]
        if changed:
            raise errors.CannotChange(
                f"{say(changed[0].key)}: an initiator changed its reservations meanwhile; this "
                "host has the only copy and keeps it")

    def _remove_empty_hbas(self) -> None:
        """An HBA made for a backstore that was not made any more."""
        mine = {step.path for step in self.plan.steps if step.slot == "HBA"}
        for hba in Reader(self.fs).hbas():
            path = f"core/{hba}"
            if path in mine and hba not in self.facts.hbas and not self.fs.entries(path)[1]:
                self.fs.rmdir(path)


def writes(steps: Sequence[Step]) -> int:
    """How many of the steps are requests to the kernel's target tree, at most."""
    return sum(1 for step in steps if step.op in KERNEL_OPS)


def check(now: State, want: State, gates: bool = True, partial: bool = False,
          unknown: bool = False) -> None:
    """Raises VerifyFailed where ``now`` is not ``want``, naming what differs.

    CannotRepresent where that is only what the table does not know, which nobody writes;
    ``unknown`` lets such be.
    """
    left = diff(now, want, gates, partial)
    strange = [one for one in left if isinstance(one, differ.Set) and not one.known]
    if unknown or len(strange) == len(left):
        left = tuple(one for one in left if one not in strange)
    if strange and not left and not unknown:
        raise errors.CannotRepresent(
            describe(strange[0]) + ", and this version does not know it, so it can't be written",
            do="make it the same on both hosts, or --allow unknown-attribute")
    if left:
        more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
        raise errors.VerifyFailed(
            "read back, the host is not what was asked for: "
            + "; ".join(describe(one) for one in left[:3]) + more)


def describe(change: Change) -> str:
    """A change in a few words, secrets hidden."""
    if isinstance(change, Create):
        return f"{say(change.key)} is missing"
    if isinstance(change, Remove):
        return f"{say(change.key)} is too much"
    if isinstance(change, (differ.Set, Relink)):
        return f"{say(change.key)} {change.name} is {change.old} instead of {change.new}"
    old, new = change.old, change.new
    if len(old.registrations) != len(new.registrations):
        return (f"{say(change.key)} has {len(old.registrations)} registrations instead of "
                f"{len(new.registrations)}")
    for name in ("generation", "aptpl", "type", "holder"):
        if getattr(old, name) != getattr(new, name):
            return (f"{say(change.key)} PR {name} is {getattr(old, name)} instead of "
                    f"{getattr(new, name)}")
    return f"{say(change.key)} has other registrations"


def _with_reservations_of(state: State, other: State) -> State:
    """``state``, its backstores' reservations taken to be those of ``other``."""
    held = {one.key: one.reservations for one in other.backstores}
    return replace(state, backstores=tuple(
        replace(one, reservations=held.get(one.key, one.reservations))
        for one in state.backstores))
