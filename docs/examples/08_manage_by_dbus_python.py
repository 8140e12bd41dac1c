"""Make a target by lio-handoverd, let an initiator in, grow its disk, and delete it again.

    python3 08_manage_by_dbus_python.py /srv/disk.img iqn.1994-05.org.example:me SECRET_FILE

Each call answers once the change is done, or with an error by name; nothing is half done.  Others
than root need polkit's action io.github.lio-handover1.manage.
"""
import os
import sys

import dbus

NAME, ROOT = "io.github.lio_handover1", "/io/github/lio_handover1"


def encode(text: str) -> str:
    """A name as an element of an object's path."""
    return "".join(letter if letter.isascii() and letter.isalnum() else
                   "".join(f"_{byte:02x}" for byte in letter.encode()) for letter in text)


def main(image: str, initiator: str, secret: str) -> None:
    bus = dbus.SystemBus()

    def on(kind: str, path: str) -> dbus.Interface:
        return dbus.Interface(bus.get_object(NAME, path, introspect=False), f"{NAME}.{kind}")

    none = dbus.Dictionary({}, signature="sv")
    manager = on("Manager", ROOT)
    store = manager.CreateBackstore("fileio", "example", dbus.Dictionary(
        {"file_or_dev": image, "size": "64M"}, signature="ss"), none)
    target = manager.CreateTarget("iscsi", "", none)  # of a name that nobody has
    print("made", store, target)

    here = on("Target", f"{ROOT}/targets/{encode(target.strip('/'))}")
    here.AddLun(dbus.UInt32(1), "fileio/example", dbus.Int64(-1), True, none)
    acl = here.AddAcl(dbus.UInt32(1), initiator, True, none)
    name = acl.strip("/").replace("/acls/", "/")
    fd = os.open(secret, os.O_RDONLY)
    on("Acl", f"{ROOT}/acls/{encode(name)}").SetValues(
        dbus.Dictionary({"userid": "me", "password": "@0"}, signature="ss"),
        dbus.Dictionary({"secret-fds": dbus.Array([dbus.types.UnixFd(fd)], signature="h")},
                        signature="sv"))
    os.close(fd)
    print("lets in", initiator)

    disk = on("Backstore", f"{ROOT}/backstores/{encode('fileio/example')}")
    disk.Grow(dbus.UInt64(128 << 20), none)
    print("grew", store)

    try:
        disk.Delete(none)
    except dbus.DBusException as error:  # its name says what to do, and its text is one line
        print(error.get_dbus_name().rpartition(".")[2], error.get_dbus_message())
    here.Delete(none)
    disk.Delete(none)
    print("deleted", target)


if __name__ == "__main__":
    main(*sys.argv[1:4])
