"""Functions that run inside a host with the service: targets changed by D-Bus."""
from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lio_handover import dbus_names as names
from lio_handover.cli import quick
from lio_handover.kernel.configfs import Configfs
from tests.support import inbus, inmanage
from tests.support.inmanage import IQN, ME, NAA, SECRET

CHECKOUT = Path(__file__).resolve().parents[2]


class Orchestrator(inbus.Client):
    """Calls of the methods of objects."""

    def of(self, kind: str, name: str, member: str, signature: str = "", *args: Any,
           secrets: tuple[int, ...] = ()) -> str:
        """The answer of a method, or the name of its error with a ! before it."""
        import dbus
        interface = f"{names.BUS_NAME}.{kind}"
        path = names.ROOT if kind == "Manager" else names.path(f"{kind.lower()}s", name)
        options = inbus.options({"secret-fds": inbus.descriptors(*secrets)} if secrets else {})
        try:
            return str(self.call(path, interface, member, signature + "a{sv}", *args, options))
        except dbus.DBusException as error:
            return "!" + str(error.get_dbus_name()).removeprefix(names.ERROR)


def cells(shared: str) -> list[str]:
    """What each method answered that was not as it should be, and what the kernel then shows."""
    Path(SECRET).write_text("secretsecret12\n")
    bus, wrong, fs = Orchestrator(), list[str](), Configfs()
    target, tpg = f"iscsi/{IQN}", f"iscsi/{IQN}/tpgt_1"
    acl = f"{target}/tpg1/{ME}"
    fd = os.open(SECRET, os.O_RDONLY)

    def does(kind: str, name: str, member: str, signature: str, *args: Any, answer: str,
             there: str = "", gone: str = "", says: tuple[str, str] = ("", ""),
             secrets: tuple[int, ...] = ()) -> None:
        told = bus.of(kind, name, member, signature, *args, secrets=secrets)
        if told != answer:
            wrong.append(f"{member}: {told}")
        if there and not fs.exists(there) or gone and fs.exists(gone) \
                or says[0] and says[1] not in fs.read(says[0]):
            wrong.append(f"{member}: {there or gone or says}")

    does("Manager", "", "CreateBackstore", "ssa{ss}", "fileio", "disk0",
         {"file_or_dev": f"{shared}/bus.img", "size": "8M"}, answer="/backstores/fileio/disk0",
         there="core/fileio_0/disk0")
    does("Manager", "", "CreateTarget", "ss", "iscsi", IQN, answer=f"/{target}", there=target)
    does("Target", target, "AddTpg", "x", -1, answer=f"/{target}/tpg2", there=f"{target}/tpgt_2")
    does("Target", target, "RemoveTpg", "u", 2, answer=f"/{target}/tpg2", gone=f"{target}/tpgt_2")
    does("Target", target, "AddPortal", "usu", 1, "198.18.0.99", 3261,
         answer=f"/{target}/tpg1/portals/198.18.0.99:3261", there=f"{tpg}/np/198.18.0.99:3261")
    does("Target", target, "RemovePortal", "usu", 1, "198.18.0.99", 3261,
         answer=f"/{target}/tpg1/portals/198.18.0.99:3261", gone=f"{tpg}/np/198.18.0.99:3261")
    does("Target", target, "AddLun", "usxb", 1, "fileio/disk0", -1, True,
         answer=f"/{target}/tpg1/luns/lun0", there=f"{tpg}/lun/lun_0")
    does("Target", target, "AddAcl", "usb", 1, ME, False, answer=f"/{target}/tpg1/acls/{ME}",
         there=f"{tpg}/acls/{ME}")
    does("Acl", acl, "Map", "ttb", 5, 0, True, answer=f"/{target}/tpg1/acls/{ME}/mapped_lun5",
         says=(f"{tpg}/acls/{ME}/lun_5/write_protect", "1"))
    does("Acl", acl, "Protect", "tb", 5, False, answer=f"/{target}/tpg1/acls/{ME}/mapped_lun5",
         says=(f"{tpg}/acls/{ME}/lun_5/write_protect", "0"))
    does("Acl", acl, "SetValues", "a{ss}", {"userid": "me", "password": "@0"}, secrets=(fd,),
         answer=f"/{target}/tpg1/acls/{ME}", says=(f"{tpg}/acls/{ME}/auth/password", "secretsec"))
    does("Acl", acl, "SetValues", "a{ss}", {"password": "told"}, answer="!BadCall")
    does("Acl", acl, "Unmap", "t", 5, answer=f"/{target}/tpg1/acls/{ME}/mapped_lun5",
         gone=f"{tpg}/acls/{ME}/lun_5")
    does("Target", target, "SetValues", "ua{ss}", 1, {"login_timeout": "20"},
         answer=f"/{target}/tpg1", says=(f"{tpg}/attrib/login_timeout", "20"))
    does("Target", target, "SetValues", "ua{ss}", 1, {"login_timeout": "999"}, answer="!BadValue")
    does("Backstore", "fileio/disk0", "Grow", "t", 16 << 20, answer="/backstores/fileio/disk0",
         says=("core/fileio_0/disk0/info", str(16 << 20)))
    does("Backstore", "fileio/disk0", "AddAluaGroup", "su", "g1", 16,
         answer="/backstores/fileio/disk0/alua/g1", there="core/fileio_0/disk0/alua/g1")
    does("Backstore", "fileio/disk0", "RemoveAluaGroup", "s", "g1",
         answer="/backstores/fileio/disk0/alua/g1", gone="core/fileio_0/disk0/alua/g1")
    does("Backstore", "fileio/disk0", "SetValues", "a{ss}", {"emulate_3pc": "0"},
         answer="/backstores/fileio/disk0", says=("core/fileio_0/disk0/attrib/emulate_3pc", "0"))
    does("Backstore", "fileio/disk0", "Delete", "", answer="!InUse")
    does("Target", target, "RemoveLun", "ut", 1, 0, answer=f"/{target}/tpg1/luns/lun0",
         gone=f"{tpg}/lun/lun_0")
    does("Acl", acl, "Delete", "", answer=f"/{target}/tpg1/acls/{ME}", gone=f"{tpg}/acls/{ME}")
    does("Target", target, "Delete", "", answer=f"/{target}", gone=target)
    does("Backstore", "fileio/disk0", "Delete", "", answer="/backstores/fileio/disk0",
         gone="core/fileio_0/disk0")
    local = f"loopback/{NAA}"
    does("Manager", "", "CreateTarget", "ss", "loopback", NAA, answer=f"/{local}", there=local)
    does("Target", local, "DropNexus", "u", 1, answer=f"/{local}/tpg1/nexus")
    does("Target", local, "SetNexus", "us", 1, inmanage.NEXUS, answer=f"/{local}/tpg1/nexus",
         says=(f"{local}/tpgt_1/nexus", inmanage.NEXUS))
    does("Target", local, "Delete", "", answer=f"/{local}", gone=local)
    os.close(fd)
    inmanage.clean()
    return wrong


