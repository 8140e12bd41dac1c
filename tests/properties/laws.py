"""Laws that hold for any state a kernel can have: run inside a lab host, many examples in one
process.

    host.call(laws.hold, "import_and_remove", 300)

An example that breaks a law is shrunk, and its values stand in the exception's text.
"""
from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, note, settings, strategies as st

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.document.document import Document, Origin, canonical
from lio_handover.execute.executor import apply
from lio_handover.execute.verify import Scope
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.facts import kernel_symbols
from lio_handover.kernel.reader import Reader
from lio_handover.local.ours import Ours
from lio_handover.model.attributes import TABLE
from lio_handover.model.diff import Create, diff
from lio_handover.model.keys import alua_group_key, backstore_key, display, target_key
from lio_handover.model.objects import (Acl, AluaGroup, Backstore, Lun, MappedLun, Portal, State,
                                        Target, Tpg)
from lio_handover.plan.planner import plan
from lio_handover.plan.pr_order import nearest_reachable
from lio_handover.settings import Settings
from lio_handover.storage import evidence
from tests.lab import inside
from tests.support import inhost
from tests.support.states import SIZE, World, brief, changes, states

#: Memory of the host's own, wiped with it.
FOLDER = "/var/target"
SETTINGS = Settings(roots=(FOLDER,), devices=())
#: What a removal asks about; here it is meant.
REMOVED = ("reserved", "local")
#: The ways in which a change of the kernel's tree can be the last one.
STOPS = ("before", "after", "stop", "interrupt")

Draw = Callable[..., Any]


class Bench:
    """The host on which the examples are tried, one after the other, each on an empty one."""

    def __init__(self) -> None:
        self.fabrics = _fabrics()
        self.counts: Counter[str] = Counter()
        for number in range(4):
            for name in "ab":
                with open(f"{FOLDER}/{name}{number}.img", "wb") as file:
                    file.truncate(SIZE)
        self.wipe()
        self.empty = inhost.tree()
        self.world = self._measure()
        self.wipe()

    def core(self, fs: Configfs | None = None) -> Ours:
        return Ours(SETTINGS, fs)

    @contextmanager
    def example(self) -> Iterator[None]:
        """An empty host, and afterwards again."""
        try:
            yield
        finally:
            self.wipe()
            left = inhost.differences(self.empty, inhost.tree())
            assert not left, f"the host is not as it was when it was empty: {left[:5]}"

    def wipe(self) -> None:
        inside.clear_targets()
        for folder in (SETTINGS.state_directory, f"{inside.DBROOT}/pr", f"{inside.DBROOT}/alua"):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)  # one is a mount
        for fabric in self.fabrics:
            (inside.TARGET / fabric).mkdir()

    def _measure(self) -> World:
        """Ask the kernel what its fresh objects say."""
        world = World({}, True, FOLDER, fabrics=self.fabrics)
        store = Backstore(backstore_key("fileio", "a0"),
                          {"fd_dev_name": world.path("a0"), "fd_dev_size": str(SIZE)})
        group = AluaGroup(alua_group_key(store.key, "g"), {"tg_pt_gp_id": "1"})
        targets = []
        for fabric in self.fabrics:
            key = target_key(fabric, "iqn.2026-11.org.example:fresh" if fabric == "iscsi"
                                     else "naa.5001405000000001")
            tpg = (*key, "1")
            lun = Lun((*tpg, "lun", "0"), store.key)
            if fabric == "iscsi":
                acl = (*tpg, "acl", "iqn.2026-11.org.example:i")
                targets.append(Target(key, {}, (Tpg(
                    tpg, {}, (Portal((*tpg, "portal", "127.0.0.1:3260")),), (lun,),
                    (Acl(acl, {}, (MappedLun((*acl, "lun", "0"), 0),)),)),)))
            else:
                targets.append(Target(key, {}, (Tpg(
                    tpg, {"nexus": "naa.5001405000000002"}, (), (lun,)),)))
        inhost.build(State((), (replace(store, alua_groups=(group,)),), tuple(targets)))
        reader = Reader(Configfs())
        state = reader.state()
        fresh: dict[str, dict[str, str]] = {}
        for one in state.objects():
            kind = f"tpg:{one.fabric}" if isinstance(one, Tpg) else one.kind
            said = {name: value for name, value in one.attributes.items()
                    if name not in ("rtpi", "nexus", "tg_pt_gp_id")}
            assert fresh.setdefault(kind, said) == said, f"two fresh objects differ: {kind}"
        newer = [row for row in TABLE if row.symbol]
        return World(fresh, reader.facts().has_rtpi, FOLDER, _direct(world.path("a0")),
                     self.fabrics, os.path.exists("/proc/net/if_inet6"),
                     frozenset(row.path for row in newer
                               if not kernel_symbols({row.symbol})) - {"rtpi"})

    # ---- what the laws are about ---
    def document(self, state: State) -> Document:
        return documents.loads(documents.dumps(Document(
            state, True, Origin("a.example", os.uname().release, "0"),
            {display(store.key): evidence.evidence(store, sample=True)
             for store in state.backstores})))

    def import_(self, state: State, fs: Configfs | None = None) -> None:
        stop = fs.stop if isinstance(fs, inhost.Stopping) else lambda: False
        core = self.core(fs)
        core.import_(core.ready(self.document(state)), stop=stop)

    def serves(self, *wanted: State) -> None:
        """Read back, the host serves just these states, as far as a kernel can be brought."""
        found = canonical(Scope.of(*wanted).read(Configfs(), untouched=True, known=_all(wanted)))
        want = canonical(nearest_reachable(_all(wanted))[0])
        assert not diff(found, want), diff(found, want)[:3]
        assert found == want

    def as_before(self, before: dict[str, str]) -> None:
        left = inhost.differences(before, inhost.tree())
        assert not left, f"not as before: {left[:5]}"


