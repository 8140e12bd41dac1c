"""The answers of those who are asked: another host's service, and a guest's monitor; and what
callers of the service, and people, type."""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from lio_handover import dbus_names, errors
from lio_handover.cli import parser
from lio_handover.client import ssh
from lio_handover.drivers import guest as guest_module, guest_checks
from lio_handover.drivers.guest import Guest, Monitors
from lio_handover.hooks import domain, peers as asked
from lio_handover.protocol.messages import is_id
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.verb_table import VERBS
from tests.support import inhooks, samples

WWPN = "naa.5001405000000001"


# ---- a monitor ---------------------------------------------------------------------------------
def monitors() -> Sequence[Any]:
    """What a QEMU answers: command → answer, for `qom-get` and `qom-list` by their path."""
    properties = {"type": "vhost-scsi-pci", "wwpn": WWPN, "migratable": True, "num_queues": 4,
                  "boot_tpgt": 1}
    return [{
        "query-status": {"status": "running", "running": True},
        "query-migrate": {"status": "pre-switchover", "downtime": 12, "expected-downtime": 300,
                          "blocked-reasons": ["vhost-scsi can't"], "error-desc": "Unable to write",
                          "socket-address": [{"host": "0.0.0.0", "port": "4444", "type": "inet"}],
                          "ram": {"total": 1 << 30, "remaining": 4096, "transferred": 99,
                                  "dirty-sync-count": 2}},
        "query-cpus-fast": [{"thread-id": 77, "qom-path": "/machine/cpu[0]"}],
        "query-memory-size-summary": {"base-memory": 1 << 30, "plugged-memory": 0},
        "query-target": {"arch": "x86_64"},
        "query-migrate-parameters": {"max-bandwidth": 1 << 27, "downtime-limit": 300},
        "query-migrate-capabilities": [{"capability": name, "state": False}
                                       for name in ("events", "return-path", "multifd",
                                                    "pause-before-switchover", "postcopy-ram")],
        "qom-list": {"/machine/peripheral": [{"name": "d0", "type": "child<vhost-scsi-pci>"}],
                     "/machine/peripheral-anon": [{"name": "type", "type": "string"}],
                     "/machine/peripheral/d0": [{"name": name, "type": "str"}
                                                for name in properties],
                     "/objects": [{"name": "lio", "type": "child<dbus-vmstate>"}]},
        "qom-get": {"/machine": {"type": "pc-q35-9.0-machine"},
                    "/machine/cpu[0]": {"type": "host-x86_64-cpu"},
                    "/machine/peripheral/d0": properties,
                    "/objects/lio": {"id-list": "lio-handover/vm"}}}]


class Monitor:
    """A monitor that answers out of a tree, which somebody changed."""

    name = "the QEMU here"
    heard: Mapping[str, float] = {}

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.asked = 0

    def execute(self, command: str, arguments: Mapping[str, Any] = {},  # noqa: B006
                seconds: float = 0) -> Any:
        self.asked += 1
        try:
            answer = self.answers[command]
            if command == "qom-list":
                return answer[arguments["path"]]
            if command == "qom-get":
                return answer[arguments["path"]][arguments["property"]]
            return answer
        except (KeyError, TypeError, IndexError):
            raise errors.GuestFailed(f"{self.name} refuses {command}: unknown") from None

    def wait_for_event(self, seconds: float) -> None:
        if self.asked > 50:
            raise errors.Interrupted("interrupted")

    def close(self) -> None:
        pass


