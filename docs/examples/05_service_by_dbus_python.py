#!/usr/bin/python3
"""The service by D-Bus: start a job, wait for its signal Completed, read what it hands out.

    05_service_by_dbus_python.py TARGET

Needs nothing of lio-handover's but that the service runs.  Prepare changes nothing.
"""
import json
import os
import sys

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

NAME, ROOT = "io.github.lio_handover1", "/io/github/lio_handover1"
target = sys.argv[1]

bus = dbus.SystemBus(mainloop=DBusGMainLoop())
loop = GLib.MainLoop()
ended = set()


def completed(state: str, error: str, path: str) -> None:
    ended.add(path)
    loop.quit()


# Subscribe first: a job may end before its path is here.
bus.add_signal_receiver(completed, "Completed", f"{NAME}.Job", NAME, path_keyword="path")
manager = dbus.Interface(bus.get_object(NAME, ROOT), f"{NAME}.Manager")
path = manager.Prepare([target], dbus.Dictionary({}, signature="sv"))
while path not in ended:
    loop.run()

job = bus.get_object(NAME, path)
properties = job.GetAll(f"{NAME}.Job", dbus_interface=dbus.PROPERTIES_IFACE)
print(f"job {properties['Id']}: {properties['Operation']} {properties['State']}")
if properties["State"] != "done":
    sys.exit(f"{properties['Error'][0]}: {properties['Error'][1]}")
methods = dbus.Interface(job, f"{NAME}.Job")
if properties["Size"]:
    with os.fdopen(methods.Open({}).take(), "rb") as data:
        for finding in json.load(data):
            print(f"{finding['subject']}: {finding['sentence']}")
methods.Release({})