# --- the laws ------------------------------------------------------------------------------------
def round_trip(bench: Bench, draw: Draw) -> None:
    """A document says what the state says; equal states do not differ, and others do."""
    state = draw(states(bench.world))
    for frozen in (True, False):
        made = Document(state, frozen, Origin("a.example", "6.1", "0"), {})
        read = documents.loads(documents.dumps(made))
        assert read.state == canonical(state) and read.frozen == frozen
        assert documents.dumps(read) == documents.dumps(made)
        assert documents.state_bytes(read) == documents.state_bytes(made)
    assert diff(state, state) == () == diff(canonical(state), state)
    assert diff(State(), state) == tuple(map(Create, state.objects()))
    other = draw(changes(bench.world, state))
    assert bool(diff(state, other)) == (state != other)
    assert diff(other, other) == ()
    bench.counts["objects"] += sum(1 for _ in state.objects())


def import_and_remove(bench: Bench, draw: Draw) -> None:
    """What is imported is served, once; exported again it is the same; removed, nothing is left."""
    state = draw(states(bench.world))
    bench.import_(state)
    bench.serves(state)
    bench.counts["registrations"] += sum(
        len(one.reservations.registrations) for one in state.backstores)
    if _cut(state):  # then only a probe tells what an initiator may have done since
        bench.core().remove([], True, (*REMOVED, "unclear"))
        bench.as_before(bench.empty)
        return
    bench.core().verify(bench.document(state))
    before = inhost.tree()
    bench.import_(state)
    bench.as_before(before)
    bench.core().remove([], True, REMOVED)
    bench.as_before(bench.empty)


def import_stopped(bench: Bench, draw: Draw) -> None:
    """On a host that serves something already, an import that is stopped at any change of the
    kernel leaves all as it was; and one that is not leaves that alone."""
    other, state = draw(states(bench.world, "b")), draw(states(bench.world, "a"))
    bench.import_(other)
    before = inhost.tree()
    fs = inhost.Stopping(draw(st.integers(1, 150)), draw(st.sampled_from(STOPS)))
    note(f"{fs.how} change {fs.point}")
    try:
        bench.import_(state, fs)
    except (errors.HandoverError, KeyboardInterrupt) as error:
        bench.counts["stopped"] += 1
        assert fs.changes >= fs.point, f"refused by itself: {error}"
        assert not isinstance(error, errors.UndoFailed), error
        bench.as_before(before)
        bench.import_(state)
    bench.serves(other, state)
    bench.core().remove([target.name for target in state.targets],
                        allow=(*REMOVED, "unclear") if _cut(state) else REMOVED)
    bench.as_before(before)


def changed_live(bench: Bench, draw: Draw) -> None:
    """A change of a target that is there is refused untouched, or leads to just what is wanted,
    and back."""
    state = draw(states(bench.world))
    bench.import_(state)
    fs = Configfs()
    reader = Reader(fs)
    facts = reader.facts()
    have = Scope.of(state).read(fs, known=state, untouched=True)
    want = draw(changes(bench.world, have))
    before = inhost.tree()
    there = plan(have, want, facts)
    if there.refused:
        bench.counts["refused"] += 1
        return
    apply(fs, there, have, facts)
    now = Scope.of(state).read(fs, known=state, untouched=True)
    assert not diff(now, want), diff(now, want)[:3]
    back = plan(now, have, facts)
    if back.refused:  # what was unset before can't be unset again
        bench.counts["one way"] += 1
        return
    apply(fs, back, now, facts)
    bench.as_before(before)
    bench.counts["there and back"] += 1


LAWS: dict[str, Callable[[Bench, Draw], None]] = {one.__name__: one for one in (
    round_trip, import_and_remove, import_stopped, changed_live)}


def hold(law: str, examples: int) -> dict[str, int]:
    """Try a law on so many examples, always the same; counts of what was in them.

    Raises what the shrunk example raises, with its values as notes.
    """
    bench = Bench()

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        def draw(strategy: st.SearchStrategy[Any]) -> Any:
            return data.draw(strategy.map(lambda one: _Shown(one, bench.world))).value

        with bench.example():
            bench.counts["examples"] += 1
            LAWS[law](bench, draw)

    holds()
    return dict(bench.counts)


class _Shown:
    """A drawn value, shown in short where it is a state."""

    def __init__(self, value: Any, world: World) -> None:
        self.value, self.world = value, world

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # what Hypothesis asks for
        printer.text(repr(self))

    def __repr__(self) -> str:
        return brief(self.value, self.world) if isinstance(self.value, State) else repr(self.value)


def _all(ones: Sequence[State]) -> State:
    """Several states as one host's."""
    groups, stores, targets = (tuple(part for one in ones for part in getattr(one, name))
                               for name in ("lu_groups", "backstores", "targets"))
    return State(groups, stores, targets, next((
        one.discovery_auth for one in ones if one.discovery_auth), None))


def _cut(state: State) -> bool:
    """Whether a page does not show all registrations, and no APTPL file has them."""
    return any(len(one.reservations.registrations) > 50 and not one.reservations.aptpl
               for one in state.backstores)


def _fabrics() -> tuple[str, ...]:
    """Beside iSCSI one that has nexuses: vhost, where the kernel has it."""
    there = subprocess.run(["modprobe", "vhost_scsi"], check=False, capture_output=True)
    return ("iscsi", "loopback" if there.returncode else "vhost")


def _direct(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True