def read_monitor(tree: Any) -> None:
    """Everything that is made of a QEMU's answers before a guest moves, and while it does."""
    good = guest_checks.ask(Monitor(monitors()[0]))  # type: ignore[arg-type]
    names = {SOURCE: "the QEMU here", DESTINATION: "the QEMU on b"}
    with patch.dict(os.environ, {ssh.TEST_BUSES: "yes"}):  # a real host would be asked of ssh
        guest = Guest(Monitors("/run/a", "/run/b"), names, "unix:path=/run/bus")
    guest._open = {SOURCE: Monitor(tree), DESTINATION: Monitor(tree)}  # type: ignore[dict-item]
    wait = guest_module.Wait(lambda: False, lambda told: _is_line(guest_module.progress(told)), 1)
    failures = []
    for ask in (guest.run_again, guest.hold, guest.let_go, guest.may_have_run,
                *(_bound(guest, name, wait) for name in guest_module.ASKS)):
        for role in (SOURCE, DESTINATION):
            guest._open[role].asked = 0  # type: ignore[attr-defined]
        try:
            ask()
        except errors.HandoverError as error:
            failures.append(error)
    try:
        its = guest_checks.ask(guest._open[SOURCE])
        for pair in (guest_checks.Pair(good, its, {WWPN: WWPN}),
                     guest_checks.Pair(its, good, {WWPN: WWPN})):
            errors.refuse(guest_checks.findings([(names, pair)], {WWPN: WWPN}))
    except errors.HandoverError as error:
        failures.append(error)
    for failure in failures:
        assert len(str(failure)) <= 2000 and str(failure).isprintable(), str(failure)[:3000]


def _bound(guest: Guest, name: str, wait: guest_module.Wait) -> Any:
    return lambda: guest_module.ASKS[name]([guest], SOURCE, wait)


def _is_line(text: str) -> None:
    assert len(text) < 300 and text.isprintable(), text[:1000]


# ---- another host's service --------------------------------------------------------------------
def jobs() -> Sequence[Any]:
    """What a service answers: member → value."""
    about = {"Version": "1.0", "ApiVersion": 4, "DocumentVersion": 1, "Features": ["a"],
             "Host": "b", "BootId": "boot"}
    job = {"State": "done", "Result": {"handovers": [], "targets": ["a"]}, "Size": 4,
           "Error": ["", ""], "Step": [1, 2, "a step"]}
    finding = {"error": "InUse", "subject": "iscsi/a", "sentence": "is in use", "override": "",
               "do": "log out"}
    return [{"about": about, "job": job, "read": ["abcd"], "name": "", "line": ""},
            {"about": about, "job": {
                **job, "State": "failed", "Size": 0, "Result": {"findings": [finding]},
                "Error": [dbus_names.ERROR + "InUse",
                          "it is in use; nothing was changed; next: log out"]},
             "read": [], "name": dbus_names.ERROR + "StaleEpoch", "line": "old; nothing; next: x"}]


def read_service(tree: Any) -> None:
    """The answers as this host's client takes them."""
    from lio_handover.client import connection
    if not isinstance(tree, dict):
        return
    side = ssh.RemoteService("b")
    chunks: Iterator[Any] = iter(tree["read"] if isinstance(tree.get("read"), list) else ())

    def call(path: str, interface: str, member: str, *args: Any, **more: Any) -> Any:
        if member == "GetAll":
            return tree.get("about")
        if member == "Read":
            chunk = next(chunks, b"")
            return chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else chunk
        return None

    with _instead(side, call=call, _wait=lambda *args: tree.get("job")):
        failures = []
        for ask in (lambda: vars(side.about()), lambda: side._finish("/job", None, lambda: False)):
            try:
                told = ask()
                if isinstance(told, dict):
                    assert {type(told["version"]), type(told["host"]), type(told["boot_id"])} \
                        == {str} and {type(told["api"]), type(told["document"])} == {int}, told
                else:
                    assert type(told[0]) is dict and type(told[1]) is bytes
            except errors.HandoverError as error:
                failures.append(error)
        name, line = tree.get("name"), tree.get("line")
        if type(name) is str and type(line) is str:
            failures += [connection.error_from_bus(name, line), side._error_of(name, line)]
    for failure in failures:
        assert len(str(failure)) <= 2000 and str(failure).isprintable(), str(failure)[:3000]


@contextmanager
def _instead(side: Any, **names: Any) -> Iterator[None]:
    for name, value in names.items():
        setattr(side, name, value)
    yield


