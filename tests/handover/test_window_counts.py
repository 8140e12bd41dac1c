"""What the verbs between freeze and open ask of the kernel and of the disk, while nobody is served:
counts, which no machine's speed changes, and what each LUN adds to them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import DESTINATION, SOURCE, MessageType
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import WAY
from tests.support import inhandover, inhost, insession, inwindow

#: The verbs up to the open gate, as WAY has them, and those while nobody is served.
VERBS = WAY.split()[:7]
WINDOW = VERBS[2:]
#: What a LUN adds at most, what it adds besides where it has a registration, and a target's own.
MOST_OF_A_LUN = {"files": 350, "folders": 25, "syncs": 4}
MOST_OF_A_REGISTRATION = {"files": 34, "folders": 0, "syncs": 1}
MOST_BESIDES = {"files": 354, "folders": 195, "syncs": 10}

#: The same by sessions, which the service has.
MOST_OF_A_LUN_WARM = {"files": 12, "folders": 0, "syncs": 3}
MOST_OF_A_REGISTRATION_WARM = {"files": 12, "folders": 0, "syncs": 1}
MOST_BESIDES_WARM = {"files": 36, "folders": 72, "syncs": 10}

Counts = dict[str, int]


def counted(a: lab.Host, b: lab.Host, folder: str, luns: int, every: int,
            warm: bool = False) -> Counts:
    """What the move of such a target opens and syncs in the window, on both hosts together;
    ``warm``: by sessions."""
    a.call(inwindow.serve, folder, luns, every)
    hosts, id = {SOURCE: a, DESTINATION: b}, ""  # noqa: A001
    for host in hosts.values() if warm else ():
        host.call(insession.start)
    newest: dict[MessageType, Message] = {}
    total: Counter[str] = Counter()
    for word in VERBS:
        verb, role = word.strip("*"), DESTINATION if "*" in word else SOURCE
        more: dict[str, Any] = {"targets": (inwindow.TARGET,), "mode": "iscsi"} \
            if verb == "prepare" else {}
        given = from_json(to_json([*newest.values()]))
        if warm and verb == "export":
            continue
        if warm:
            more.update(allow=("all-tg-pt",), **({"export": True} if verb == "freeze" else {}))
        found = hosts[role].call(insession.do if warm else inwindow.counted, verb, role, id, given,
                                 **more)
        id = found.answer.handover.id  # noqa: A001
        newest.update((message.type, message) for message in found.answer.messages)
        print(f"{luns} LUNs, every {every}th registered, {word}: {found.counts}")
        if word in WINDOW:
            total.update(found.counts)
    assert b.call(inhandover.gates)[f"{inwindow.TARGET}/tpgt_1"] == "1"
    for host in (a, b):
        if warm:
            host.call(insession.end)
        host.call(inhost.forget_all)
        host.wipe()
    return dict(total)


def within(few: Counts, more: Counts, registered: Counts, of_a_lun: Mapping[str, float],
           of_a_registration: Mapping[str, float], of_a_target: Mapping[str, float]) -> None:
    """Of two LUNs, of four, and of four that have a registration each; what is read once for all of
    these is the target's."""
    for name, most in of_a_lun.items():
        each, besides = (more[name] - few[name]) / 2, (registered[name] - more[name]) // 4
        assert each <= most, f"{name} of a LUN: {each}"
        assert besides <= of_a_registration[name], f"{name} of a registration: {besides}"
        assert few[name] - 2 * each <= of_a_target[name], f"{name} of a target: {few}"


def test_the_window_reads_and_syncs_no_more_than_it_has_to(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    folder = str(bed.shared / "counted")
    few, more, registered = (counted(a, b, folder, luns, every)
                             for luns, every in ((2, 0), (4, 0), (4, 1)))
    within(few, more, registered, MOST_OF_A_LUN, MOST_OF_A_REGISTRATION, MOST_BESIDES)


def test_a_session_reads_what_initiators_can_change_and_no_more(bed: lab.Lab, hosts: HostsOf
                                                                ) -> None:
    a, b = hosts("stable", "newest")
    folder = str(bed.shared / "counted")
    few, more, registered = (counted(a, b, folder, luns, every, True)
                             for luns, every in ((2, 0), (4, 0), (4, 1)))
    within(few, more, registered, MOST_OF_A_LUN_WARM, MOST_OF_A_REGISTRATION_WARM,
           MOST_BESIDES_WARM)
