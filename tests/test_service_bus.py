"""The service on a private bus of this machine, which has no target: what needs no kernel."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lio_handover import cli, names, transitions
from tests import inbus
from tests.inbus import CHECKOUT, NOBODY, Client, descriptors, options

dbus = pytest.importorskip("dbus")
contract = pytest.importorskip("lio_handover.service.contract")

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
  {more}
</busconfig>
"""
POLICY = CHECKOUT / "etc" / "dbus-1" / "io.github.lio_handover1.conf"


class Bus:
    """A private bus with the shipped policy, and the daemon on it."""

    def __init__(self, folder: Path, more: str = "", settings: str = "") -> None:
        folder.chmod(0o755)
        self.folder, self.address = folder, f"unix:path={folder}/bus"
        (folder / "bus.conf").write_text(BUS.format(folder=folder, policy=POLICY, more=more))
        self.config = folder / "lio-handover.conf"
        self.config.write_text(f"[host]\nstate_directory = {folder}/state\n{settings}")
        self._programs = [subprocess.Popen(
            ["dbus-daemon", "--nofork", f"--config-file={folder}/bus.conf"])]
        while not (folder / "bus").exists():
            time.sleep(0.01)
        (folder / "bus").chmod(0o777)
        self.daemon = self.start()
        inbus.wait_for_name(self.address)

    def start(self) -> subprocess.Popen[Any]:
        with (self.folder / "log").open("ab") as log:
            self._programs.append(subprocess.Popen(
                [sys.executable, str(CHECKOUT / "scripts" / "lio-handoverd"),
                 "--bus", self.address, "--config", str(self.config)], stderr=log))
        return self._programs[-1]

    def client(self) -> Client:
        return Client(self.address)

    def stop(self) -> None:
        for one in reversed(self._programs):
            one.terminate()
            one.wait(20)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("bus"))
    yield made
    made.stop()


@pytest.fixture
def client(bus: Bus) -> Client:
    return bus.client()


# ── the contract ─────────────────────────────────────────────────────────────────────────────

def shape(xml: str) -> dict[str, set[tuple[str, ...]]]:
    """Interface → its members, whatever the order and the comments."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for interface in ElementTree.fromstring(xml.partition("?>")[2] or xml).iter("interface"):
        found[interface.get("name", "")] = {
            (one.tag, one.get("name", ""), one.get("type", ""), *(
                f"{part.tag} {part.get('name')} {part.get('direction', '')} {part.get('type', '')}"
                f"{part.get('value', '')}" for part in one)) for one in interface}
    return found


def test_introspection_is_what_the_files_say(client: Client) -> None:
    shipped: dict[str, set[tuple[str, ...]]] = {}
    for file in [*Path(contract.FOLDER).glob("*.xml"), Path(contract.STANDARD)]:
        shipped.update(shape(file.read_text()))
    job = client.manager("Show", "asa{sv}", [], options({}))
    client.job(job)
    objects = client.objects()
    assert job in objects
    for path, interfaces in objects.items():
        told = shape(client.call(path, names.INTROSPECTABLE, "Introspect"))
        assert told == {name: shipped[name] for name in interfaces}, path
        for interface in interfaces:
            properties = client.get(path, interface)
            assert {("property", name) for name in properties} == {
                one[:2] for one in shipped[interface] if one[0] == "property"}, (path, interface)


def test_the_tree_can_be_walked_from_its_root(client: Client) -> None:
    """As busctl tree does: every object is found, and no other."""
    found, left = set(), ["/"]
    while left:
        path = left.pop()
        root = ElementTree.fromstring(client.call(path, names.INTROSPECTABLE, "Introspect"))
        if any(one.get("name") == names.PROPERTIES for one in root.iter("interface")):
            found.add(path)
        left += [f"{path.rstrip('/')}/{one.get('name')}" for one in root.findall("node")]
    assert found == set(client.objects())


def test_the_verbs_are_those_of_the_protocols_table() -> None:
    known = contract.load()
    methods = known[names.HANDOVER].methods
    assert {name.lower() for name in methods} == set(transitions.VERBS)
    for name, method in methods.items():
        assert (method.action, method.takes) == (transitions.VERBS[name.lower()][1], "aha{sv}")
    first = {row.verb for row in transitions.TABLE if row.state in ("idle", "none")}
    manager = known[names.MANAGER].methods
    begun = {name[:-len("Handover")].lower(): one for name, one in manager.items()
             if name.endswith("Handover")}
    assert set(begun) == first | {"status", "recover"}
    for verb, method in begun.items():
        assert method.action == transitions.VERBS[verb][1]
    text = (Path(contract.FOLDER) / f"{names.HANDOVER}.xml").read_text()
    for verb, (_who, action, summary) in transitions.VERBS.items():
        assert summary in text and f'value="{action}"' in text, verb


def test_what_the_xml_says_of_actions_is_what_is_asked(bus: Bus) -> None:
    """The annotation of a verb can't say less than the table; and one-host verbs are the CLI's."""
    from lio_handover.service.hostverbs import HOST_VERBS
    assert set(HOST_VERBS) == set(cli.VERBS) - {"errors"} - set(_OTHER)
    for interface in contract.load().values():
        root = ElementTree.fromstring(interface.text)
        for method in root.iter("method"):
            told = {one.get("value") for one in method.findall("annotation")
                    if one.get("name") == f"{names.BUS_NAME}.Action"}
            assert told == {interface.methods[method.get("name", "")].action}, method.get("name")
    for verb, row in HOST_VERBS.items():
        assert contract.load()[names.MANAGER].methods[verb.capitalize()].action == row.action


#: Verbs of the command line that are not of one host.
_OTHER = ("source", "destination", "status", "recover", "move")


def test_every_polkit_action_is_there() -> None:
    from lio_handover.service.authority import action_id
    root = ElementTree.parse(CHECKOUT / "etc" / "polkit-1" / "io.github.lio-handover1.policy")
    assert {one.get("id") for one in root.iter("action")} == {
        action_id(one) for one in contract.ACTIONS}
    assert {one.text for one in root.iter("allow_any")} <= {"auth_admin", "auth_admin_keep"}