# ---- calls -------------------------------------------------------------------------------------
def calls() -> Sequence[Any]:
    """(method's verb, arguments, options) of calls of the service."""
    return [{"verb": "prepare", "what": [f"iscsi/{samples.IQN}"], "options": {"allow": ["a"]}},
            {"verb": "import", "what": [], "options": {"map": ["rtpi:1=fresh"], "upload": "a"}},
            {"verb": "move", "what": ["vhost/naa.1"], "options": {
                "to": "b", "resume": "", "mode": "vhost-qmp", "deadline": 10}}]


def read_call(tree: Any) -> None:
    """Arguments and options as the service takes them, before a job is made."""
    from lio_handover.service.bus import marshal
    from lio_handover.service.bus.dispatcher import Call, error_name
    from lio_handover.service.requests import _targets
    if not isinstance(tree, dict) or not isinstance(tree.get("options"), dict):
        return
    row = VERBS.get(tree["verb"]) if isinstance(tree.get("verb"), str) else None
    try:
        options = marshal.plain(tree["options"])
        what = marshal.plain(tree.get("what"))
        marshal.has_descriptor(tree)
        marshal.text(json.dumps(tree))
        method = SimpleNamespace(name="Verb", options={
            name: option.type for name, option in (row.on_bus if row else {}).items()})
        message = SimpleNamespace(get_path=lambda: "/")
        given = Call(None, message, method, None, False).options(options)  # type: ignore[arg-type]
        assert all(type(given[name]) is type(options[name]) for name in options)
        if isinstance(what, list) and all(type(word) is str for word in what):
            _targets(what)
    except (errors.HandoverError, marshal.Wrong) as error:
        name, line = error_name(error)
        assert len(line) <= 2000 and line.isprintable(), line[:3000]


# ---- what people type --------------------------------------------------------------------------
def words() -> Sequence[bytes]:
    return [b"show\niscsi/iqn.2026-11.org.example:target", b"import\n/tmp/a.json\n--dry-run\n"
            b"--map\nrtpi:1=fresh\n--allow\nreserved", b"move\niscsi/iqn.x\n--to\nroot@b\n--mode\n"
            b"vhost-qmp", b"source\nrelease\n11111111-0000-4000-8000-000000000000\n--messages\n"
            b"a.json", b"--json\nstatus", b"recover\n--ask\nssh b lio-handover\n--boot"]


def read_words(data: bytes) -> None:
    from lio_handover.client import forward
    typed = [word.decode(errors="surrogateescape") for word in data.split(b"\n")]
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        try:
            args = parser.parse(typed)
            assert isinstance(args, argparse.Namespace)
        except SystemExit as end:
            assert end.code in (0, 2)
    for word in typed:
        is_id(word)
        dbus_names.encode(word)
        for ask in (lambda: ssh.address(word), lambda: forward.Forwarded("b", word)):
            try:
                ask()
            except errors.BadCall as error:
                assert len(str(error)) <= 2000 and str(error).isprintable(), str(error)[:3000]


# ---- libvirt, and a peer that a hook asks --------------------------------------------------------
def domains() -> Sequence[bytes]:
    """XML of guests."""
    qemu = inhooks.xml(more="<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='vhost-"
                       f"scsi-pci,wwpn={WWPN}'/></qemu:commandline>").replace(
        b"<domain ", b"<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ")
    return [inhooks.xml(devices=inhooks.hostdev()), qemu,
            qemu.replace(f"vhost-scsi-pci,wwpn={WWPN}".encode(),
                         b'{"driver":"vhost-scsi-pci","wwpn":"' + WWPN.encode() + b'"}')]


def read_domain(data: bytes) -> None:
    assert all(name.startswith("vhost/naa.") for name in domain.parse(data).targets)


def peer_answers() -> Sequence[Any]:
    return [{"boot": "b", "targets": [f"vhost/{WWPN}"], "handovers": [
        {"Id": "x", "Role": SOURCE, "State": "prepared", "Mode": "vhost-inband"}]},
        {"error": "does not answer"}]


def read_peer_answer(data: bytes) -> None:
    answer = asked._answer("a", data, [f"vhost/{WWPN}"])
    assert answer.lacks([f"vhost/{WWPN}"]).isprintable() and len(answer.error) < 3000