def quickly(shared: str) -> list[tuple[int | None, str]]:
    """(exit code, what is said) of commands that the service carries out by one call."""
    inmanage.clean()
    Path(SECRET).write_text("secretsecret12\n")
    answers = []
    for words in (("create", "/backstores/fileio", "disk0", f"{shared}/quick.img", "4M"),
                  ("create", "/backstores/fileio", "disk0", f"{shared}/quick.img"),
                  ("create", "/iscsi", IQN), ("create", f"{inmanage.T}/tpg1/luns", "fileio/disk0"),
                  ("set", f"{inmanage.T}/tpg1", "auth", "userid=me", f"password=@{SECRET}"),
                  ("set", f"{inmanage.T}/tpg1", "auth", "password=told"),
                  ("delete", "/backstores/fileio", "disk0")):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            answers.append((quick.run(words), said.getvalue()))
    assert Configfs().read(f"iscsi/{IQN}/tpgt_1/auth/password").strip() == "secretsecret12"
    inmanage.clean()
    return answers


def heard(shared: str) -> tuple[list[str], list[str]]:
    """The objects that came, and went, as somebody made and removed them without the service."""
    import dbus
    bus = inbus.connect()
    came, went = list[str](), list[str]()
    code = (
        "import sys, dbus, dbus.mainloop.glib\n"
        "from gi.repository import GLib\n"
        "dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)\n"
        "bus = dbus.SystemBus()\n"
        "def told(path, _rest, member=None): print(member, path, flush=True)\n"
        "for name in ('InterfacesAdded', 'InterfacesRemoved'):\n"
        f"    bus.add_signal_receiver(told, name, path='{names.ROOT}', member_keyword='member')\n"
        "print('ready', flush=True)\n"
        "GLib.MainLoop().run()\n")
    listener = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert listener.stdout and listener.stdout.readline() == "ready\n"
    bus.call_blocking(names.BUS_NAME, names.ROOT, names.MANAGER, "ListTargets", "a{sv}",
                      (dbus.Dictionary({}, signature="sv"),))
    for words in (inmanage.STORE, inmanage.TARGET, inmanage.ACL):
        inmanage.call(*(word.replace("{image}", f"{shared}/heard.img") for word in words))
    time.sleep(1.5)
    inmanage.clean()
    time.sleep(1.5)
    listener.terminate()
    for line in listener.stdout:
        member, path = line.split()
        (came if member == "InterfacesAdded" else went).append(names.decode(
            path.rpartition("/")[2]))
    listener.wait()
    return sorted(came), sorted(went)


