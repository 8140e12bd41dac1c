"""Fixtures of all tests: hosts with real kernels, booted once a session and clean for each test."""
from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import lab

if TYPE_CHECKING:
    from tests.support.privatebus import Bus

# A shell that runs this in the background has SIGINT ignored, nohup SIGHUP, and so would all that
# tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: Files whose tests share emulated hosts: one worker boots these, and goes through all the files.
EMULATED = ("test_migration", "test_vhost", "test_lab_qemu", "test_vhost_initiator")
#: The files that take longest, longest first.
LONG = (*EMULATED, "test_handover", "test_import", "test_by_file", "test_bad_input", "test_ours",
        "test_service", "test_power", "test_surviving", "test_lab", "test_protocol_model")
HostsOf = Callable[..., list[lab.Host]]
CLIENT = "client"


class Pool:
    """The session's bed: lends booted, clean hosts to one test at a time."""

    def __init__(self) -> None:
        self._bed: lab.Lab | None = None
        self._by_place: dict[tuple[str, int], lab.Host] = {}
        self.used: list[lab.Host] = []

    @property
    def bed(self) -> lab.Lab:
        """The bed, made when the first test wants it."""
        if self._bed is None:
            self._bed = lab.Lab()
        return self._bed

    def take(self, *roles: str, name: str = "") -> list[lab.Host]:
        """One host for each role; a role named twice means two hosts."""
        return self.take_named(*((role, name) for role in roles))

    def take_named(self, *wanted: tuple[str, str]) -> list[lab.Host]:
        """The same for (role, name of the host, or "")."""
        hosts = []
        for index, (role, name) in enumerate(wanted):
            place = name or role, wanted[:index].count((role, name))
            if place not in self._by_place:
                self._by_place[place], = self.bed.add(role, name=name)
            hosts.append(self._by_place[place])
        self.used += [host for host in hosts if host not in self.used]
        self._all_at_once(lambda host: host.alive or host.boot(), hosts)
        return hosts

    def clean(self) -> None:
        """Wipe what the test used.  A host that does not come clean is switched off: the next test
        that wants it gets it freshly booted."""
        used, self.used = self.used, []
        # Initiators first: they log out from targets that are still there.
        used.sort(key=lambda host: host.name != CLIENT)
        errors: list[BaseException] = []

        def wipe(host: lab.Host) -> None:
            try:
                self.bed.heal(host)
                if host.alive:
                    host.wipe()
            except BaseException as error:      # noqa: B902 - the others are wiped all the same
                host.kill()
                errors.append(error)

        self._all_at_once(wipe, [host for host in used if host.name == CLIENT])
        self._all_at_once(wipe, [host for host in used if host.name != CLIENT])
        if self._bed is not None:
            self._bed.empty_storage()
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the bed."""
        if self._bed is not None:
            self._bed.close()

    @staticmethod
    def _all_at_once(work: Callable[[lab.Host], Any], hosts: list[lab.Host]) -> None:
        if hosts:
            with ThreadPoolExecutor(len(hosts)) as pool:
                list(pool.map(work, hosts))


@pytest.fixture
def roots_own() -> Iterator[Path]:
    """A folder that root alone can have another of: no folder on the way is others'.  (pytest's own
    are in /tmp, to which all may write.)"""
    with tempfile.TemporaryDirectory(prefix="lio-handover-test-", dir="/run") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def _pool() -> Iterator[Pool]:
    pool = Pool()
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture
def bed(_pool: Pool) -> Iterator[lab.Lab]:
    """The network, the shared folder and the shared disk of this test's hosts."""
    yield _pool.bed
    _pool.clean()


@pytest.fixture
def hosts(bed: lab.Lab, _pool: Pool) -> HostsOf:
    """`a, b = hosts("oldest", "newest")`: clean hosts with kernels of these roles."""
    return _pool.take


@pytest.fixture
def oldest(hosts: HostsOf) -> lab.Host:
    """A host with the oldest kernel."""
    return hosts("oldest")[0]


@pytest.fixture
def stable(hosts: HostsOf) -> lab.Host:
    """A host with the kernel of the stable release."""
    return hosts("stable")[0]


@pytest.fixture
def newest(hosts: HostsOf) -> lab.Host:
    """A host with the newest kernel."""
    return hosts("newest")[0]


@pytest.fixture(params=lab.ROLES)
def each_host(request: pytest.FixtureRequest, hosts: HostsOf) -> lab.Host:
    """The test runs once with each kernel."""
    return hosts(str(request.param))[0]


@pytest.fixture
def client(bed: lab.Lab, _pool: Pool) -> lab.OpenIscsi:
    """The kernel's iSCSI initiator, on a host of its own."""
    return lab.OpenIscsi(_pool.take("newest", name=CLIENT)[0])


@pytest.fixture(scope="module")
def bus() -> Iterator[Bus]:
    """The service on a private bus."""
    pytest.importorskip("dbus")
    from tests.support.privatebus import Bus
    with tempfile.TemporaryDirectory() as folder:  # of a short path, as a socket's has to be
        made = Bus(Path(folder))
        yield made
        made.stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long tests, too")


def together(nodeid: str) -> str:
    """The name of the tests that one worker runs one after the other: a file's, or all that share
    the emulated hosts."""
    file = nodeid.partition("::")[0]
    return "emulated" if Path(file).stem in EMULATED else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile` takes the files of EMULATED for one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]
    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = together
    return scheduler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what boots kernels; leave the long tests out unless they are wanted.

    Files that take long begin first, and those that boot nothing come last: so no worker waits long
    for the other at the end.
    """
    for item in items:
        if "bed" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.lab)
    booting = {item.path for item in items if item.get_closest_marker("lab")}
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG
               else len(LONG) + (item.path not in booting))
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its hosts' consoles said, and they are kept."""
    report = yield
    pool = getattr(item, "funcargs", {}).get("_pool")
    if report.failed and isinstance(pool, Pool) and pool.used:
        pool.bed.keep_consoles()
        for host in pool.used:
            report.sections.append((f"console of {host.name} ({host.release}), kept in "
                                    f"{host.console}", host.console_tail()))
    return report


def pytest_report_header() -> str:
    """What the tests run on."""
    return f"lab: kernels in {lab.cache_folder()}, tests in {Path(sys.executable)}"
