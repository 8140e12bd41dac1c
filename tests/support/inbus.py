"""What tests of the service run inside a lab host: its system bus, the daemon, and clients."""
from __future__ import annotations

import grp
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lio_handover import dbus_names as names
from lio_handover.client import connection
from lio_handover.kernel.facts import boot_id
from lio_handover.protocol.table import DESTINATION
from lio_handover.records.journal import Handover, Journal
from lio_handover.service.bus import interfaces as bus_interfaces, marshal
from tests.lab import Host, Lab
from tests.support import inhost, samples
from tests.support.inhost import CONFIG as SERVED

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = Path("/etc/lio-handover/lio-handover.conf")
SYSTEM = "unix:path=/run/dbus/system_bus_socket"
_STAGING = threading.Lock()
INSTALLED = Path("/run/lio-handover-tests/installed")
UNIT = CHECKOUT / "etc" / "systemd" / "lio-handoverd.service"
#: The service as it is, but for the patience it has with a freeze.
HURRIED = """
import sys
sys.path.insert(0, "/usr/lib/lio-handover")
from lio_handover.verb_table import HOST_VERBS
HOST_VERBS["freeze"].deadline = 3
from lio_handover.service.main import main
sys.exit(main())
"""
POLKIT = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
POLKIT_NAME = "org.freedesktop.PolicyKit1"
POLKITD = "/usr/lib/polkit-1/polkitd"
NOBODY = 65534
#: What the service may be told to obey where there is no polkit.
GROUP = "games"


def stage(bed: Lab) -> str:
    """A folder with what scripts/install installs, as a package has it: made once, on this machine,
    as that and Python's compiling take a host much longer."""
    folder = bed.folder / "installed"
    with _STAGING:
        if not folder.exists():
            _run(str(CHECKOUT / "scripts" / "install"), "--root", str(folder))
            _run("env", "--unset=PYTHONPYCACHEPREFIX", "python3", "-m", "compileall", "-q",
                 "-s", str(folder), str(folder / "usr/lib/lio-handover/lio_handover"))
    return str(folder)


def install(settings: str, staged: str = "") -> None:
    """The service as it is shipped, into the host's own files: by its own script, or what that has
    staged."""
    CONFIG.parent.mkdir(exist_ok=True)
    INSTALLED.parent.mkdir(exist_ok=True)
    if not INSTALLED.exists():  # since this host was booted
        if staged:
            _run("sh", "-ec", f"cp -a {staged}/* /")
        else:
            _run(str(CHECKOUT / "scripts" / "install"))
        INSTALLED.touch()
    (Path(f"{CONFIG}.d")).mkdir(exist_ok=True)
    (Path(f"{CONFIG}.d") / "lab.conf").write_text(settings)
    _share_compiled()
    _link_library()


def _link_library() -> None:
    """The library for QEMU's monitor, where docs/operations/live-migration.md has it installed."""
    library, there = find_spec("qemu"), Path("/usr/lib/lio-handover/qemu")
    if library and library.submodule_search_locations and not there.is_symlink():
        there.symlink_to(next(iter(library.submodule_search_locations)))


def _share_compiled() -> None:
    """What is installed is what is here: this Python has compiled it, if it keeps that."""
    if sys.pycache_prefix:
        folder = Path(f"{sys.pycache_prefix}/usr/lib")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "lio-handover").exists():
            (folder / "lio-handover").symlink_to(f"{sys.pycache_prefix}{CHECKOUT}")


def sandboxed(unit: str) -> list[str]:
    """The command of a unit with its capabilities, its read-only folders and its environment."""
    told: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            told.setdefault(key, []).extend(value.split())
    assert told["ProtectSystem"] == ["yes"] and "ReadWritePaths" not in told
    mounts = ["mount --rbind /usr /usr; mount -o remount,bind,ro /usr"]
    for folder in told["StateDirectory"] + told.get("RuntimeDirectory", []):
        Path("/run", folder).mkdir(exist_ok=True)
    capabilities = ",".join("+" + one.lower().removeprefix("cap_")
                            for one in told["CapabilityBoundingSet"])
    command = " ".join(told["ExecStart"])
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", "; ".join(mounts) + (
        f"; exec env {' '.join(told['Environment'])} setpriv --no-new-privs "
        f"--bounding-set=-all,{capabilities} /usr/bin/python3 -I {command}")]