def example(shared: str) -> str:
    """What the example prints."""
    Path(SECRET).write_text("secretsecret12\n")
    program = CHECKOUT / "docs/examples/08_manage_by_dbus_python.py"
    done = subprocess.run([sys.executable, str(program), f"{shared}/example.img", ME, SECRET],
                          capture_output=True, text=True)
    return done.stdout + done.stderr


def apply(shared: str) -> dict[str, Any]:
    """A file by descriptor: the job's properties."""
    inmanage.clean()
    client = inbus.Client()
    fd = os.memfd_create("file")
    os.write(fd, inmanage.expanded(inmanage.ROWS[0].file[0], f"{shared}/applied.img").encode())
    job = client.job(client.manager("Apply", "aha{sv}", inbus.descriptors(fd), inbus.options({})))
    again = client.job(client.manager("Apply", "aha{sv}", inbus.descriptors(fd),
                                      inbus.options({"prune": True})))
    inmanage.clean()
    return {"first": job["Result"], "again": again["Result"], "error": job["Error"][1]}


def seconds(shared: str) -> tuple[float, float]:
    """Seconds of one call by D-Bus that adds and maps a LUN, and of the same by a command."""
    inmanage.clean()
    for words in (inmanage.STORE, inmanage.TARGET, inmanage.ACL):
        inmanage.call(*(word.replace("{image}", f"{shared}/seconds.img") for word in words))
    bus, target = Orchestrator(), f"iscsi/{IQN}"
    took: list[list[float]] = [[], []]
    for _turn in range(5):
        began = time.monotonic()
        assert bus.of("Target", target, "AddLun", "usxb", 1, "fileio/disk0", -1,
                      True).startswith("/")
        took[0].append(time.monotonic() - began)
        began = time.monotonic()
        subprocess.run(["lio-handover", "create", f"{inmanage.T}/tpg1/luns", "fileio/disk0"],
                       check=True, capture_output=True)
        took[1].append(time.monotonic() - began)
    inmanage.clean()
    return min(took[0]), min(took[1])


# ---- an orchestrator's session -------------------------------------------------------------------
def makes(image: str, initiator: str) -> str:
    """A target with a LUN that an initiator gets; its node."""
    inmanage.clean()
    bus, target = Orchestrator(), f"iscsi/{IQN}"
    for kind, name, member, signature, *args in (
            ("Manager", "", "CreateBackstore", "ssa{ss}", "fileio", "lent",
             {"file_or_dev": image, "size": "8M"}),
            ("Manager", "", "CreateTarget", "ss", "iscsi", IQN),
            ("Target", target, "AddLun", "usxb", 1, "fileio/lent", -1, True),
            ("Target", target, "AddAcl", "usb", 1, initiator, True)):
        told = bus.of(str(kind), str(name), str(member), str(signature), *args)
        assert told.startswith("/"), (member, told)
    return f"/{target}"


def grows(size: int) -> None:
    told = Orchestrator().of("Backstore", "fileio/lent", "Grow", "t", size)
    assert told == "/backstores/fileio/lent", told


def deletes() -> list[str]:
    """What the target, and then its backstore, answers that is to be deleted."""
    bus = Orchestrator()
    return [bus.of("Target", f"iscsi/{IQN}", "Delete"),
            bus.of("Backstore", "fileio/lent", "Delete")]


def served() -> list[str]:
    """The targets and backstores that are left."""
    fs = Configfs()
    return [*(name for name in fs.names("iscsi") if name.startswith("iqn.")),
            *(f"{hba}/{name}" for hba in fs.names("core") if hba != "alua"
              for name in fs.entries(f"core/{hba}")[1])]
