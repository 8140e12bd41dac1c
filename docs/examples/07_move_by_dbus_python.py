#!/usr/bin/python3
"""Hand a target over to another host by D-Bus: the service here drives it; Ctrl-C takes it back.

    07_move_by_dbus_python.py TARGET HOST [--here NAME] [--guest SOCKET --guest-there SOCKET]

HOST stands in [service] peers of this host's configuration, and so does NAME, which is how HOST
reaches this host.  A guest of QEMU moves with its vhost target: SOCKET is the path of its monitor
(QMP), and of that of the QEMU on HOST, which for example

    ssh -N -L /run/user/1000/there.qmp:/run/vm.qmp HOST

brings here.  This program connects to both and hands the connections in, so it need not be root's:
polkit's action io.github.lio-handover1.write is what it takes.
"""
import argparse
import signal
import socket
import sys

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

NAME, ROOT = "io.github.lio_handover1", "/io/github/lio_handover1"
parser = argparse.ArgumentParser()
for argument in ("target", "host", "--here", "--guest", "--guest-there"):
    parser.add_argument(argument)
args = parser.parse_args()


def connected(path: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    return line


options = {"to": args.host}
if args.here:
    options["here"] = args.here
lines = []  # open until the call is answered; the service has descriptors of its own by then
for option, monitor in (("guest-fds", args.guest), ("guest-there-fds", args.guest_there)):
    if monitor:
        lines.append(connected(monitor))
        options[option] = dbus.Array([dbus.types.UnixFd(lines[-1].fileno())], signature="h")

bus = dbus.SystemBus(mainloop=DBusGMainLoop())
loop = GLib.MainLoop()
ended = set()


def completed(state: str, error: str, path: str) -> None:
    ended.add(path)
    loop.quit()


def changed(interface: str, values: dbus.Dictionary, invalid: dbus.Array, path: str) -> None:
    """Everybody hears signals, so they say that something has changed; who may look asks what."""
    if path == job and "Step" in invalid and path not in ended:
        now = bus.get_object(NAME, job).GetAll(interface, dbus_interface=dbus.PROPERTIES_IFACE)
        number, total, what = now["Step"]
        details = {str(name): str(value) for name, value in now["Details"].items()}
        print(f"{number}/{total} {what} {details}", flush=True)


# Subscribe first: a job may end before its path is here.
job = ""
bus.add_signal_receiver(completed, "Completed", f"{NAME}.Job", NAME, path_keyword="path")
bus.add_signal_receiver(changed, "PropertiesChanged", dbus.PROPERTIES_IFACE, NAME,
                        path_keyword="path", arg0=f"{NAME}.Job")
manager = dbus.Interface(bus.get_object(NAME, ROOT), f"{NAME}.Manager")
job = manager.Move([args.target], dbus.Dictionary(options, signature="sv"))
for line in lines:
    line.close()
methods = dbus.Interface(bus.get_object(NAME, job), f"{NAME}.Job")


def cancel() -> bool:
    print("taking it back, unless the source has released", flush=True)
    methods.Cancel({})
    return True


GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGINT, cancel)
while job not in ended:
    loop.run()

properties = bus.get_object(NAME, job).GetAll(f"{NAME}.Job", dbus_interface=dbus.PROPERTIES_IFACE)
if properties["State"] != "done":
    sys.exit(f"{properties['State']}: {properties['Error'][0]}: {properties['Error'][1]}")
result = properties["Result"]
print(f"{args.target} is on {result['to']}: window {result['window']:.2f} s, of which QEMU says "
      f"{result['downtime']:.3f} s; epoch {result['epoch']}, {result['path']}")
for note in result["notes"]:
    print(note)
methods.Release({})