def start_bus() -> None:
    """The host's system bus, with the policies that are installed, and without polkit."""
    if os.path.exists(POLKIT):
        os.unlink(POLKIT)
    Path("/run/dbus").mkdir(exist_ok=True)
    Path("/run/dbus/pid").unlink(missing_ok=True)
    _run("dbus-daemon", "--system", "--fork", "--nopidfile")


def wait_for_name(address: str = SYSTEM, seconds: float = 30) -> None:
    import dbus
    until, bus = time.monotonic() + seconds, None
    while bus is None:
        try:
            bus = connect(address)
        except dbus.DBusException:  # its socket is there before it listens
            assert time.monotonic() < until, f"nobody listens at {address}"
            time.sleep(0.02)
    while not bus.name_has_owner(names.BUS_NAME):
        assert time.monotonic() < until, f"nobody owns {names.BUS_NAME}"
        time.sleep(0.02)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
    return done.stdout


class Service:
    """A host with its bus and the daemon running."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.call = host.call

    def start(self, settings: str = SERVED, program: str = "") -> None:
        self.call(install, settings, stage(self.host.bed))
        self.call(start_bus)
        self.restart(program)

    def restart(self, program: str = "") -> None:
        """As its unit has it started, as far as that goes without systemd; or another program in
        place of the daemon."""
        unit = UNIT.read_text()
        if program:
            self.host.call(Path.write_text, Path("/run/daemon"), program)
            unit = re.sub("(?m)^ExecStart=.*", "ExecStart=/run/daemon", unit)
        self.daemon = self.host.popen(self.call(sandboxed, unit))
        self.call(wait_for_name)


# ── clients ──────────────────────────────────────────────────────────────────────────────────

def plain(value: Any) -> Any:
    """What a test can be sent: no types of the bus."""
    return marshal.plain(value)


def connect(address: str = SYSTEM) -> Any:
    import dbus.bus
    made = dbus.bus.BusConnection(address)
    made.set_exit_on_disconnect(False)
    return made


class Client:
    """Calls on a connection of its own; what an error is called."""

    def __init__(self, address: str = SYSTEM) -> None:
        self.bus = connect(address)

    def call(self, path: str, interface: str, member: str, signature: str = "", *args: Any,
             timeout: float = 60) -> Any:
        return self.bus.call_blocking(names.BUS_NAME, path, interface, member, signature, args,
                                      timeout=timeout, byte_arrays=True)

    def error(self, *args: Any, **more: Any) -> str:
        """The name of the error that a call ends with; "" for none."""
        import dbus
        try:
            self.call(*args, **more)
        except dbus.DBusException as error:
            return str(error.get_dbus_name()).removeprefix(names.ERROR)
        return ""

    def manager(self, member: str, signature: str = "a{sv}", *args: Any) -> Any:
        import dbus
        options = dbus.Dictionary({}, signature="sv")
        return self.call(names.ROOT, names.MANAGER, member, signature, *(args or (options,)))

    def objects(self) -> dict[str, list[str]]:
        """Every object and its interfaces."""
        found = {names.ROOT: [*bus_interfaces.STANDARD_NAMES, names.MANAGER, names.OBJECT_MANAGER]}
        there = self.call(names.ROOT, names.OBJECT_MANAGER, "GetManagedObjects")
        return {**found, **{str(path): [str(one) for one in interfaces]
                            for path, interfaces in there.items()}}

    def get(self, path: str, interface: str) -> dict[str, Any]:
        return dict(self.call(path, names.PROPERTIES, "GetAll", "s", interface))

    def job(self, path: str) -> dict[str, Any]:
        """Wait for a job's end; its properties."""
        self.call(path, names.JOB, "Wait", "ta{sv}", 0, {})
        return plain(self.get(path, names.JOB))  # type: ignore[no-any-return]


