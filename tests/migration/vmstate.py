"""What QEMU's dbus-vmstate object asks for a guest's state: python3 -m tests.migration.vmstate BUS

Save() freezes and exports the host's targets, Load() imports them, one of both after QEMU's own
deadline, which lio-handover-vmstate never does.  A test's helper, no service: it believes whatever
it is given.
"""
from __future__ import annotations

import sys
import time
from typing import Any

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

from tests.support import inhost as pipeline

_NAME = "org.qemu.VMState1"
_ID = "lio-handover"


def _tell(text: str) -> None:
    print(text, flush=True)


def serve(address: str, fail: str, plain: bool = False) -> None:
    """Answer until killed; ``plain``: there is no target."""
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    bus = dbus.bus.BusConnection(address)

    class Helper(dbus.service.Object):   # type: ignore
        @dbus.service.method(_NAME, out_signature="ay")     # type: ignore
        def Save(self) -> Any:
            _tell("Save")
            if fail == "Save refused":
                raise dbus.DBusException("there is nothing to save")
            data = b"nothing"
            if not plain:
                pipeline.freeze()
                data = pipeline.export()
            if fail == "Save late":
                time.sleep(30)
            return dbus.ByteArray(data)

        @dbus.service.method(_NAME, in_signature="ay", byte_arrays=True)    # type: ignore
        def Load(self, data: Any) -> None:
            _tell("Load")
            if fail == "Load late":
                time.sleep(30)
            if fail == "Load refused":
                raise dbus.DBusException("there is nothing to load")
            if not plain:
                pipeline.import_(bytes(data))
                pipeline.verify(bytes(data))
            _tell("loaded")

        @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="ss",  # type: ignore
                             out_signature="v")
        def Get(self, interface: str, name: str) -> Any:
            return _ID

        @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="s",   # type: ignore
                             out_signature="a{sv}")
        def GetAll(self, interface: str) -> Any:
            return {"Id": _ID}

    helper = Helper(bus, "/org/qemu/VMState1")
    bus.request_name(_NAME)
    _tell("ready")
    GLib.MainLoop().run()
    del helper


if __name__ == "__main__":
    serve(f"unix:path={sys.argv[1]}", sys.argv[2], "plain" in sys.argv[3:])
