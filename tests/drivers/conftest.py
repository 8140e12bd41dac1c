"""What the tests of drivers share."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.migration.bench import ROLE, Bench


@pytest.fixture
def bench(bed: lab.Lab, hosts: HostsOf) -> Iterator[Bench]:
    """Two emulated hosts and a guest that moves between them; each line is said at once."""
    made = Bench(bed, hosts(ROLE, ROLE), lambda line: print(line, flush=True))
    try:
        yield made
    finally:
        made.close()
