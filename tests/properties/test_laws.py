"""Laws that hold for any state, tried on states made by chance: see laws.py."""
from __future__ import annotations

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import qemu
from tests.properties import laws, shrunk
from tests.support import states

LAWS = pytest.mark.parametrize("law", laws.LAWS)


def test_every_attribute_is_made_by_chance_or_not_for_a_reason() -> None:
    assert states.unsaid() == []


@LAWS
def test_a_law_holds(law: str, newest: lab.Host) -> None:
    print(law, newest.call(laws.hold, law, 8, timeout=250))


@pytest.mark.full
@pytest.mark.timeout(1800)
@LAWS
@pytest.mark.parametrize("role", (*lab.ROLES, *qemu.ROLES))
def test_a_law_holds_often(law: str, role: str, hosts: HostsOf) -> None:
    host, = hosts(role)
    examples = 30 if role in qemu.ROLES else 150     # emulated, and slower
    print(law, role, host.call(laws.hold, law, examples, timeout=1750))


@pytest.mark.parametrize("role", ["newest", "oldest", pytest.param(
    "stable", marks=pytest.mark.full)])
def test_what_broke_a_law_once(role: str, hosts: HostsOf) -> None:
    host, = hosts(role)
    found = host.call(shrunk.hold, timeout=120)
    assert {name: wrong for name, (wrong, _seconds) in found.items() if wrong} == {}
    assert max(seconds for _wrong, seconds in found.values()) < 20
