"""What the verbs between freeze and open ask of the kernel and of the disk, while nobody is served:
counts, which no machine's speed changes, and what each LUN adds to them."""
from __future__ import annotations

from collections import Counter
from typing import Any

from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import DESTINATION, SOURCE, MessageType
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import WAY
from tests.support import inhandover, inhost, inwindow

#: The verbs up to the open gate, as WAY has them, and those while nobody is served.
VERBS = WAY.split()[:7]
WINDOW = VERBS[2:]
#: What a LUN adds at most, what it adds besides where it has a registration, and a target's own.
MOST_OF_A_LUN = {"files": 357, "folders": 25, "syncs": 3}
MOST_OF_A_REGISTRATION = {"files": 34, "folders": 0, "syncs": 1.5}
MOST_BESIDES = {"files": 354, "folders": 195, "syncs": 10}

Counts = dict[str, int]


def counted(a: lab.Host, b: lab.Host, folder: str, luns: int, every: int) -> Counts:
    """What the move of such a target opens and syncs in the window, on both hosts together."""
    a.call(inwindow.serve, folder, luns, every)
    hosts, id = {SOURCE: a, DESTINATION: b}, ""  # noqa: A001
    newest: dict[MessageType, Message] = {}
    total: Counter[str] = Counter()
    for word in VERBS:
        verb, role = word.strip("*"), DESTINATION if "*" in word else SOURCE
        more: dict[str, Any] = {"targets": (inwindow.TARGET,), "mode": "iscsi"} \
            if verb == "prepare" else {}
        given = from_json(to_json([*newest.values()]))
        found = hosts[role].call(inwindow.counted, verb, role, id, given, **more)
        id = found.answer.handover.id  # noqa: A001
        newest.update((message.type, message) for message in found.answer.messages)
        print(f"{luns} LUNs, every {every}th registered, {word}: {found.counts}")
        if word in WINDOW:
            total.update(found.counts)
    assert b.call(inhandover.gates)[f"{inwindow.TARGET}/tpgt_1"] == "1"
    for host in (a, b):
        host.call(inhost.forget_all)
        host.wipe()
    return dict(total)


def test_the_window_reads_and_syncs_no_more_than_it_has_to(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    folder = str(bed.shared / "counted")
    few, more, registered = (counted(a, b, folder, luns, every)
                             for luns, every in ((2, 0), (4, 0), (4, 2)))
    for name, most in MOST_OF_A_LUN.items():
        each, besides = (more[name] - few[name]) / 2, (registered[name] - more[name]) / 2
        assert each <= most, f"{name} of a LUN: {each}"
        assert besides <= MOST_OF_A_REGISTRATION[name], f"{name} of a registration: {besides}"
        assert few[name] - 2 * each <= MOST_BESIDES[name], f"{name} of a target: {few}"