def forked(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process of its own."""
    import multiprocessing
    fork = multiprocessing.get_context("fork")
    ours, its = fork.Pipe()
    process = fork.Process(target=lambda: its.send(work()))
    process.start()
    its.close()
    try:
        return ours.recv()
    finally:
        process.join()


def as_user(uid: int, work: Callable[..., Any], *args: Any, groups: Sequence[int] = ()) -> Any:
    """What ``work`` returns when another user runs it."""
    def child() -> Any:
        os.setgroups(list(groups))
        os.setgid(uid)
        os.setuid(uid)
        return work(*args)

    return forked(child)


def as_member(work: Callable[..., Any], *args: Any) -> Any:
    """What ``work`` returns when a member of the group runs it, and nobody else."""
    return as_user(NOBODY, work, *args, groups=[grp.getgrnam(GROUP).gr_gid])


def options(given: Mapping[str, Any]) -> Any:
    import dbus
    return dbus.Dictionary(dict(given), signature="sv")


def handover_here(directory: str, state: str = "none", local: Sequence[str] = (),
                  id: str = "11111111-0000-4000-8000-000000000000"  # noqa: A002
                  ) -> Handover:
    """A handover that this host has in its journal, and that is over, or in another state."""
    journal = Journal.create(directory, Handover(
        id, DESTINATION, "", 1, "iscsi",
        (f"iscsi/{samples.IQN}-elsewhere",), peer="a"), {}, local=tuple(local))
    journal.state(state, 1, boot_id())  # one that serves since another boot is shut
    journal.note("said", message="aborted", digest="")
    return journal.handover


# ── what tests ask for ───────────────────────────────────────────────────────────────────────

def targets() -> list[tuple[str, str]]:
    return [(str(name), str(path)) for name, path in Client().manager("ListTargets")]


def without_configfs() -> tuple[str, str, list[str]]:
    """configfs is unmounted under the service: what ListTargets then ends with, what Stale says,
    and which targets still have an object."""
    client = Client()
    client.manager("ListTargets")
    its = ("nsenter", "--mount", "--target=" + str(client.bus.call_blocking(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "GetConnectionUnixProcessID", "s", (names.BUS_NAME,))))
    _run(*its, "umount", "--lazy", "/sys/kernel/config")
    try:
        error = client.error(names.ROOT, names.MANAGER, "ListTargets", "a{sv}", options({}))
        return error, str(client.get(names.ROOT, names.MANAGER)["Stale"]), [
            path for path, interfaces in client.objects().items() if names.TARGET in interfaces]
    finally:
        _run(*its, "mount", "-t", "configfs", "none", "/sys/kernel/config")


def handovers() -> list[tuple[str, str]]:
    return [(str(name), str(path)) for name, path in Client().manager("ListHandovers")]


def get(path: str, interface: str) -> dict[str, Any]:
    return plain(Client().get(path, interface))  # type: ignore[no-any-return]


def export(name: str) -> tuple[dict[str, Any], bytes]:
    """The properties of an export's job, and its document."""
    client = Client()
    path = client.manager("Export", "asa{sv}", [name], options({"allow": ["all-tg-pt"]}))
    job = client.job(path)
    data = b""
    if job["Size"]:
        with os.fdopen(client.call(path, names.JOB, "Open", "a{sv}", {}).take(), "rb") as file:
            data = file.read()
    return job, data


def run(member: str, target: str, given: Mapping[str, Any] = {}) -> dict[str, Any]:  # noqa: B006
    client = Client()
    return client.job(client.manager(member, "asa{sv}", [target], options(given)))


def steps_heard(member: str, target: str) -> list[tuple[int, int, str]]:
    """What our own client is told of a verb's steps while it waits: number, of how many, which."""
    steps: list[tuple[int, int, str]] = []
    connection.Service(connection.connect()).run(
        member, [target], {}, progress=lambda *step: steps.append(step))
    return steps


def run_document(member: str, data: bytes, given: Mapping[str, Any] = {}  # noqa: B006
                 ) -> dict[str, Any]:
    """The job of a verb that takes a document, given as a descriptor."""
    client = Client()
    fd = os.memfd_create("document")
    os.write(fd, data)
    return client.job(client.manager(member, "aha{sv}", descriptors(fd), options(given)))


def descriptors(*fds: int) -> Any:
    import dbus
    return dbus.Array([dbus.types.UnixFd(fd) for fd in fds], signature="h")


_SAMPLES: Mapping[str, Callable[[], Any]] = {
    "s": lambda: "x", "as": lambda: ["iscsi/x"], "ay": lambda: b"x", "t": lambda: 1,
    "u": lambda: 1, "a{sv}": lambda: options({}), "v": lambda: "x",
    "ah": lambda: descriptors(_no_messages()), "x": lambda: -1, "b": lambda: False,
    "a{ss}": lambda: {"unheard": "x"}}


def _no_messages() -> int:
    fd = os.memfd_create("messages")
    os.write(fd, b"[]")
    return fd


def call_everything(uid: int, address: str = SYSTEM, but: str = ""
                    ) -> list[tuple[str, str, str, str]]:
    """Every method of every object called by a user: (path, interface, member, the error of the
    call or of the job that it begins, or ""); ``but`` that one of no object."""
    found: list[tuple[str, str, str, str]] = as_user(
        uid, _call_all, address, Client(address).objects(), but)
    return found


def _call_all(address: str, objects: Mapping[str, Sequence[str]], but: str
              ) -> list[tuple[str, str, str, str]]:
    import dbus
    client, known = Client(address), bus_interfaces.load()

    def answer(path: str, interface: str, method: bus_interfaces.Method) -> str:
        try:
            given = client.call(path, interface, method.name, method.takes,
                                *(_SAMPLES[one]() for one in marshal.split(method.takes)))
            if method.gives != "o":
                return ""
            client.call(given, names.JOB, "Wait", "ta{sv}", 20000000, options({}))
            name = client.get(given, names.JOB)["Error"][0]
        except dbus.DBusException as error:
            name = error.get_dbus_name()
        return str(name).removeprefix(names.ERROR)

    return [(path, interface, method.name, answer(path, interface, method))
            for path, interfaces in objects.items() for interface in interfaces
            for method in known[interface].methods.values() if method.name != but]


# ── polkit ───────────────────────────────────────────────────────────────────────────────────

@contextmanager
def polkit(address: str, told: Mapping[str, str], delay: float = 0.0, seen: str = ""
           ) -> Iterator[None]:
    """Somebody who answers as polkit does: action, or UID:action → yes or challenge, or wait, which
    is not answered; no to all others.  ``seen``: a file that gets a line of JSON for each call."""
    program = subprocess.Popen([sys.executable, "-m", "tests.support.inbus", "--polkit", address,
                                json.dumps(told), str(delay), seen], cwd=CHECKOUT)
    try:
        bus, until = connect(address), time.monotonic() + 20
        while not bus.name_has_owner(POLKIT_NAME):
            assert time.monotonic() < until
            time.sleep(0.02)
        yield
    finally:
        program.terminate()
        program.wait()


def start_polkit(rule: str) -> None:
    """polkit itself, with a rule of this host's administrator."""
    Path("/etc/polkit-1/rules.d").mkdir(parents=True, exist_ok=True)
    Path("/etc/polkit-1/rules.d/10-test.rules").write_text(rule)
    subprocess.Popen([POLKITD, "--no-debug"], stdin=subprocess.DEVNULL)
    bus, until = connect(), time.monotonic() + 20
    while not bus.name_has_owner(POLKIT_NAME):
        assert time.monotonic() < until
        time.sleep(0.05)


def begin_session(uid: int, active: bool) -> None:
    """A session of a user at this host's seat, as systemd-logind writes it (sd-login(3))."""
    for folder in ("sessions", "users", "seats", "machines"):
        Path("/run/systemd", folder).mkdir(parents=True, exist_ok=True)
    if not Path("/sys/fs/cgroup/cgroup.procs").exists():
        _run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    Path(_scope(uid)).mkdir(parents=True, exist_ok=True)
    state = "active" if active else "online"
    Path("/run/systemd/sessions", str(uid)).write_text(
        f"UID={uid}\nACTIVE={int(active)}\nSTATE={state}\nREMOTE=0\nTYPE=tty\nCLASS=user\n"
        "SEAT=seat0\nVTNR=1\n")
    Path("/run/systemd/users", str(uid)).write_text(f"STATE={state}\n")  # which polkit asks for


def _scope(uid: int) -> str:
    return f"/sys/fs/cgroup/user.slice/user-{uid}.slice/session-{uid}.scope"


def in_session(uid: int, work: Callable[..., Any], *args: Any) -> Any:
    """What ``work`` returns when a user runs it in its session."""
    def child() -> Any:
        Path(_scope(uid), "cgroup.procs").write_text(str(os.getpid()))
        return as_user(uid, work, *args)

    return forked(child)


def told_of_actions(target: str, job: int) -> dict[str, str]:
    """What a user is answered who looks, changes, has things moved, wants a document, vouches."""
    client, path = Client(), f"{names.ROOT}/jobs/{job}"

    def manager(member: str, what: Sequence[str], given: Mapping[str, Any] = {}  # noqa: B006
                ) -> str:
        return client.error(names.ROOT, names.MANAGER, member, "asa{sv}", what, options(given))

    return {
        "ListTargets": client.error(names.ROOT, names.MANAGER, "ListTargets", "a{sv}",
                                    options({})),
        "Freeze": manager("Freeze", ["iscsi/iqn.2003-01.org.example:none"]),
        "Remove": manager("Remove", ["iscsi/iqn.2003-01.org.example:none"]),
        "Move": manager("Move", [target], {"to": "elsewhere"}),
        "Open": client.error(path, names.JOB, "Open", "a{sv}", options({})),
        "Read": client.error(path, names.JOB, "Read", "tua{sv}", 0, 10, options({})),
        "peer": manager("PrepareHandover", [target], {"peer": "elsewhere"}),
        "handover": manager("Freeze", [target], {"allow": ["handover"]}),
        "force": client.error(names.ROOT, names.MANAGER, "RecoverHandovers", "a{sv}",
                              options({"peer-is-fenced": True}))}


def compared(document: bytes) -> dict[str, Any]:
    """What the verbs that compare a document tell: whether all is the same, by Diff the names of
    what differs, or the error."""
    told: dict[str, Any] = {}
    for member in ("Diff", "Plan", "Verify", "Import"):
        job = run_document(member, document, {"allow": ["reserved"]} if member == "Import" else {})
        told[member] = str(job["Error"][0]).removeprefix(names.ERROR) or job["Result"].get(
            "same", job["Result"].get("writes"))
        if member == "Diff" and job["Size"]:
            path, client = f"{names.ROOT}/jobs/{job['Id']}", Client()
            data = client.call(path, names.JOB, "Read", "tua{sv}", 0, 1 << 20, options({}))
            told["differs"] = sorted({change.get("name", change["object"])
                                      for change in json.loads(bytes(data))})
    return told


def serve_polkit(address: str, told: Mapping[str, str], delay: float, seen: str = "") -> None:
    import dbus.bus
    import dbus.lowlevel
    from dbus.mainloop.glib import DBusGMainLoop
    from gi.repository import GLib
    bus = dbus.bus.BusConnection(address, mainloop=DBusGMainLoop())
    users: dict[str, int] = {}

    def note(**call: Any) -> None:
        if seen:
            with open(seen, "a") as file:
                file.write(json.dumps(call) + "\n")

    def came(_connection: Any, call: Any) -> None:
        if call.get_member() == "CancelCheckAuthorization":
            note(cancelled=str(call.get_args_list()[0]))
            bus.send_message(dbus.lowlevel.MethodReturnMessage(call))
            return
        (kind, subject), action, details, flags, question = call.get_args_list()
        assert (kind, set(subject)) == ("system-bus-name", {"name"})
        name = str(subject["name"])
        if name not in users:
            users[name] = bus.get_unix_user(name) if bus.name_has_owner(name) else -1
        note(user=users[name], action=str(action), details=plain(details), flags=int(flags),
             question=str(question))
        answer = told.get(f"{users[name]}:{action}", told.get(str(action), "no"))
        reply = dbus.lowlevel.MethodReturnMessage(call)
        reply.append((answer == "yes", answer == "challenge", {}), signature="(bba{ss})")
        if not delay and answer != "wait":
            bus.send_message(reply)
        elif answer != "wait":
            GLib.timeout_add(int(delay * 1000), lambda: bus.send_message(reply) and False)

    bus._register_object_path("/org/freedesktop/PolicyKit1/Authority", came, None)
    bus.request_name(POLKIT_NAME)
    GLib.MainLoop().run()


def looks() -> int:
    """How many files and folders the service opens to see what the host has, while it is told of
    each backstore and ACL that comes or goes."""
    from lio_handover.local.survey import listing, survey
    seen: list[str] = []
    one = inhost.core()
    listed = listing(one)
    sys.addaudithook(lambda event, _: seen.append(event) if event in (
        "open", "os.listdir", "os.scandir") else None)
    assert survey(one, False, listed)["targets"]
    return len(seen)


# ── while something else is going on ─────────────────────────────────────────────────────────

@contextmanager
def _held(client: Client, data: bytes, target: str) -> Iterator[str]:
    """The job of an import, held between two steps with its target half made."""
    fd = os.memfd_create("document")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    job = str(client.manager("Import", "aha{sv}", descriptors(fd), options({})))
    while not os.path.isdir(target):
        time.sleep(0.001)
    process = client.get(job, names.JOB)["Process"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield job
    finally:
        os.kill(process, signal.SIGCONT)


def cancelled_import(data: bytes, target: str) -> dict[str, Any]:
    """The job of an import that is cancelled when its target is half made."""
    client = Client()
    with _held(client, data, target) as job:
        client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
        assert client.get(job, names.JOB)["State"] == "cancelling" and os.path.isdir(target)
    return client.job(job)


def held_import(data: bytes, target: str, argv: Sequence[str]) -> dict[str, Any]:
    """An import held between two steps, with its target half made: what every other call is
    answered meanwhile, and what the command line says that wants to change it alone."""
    client = Client()
    with _held(client, data, target) as job:
        started = time.monotonic()
        answers = call_everything(0, but="Cancel")
        seconds = time.monotonic() - started
        alone = subprocess.run(argv, capture_output=True, text=True)
        during = client.get(job, names.JOB)
    return {"state": during["State"], "step": plain(during["Step"]), "answers": answers,
            "seconds": seconds, "alone": (alone.returncode, alone.stderr),
            "ended": client.job(job)}


def mount_stuck(folder: str) -> None:
    """A disk of this host's own at ``folder``: ext4, which `stick` can have wait for ever."""
    _run("modprobe", "loop")
    Path("/run/stuck.disk").write_bytes(b"")
    os.truncate("/run/stuck.disk", 32 << 20)
    _run("mkfs.ext4", "-q", "-F", "/run/stuck.disk")
    _run("mount", "-o", "loop", "/run/stuck.disk", folder)


def stick(folder: str, stuck: bool) -> None:
    """Let whoever writes to the disk wait in the kernel from now on, where no signal ends it."""
    _run("fsfreeze", "--freeze" if stuck else "--unfreeze", folder)


def unmount_stuck(folder: str) -> None:
    subprocess.run(["fsfreeze", "--unfreeze", folder], capture_output=True)
    _run("umount", "--lazy", folder)
    Path("/run/stuck.disk").unlink()


def begin(member: str, target: str) -> str:
    """The job of a verb that is not waited for."""
    return str(Client().manager(member, "asa{sv}", [target], options({})))


def prepare(target: str, given: Mapping[str, Any] = {},  # noqa: B006
            address: str = SYSTEM) -> dict[str, Any]:
    """The job of a handover's first verb."""
    client = Client(address)
    return client.job(client.manager("PrepareHandover", "asa{sv}", [target], options(given)))


def begin_handover(target: str, verb: str) -> tuple[str, str]:
    """(handover, job) of a verb of the source, once it is prepared."""
    client, prepared = Client(), prepare(target)
    return prepared["Handover"], object_verb(client, prepared["Handover"], verb)


def handover_verb(handover: str, verb: str, given: Mapping[str, Any] = {},  # noqa: B006
                  address: str = SYSTEM) -> dict[str, Any]:
    client = Client(address)
    return client.job(object_verb(client, handover, verb, given))


def object_verb(client: Client, handover: str, verb: str,
                given: Mapping[str, Any] = {}) -> str:  # noqa: B006
    """The job of a verb of a handover's object, of the other side having said nothing."""
    takes = bus_interfaces.load()[names.HANDOVER].methods[verb].takes
    said = [descriptors()] if takes == "aha{sv}" else []
    return str(client.call(names.path(names.HANDOVERS, handover), names.HANDOVER, verb, takes,
                           *said, options(given)))


def wait_for(job: str, name: str, wanted: str, seconds: float = 30) -> dict[str, Any]:
    """A job's properties once what one of them says matches."""
    until = time.monotonic() + seconds
    while True:
        found = get(job, names.JOB)
        if re.search(wanted, found[name]):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.1)


def cancelled(job: str) -> str:
    """How a job ends that is told to."""
    client = Client()
    client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
    return str(client.job(job)["State"])


def answer_times(data: bytes, idle: int = 300) -> dict[str, list[float]]:
    """Seconds that calls take, sorted: of so many while nothing happens, and of all that fit
    into an import of the document."""
    client = Client()

    def once() -> float:
        started = time.perf_counter()
        client.get(names.ROOT, names.MANAGER)
        client.call(names.ROOT, names.OBJECT_MANAGER, "GetManagedObjects")
        return time.perf_counter() - started

    found = {"idle": sorted(once() for _ in range(idle)), "busy": []}
    fd = os.memfd_create("document")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    job = client.manager("Import", "aha{sv}", descriptors(fd), options({}))
    while client.get(job, names.JOB)["State"] == "running":
        found["busy"].append(once())
    found["busy"].sort()
    ended = client.job(job)
    assert ended["State"] == "done", ended
    return found


def p99(times: Sequence[float]) -> float:
    """Of sorted seconds."""
    return times[min(len(times) - 1, len(times) * 99 // 100)]


def wait_for_port(address: str, port: int) -> None:
    import socket
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((address, port), 5).close()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


def forward(port: int) -> None:
    """The system bus by TCP: a line on which descriptors can't travel, as by ssh."""
    import socket
    import threading

    def pump(one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)

    with socket.create_server(("", port)) as server:
        while True:
            client = server.accept()[0]
            bus = socket.socket(socket.AF_UNIX)
            bus.connect(SYSTEM.partition("=")[2])
            for pair in ((client, bus), (bus, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "--forward":
        forward(int(sys.argv[2]))
    else:
        serve_polkit(sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
