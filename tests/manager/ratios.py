"""What our hook and our handover cost a guest under libvirt, as ratios within one run."""
from __future__ import annotations

import statistics
from typing import Any

from tests.manager.pair import Pair
from tests.support import inlibvirt
from tests.support.inlibvirt import GUEST, PLAIN

#: The parts of a guest's standing still, in turn: what they are → the host whose QEMU says that the
#: part ends (0: the source), and how it says so; without a handover the guest has three of them.
PARTS = (("libvirt goes on, QEMU finds its helper", 0, "dbus_vmstate_saving"),
         ("Save(), and the way", 1, "dbus_vmstate_post_load"),
         ("QEMU finds its helper there", 1, "dbus_vmstate_loading"),
         ("Load(), other devices", 1, "migrate_set_state new state completed"),
         ("libvirt runs it there", 1, "vm_state_notify running 1"))


def parts(left: list[tuple[float, str]], came: list[tuple[float, str]]) -> list[float]:
    """The seconds of each part of the last migration, of what both QEMUs say (inlibvirt.events)."""
    ends = [max(when for when, words in left if words == "vm_state_notify running 0")]
    for what, number, text in PARTS:
        told = [when for when, words in (left, came)[number] if words.startswith(text)]
        assert told, (what, left, came)
        ends.append(max(told))
    return [round(end - begin, 3) for begin, end in zip(ends, ends[1:])]


def starts(pair: Pair, pairs: int) -> dict[str, Any]:
    """`virsh start` of a guest without a vhost disk: with our hook, and with an empty one."""
    assert pair.virsh(0, "define", data=inlibvirt.xml(PLAIN)) == (0, "")
    ours, empty = pair.call(0, inlibvirt.timed_starts, pairs)
    return {"what": "starts", "ours": statistics.median(ours), "empty": statistics.median(empty),
            "ratio": round(statistics.median(ours) / statistics.median(empty), 3),
            "all": [ours, empty]}


def downtimes(pair: Pair, pairs: int) -> dict[str, Any]:
    """How long a guest stands still: one whose target is handed over, and one without any.  By
    QEMU's own trace of when it stopped and when it ran; both hosts have one clock."""
    times: dict[str, list[float]] = {GUEST: [], PLAIN: []}
    shares: list[list[float]] = []
    for name in times:
        code, said = pair.virsh(0, "create", data=inlibvirt.xml(name))
        assert code == 0, said
    for number in range(pairs + 1):
        for name, found in times.items():
            source = number % 2
            code, said = pair.migrate(source, guest=name)
            assert code == 0, (said, pair.told())
            left, came = (pair.systemd[host].call(inlibvirt.stopped_and_ran, name)
                          for host in (source, 1 - source))
            if number:  # the first one loads what the others find loaded
                found.append(round(came[1] - left[0], 3))
            if number and name == GUEST:
                shares.append(parts(*(pair.systemd[host].call(inlibvirt.events, name)
                                      for host in (source, 1 - source))))
        pair.until(inlibvirt.state, *(("retired", "confirmed") if not source
                                      else ("confirmed", "retired")))
    ours, plain = times[GUEST], times[PLAIN]
    return {"what": "downtimes", "ours": statistics.median(ours),
            "without": statistics.median(plain),
            "ratio": round(statistics.median(ours) / statistics.median(plain), 3),
            "parts": {what: statistics.median(share) for (what, _, _), share
                      in zip(PARTS, zip(*shares))},
            "all": [ours, plain]}
