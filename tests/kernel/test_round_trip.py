"""A round trip with every writable file off its default: whole trees are compared file by file."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import differences, qemu
from tests.lab.differences import Difference
from tests.support import everything

pytestmark = pytest.mark.timeout(900)
VHOST = ("vhost-oldest", "vhost-newest")
#: What the round trip has on purpose, and a handover of it must be told to go on with.
ON_PURPOSE = ("hidden", "pgr-passthrough", "unclear", "all-tg-pt", "reserved", "relative-port")


class Trip:
    """Hosts that hand everything to each other."""

    def __init__(self, shared: str, roles: Sequence[str], hosts: Sequence[lab.Host]) -> None:
        self.shared, self.roles = shared, list(roles)
        self.hosts = dict(zip(roles, hosts))
        self.vhost = roles[0] in qemu.ROLES
        self.more = {role: host.call(everything.second_disk) for role, host in self.hosts.items()}
        self.used: Counter[str] = Counter()
        for host in hosts:
            host.call(everything.furnish)

    def export(self, role: str, common: str) -> tuple[bytes, dict[str, str]]:
        """(document, tree) of everything on one host, which is empty again; ``common`` is the role
        of the kernel that has to take it."""
        host = self.hosts[role]
        refused, untouched = host.call(
            everything.build, self.shared, qemu.DISK if self.vhost else "/dev/ubda",
            self.more[role], "" if common == role else common.removeprefix("vhost-"),
            "vhost" if self.vhost else "iscsi")
        missed = [one for one in untouched if not differences.excused(one)
                  and (common == role or one not in everything.LATER)]
        assert not missed, f"on {role} nothing was off its default: {missed}; refused: {refused}"
        before = host.call(everything.tree)
        host.call(everything.freeze, ON_PURPOSE)
        document = host.call(everything.export, ON_PURPOSE)
        self.remove(role)
        return document, before

    def remove(self, role: str) -> None:
        self.hosts[role].call(everything.remove, ON_PURPOSE, timeout=120)
        self.hosts[role].call(everything.reset)

    def move(self, role: str, document: bytes, before: dict[str, str], name: str
             ) -> list[Difference]:
        """Import it, and take it away again: what differs and no row explains."""
        self.hosts[role].call(everything.import_, document, ON_PURPOSE, timeout=120)
        after = self.hosts[role].call(everything.tree)
        self.remove(role)
        found = differences.of_trees(before, after)
        rows = {id(one): differences.reason(one) for one in found}
        counts = Counter(row.what for row in rows.values() if row)
        self.used += counts
        print(f"{name}: {len({*before, *after})} files, {len(found)} differ: "
              + "; ".join(f"{count} {what}" for what, count in sorted(counts.items())))
        return [one for one in found if rows[id(one)] is None]

    def pairs(self, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Move it between these; every difference that no row explains."""
        documents: dict[tuple[str, str], tuple[bytes, dict[str, str]]] = {}
        for source, there in wanted:
            common = min(source, there, key=self.roles.index)
            if (source, common) not in documents:
                documents[source, common] = self.export(source, common)
        return [f"{source} to {there}: {one.question}: {one.a!r} became {one.b!r}"
                for source, there in wanted
                for one in self.move(there, *documents[source, min(
                    source, there, key=self.roles.index)], f"{source} to {there}")]


def test_everything_moves_to_an_older_kernel(bed: lab.Lab, hosts: HostsOf) -> None:
    roles = ("oldest", "newest")
    trip = Trip(str(bed.shared), roles, hosts(*roles))
    assert not trip.pairs([("newest", "oldest")])


@pytest.mark.full
@pytest.mark.parametrize("roles", [lab.ROLES, VHOST], ids=["iscsi", "vhost"])
def test_everything_moves_between_all_kernels(roles: Sequence[str], bed: lab.Lab,
                                              hosts: HostsOf) -> None:
    trip = Trip(str(bed.shared), roles, hosts(*roles))
    wrong = trip.pairs([(a, b) for a in roles for b in roles])
    assert not wrong, "\n".join(wrong)
    if not trip.vhost:      # no row of the table is there for nothing
        assert {row.what for row in differences.FILES} == set(trip.used)
