"""What goes wrong at a bad moment costs nothing: on real kernels, with a target that serves."""
from __future__ import annotations

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_probe import IQN, NAMES, registered, state
from tests.support import inhost


def served(bed: lab.Lab, host: lab.Host, enable: bool = True) -> None:
    """Two TPGs, four registrations that only a probe can tell apart, both gates open."""
    host.call(inhost.build, state(bed.shared, 2, 2, registered(2, 2)))
    if enable:
        host.call(set_gates, "1")


def set_gates(value: str) -> None:
    for tag in (1, 2):
        Configfs().write(f"iscsi/{IQN}/tpgt_{tag}/enable", f"{value}\n".encode())


def gates() -> list[str]:
    return [Configfs().read(f"iscsi/{IQN}/tpgt_{tag}/enable").strip() for tag in (1, 2)]


def stopped_freeze(point: int, how: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """(what it said, tree before, tree after) of a freeze that is stopped at a change."""
    before = inhost.tree()
    fs = inhost.Stopping(point, how)
    try:
        inhost.core(fs).freeze(NAMES, ("unclear",), fs.stop)
    except errors.HandoverError as error:
        return str(error), before, inhost.tree()
    return "", before, inhost.tree()


@pytest.mark.parametrize("how", ["before", "after", "stop"])
def test_a_freeze_stopped_in_the_middle_keeps_all_registrations(
        how: str, bed: lab.Lab, stable: lab.Host) -> None:
    served(bed, stable)
    said, before, after = stable.call(stopped_freeze, 2 if how != "stop" else 1, how)
    assert said
    assert after == before
    assert stable.call(gates) == ["1", "1"]


def test_a_second_freeze_that_fails_opens_nothing(bed: lab.Lab, stable: lab.Host) -> None:
    served(bed, stable)
    stable.call(inhost.freeze, True, ("unclear",))
    said, before, after = stable.call(failing_freeze)
    assert said and after == before
    assert stable.call(gates) == ["0", "0"]
    stable.call(inhost.freeze, True, ("unclear",))
    stable.call(export_probed)
    with pytest.raises(errors.InUse):
        stable.call(inhost.thaw, ())


def export_probed() -> bytes:
    return documents.dumps(inhost.core().export(NAMES, probe=True))


def failing_freeze() -> tuple[str, dict[str, str], dict[str, str]]:
    """A freeze whose last look at the disk fails."""
    from lio_handover.host import verbs

    def fail(*_: object) -> None:
        raise errors.KernelRefused("the disk is gone")
    kept, before = verbs.storage.flush, inhost.tree()  # type: ignore[attr-defined]
    setattr(verbs.storage, "flush", fail)  # type: ignore[attr-defined]
    try:
        inhost.core().freeze(NAMES, ("unclear",))
    except errors.HandoverError as error:
        return str(error), before, inhost.tree()
    finally:
        setattr(verbs.storage, "flush", kept)  # type: ignore[attr-defined]
    return "", before, inhost.tree()


def probes_stopped_everywhere(how: str) -> tuple[int, list[str]]:
    """A probe stopped at each of its changes: (points, what was not as before)."""
    before, point = inhost.tree(), 0
    wrong: list[str] = []
    while True:
        point += 1
        fs = inhost.Stopping(point, how)
        try:
            inhost.core(fs).prepare(NAMES, probe=True)
        except (errors.HandoverError, KeyboardInterrupt):
            pass
        else:
            return point - 1, wrong
        wrong += [f"point {point}: {one}" for one in inhost.differences(before, inhost.tree())]
        with open("/sys/bus/scsi/drivers_autoprobe") as file:
            if file.read().strip() != "1":
                wrong.append(f"point {point}: drivers are off")
        if len(wrong) > 10:
            return point, wrong


@pytest.mark.parametrize("how", ["before", "after", "interrupt"])
def test_a_probe_stopped_anywhere_leaves_nothing(how: str, bed: lab.Lab, newest: lab.Host) -> None:
    served(bed, newest)
    points, wrong = newest.call(probes_stopped_everywhere, how, timeout=120)
    assert not wrong
    assert points > 8
    assert newest.call(gates) == ["1", "1"]


def two_imports(data: bytes) -> tuple[str, list[str]]:
    """Two who looked at the host at one time: what the second is told, and the gates then."""
    one, other, document = inhost.core(), inhost.core(), documents.loads(data)
    first, second = one.ready(document), other.ready(document)
    one.import_(first)
    try:
        other.import_(second)
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}", gates()
    return "", gates()


def test_of_two_imports_one_wins(bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("stable", "stable")
    served(bed, source)
    source.call(inhost.freeze, True, ("unclear",))
    said, open_gates = destination.call(two_imports, source.call(export_probed))
    assert said.startswith("StillRunning") and "was changed since" in said
    assert open_gates == ["1", "1"]


def test_two_ports_of_one_number_are_refused_before_the_gate(
        bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("oldest", "newest")
    # Up to 6.1 each backstore counts for itself, so every first port is 1.
    source.call(inhost.build, state(bed.shared, 2, 1, registered(2, 1)))
    source.call(set_gate_of_one)
    source.call(inhost.freeze)
    document = documents.loads(source.call(inhost.export))
    before = destination.call(inhost.tree)
    with pytest.raises(errors.CannotRepresent, match="of the same document"):
        destination.call(inhost.import_, documents.dumps(doubled(document)), ("other-file",))
    assert destination.call(inhost.tree) == before


def set_gate_of_one() -> None:
    Configfs().write(f"iscsi/{IQN}/tpgt_1/enable", b"1\n")


def doubled(document: documents.Document) -> documents.Document:
    """The document with its TPG once more, under the next tag."""
    from dataclasses import replace
    target, = document.state.targets
    tpg, = target.tpgs

    def moved(key: tuple[str, ...]) -> tuple[str, ...]:
        return (*key[:3], "2", *key[4:])
    other = replace(tpg, key=moved(tpg.key), portals=(), luns=tuple(
        replace(lun, key=moved(lun.key)) for lun in tpg.luns), acls=())
    return replace(document, state=replace(
        document.state, targets=(replace(target, tpgs=(tpg, other)),)))
