#!/bin/bash
# QEMU 7.2.22 (Debian 12, 1:7.2+dfsg-7+deb12u18+b3): a D-Bus helper of `dbus-vmstate` whose Save() answers with an error
# does not fail the migration on the source.  Seen, without return-path, which is the default: the source says
# "completed" and keeps its guest in "postmigrate"; the destination, which misses the helper's data, exits with 1.  One
# would expect that a state that can't be saved ends in "failed" with the guest running on, as where no helper answers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jeepney==0.9.0
wanted=(qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3
        qemu-system-data=1:7.2+dfsg-7+deb12u18 dbus-daemon=1.14.10-1~deb12u1)
mkdir "$folder/state" "$folder/debs" "$folder/root"
touch "$folder/state/status"
(cd "$folder/debs" && apt-get -qq -o Dir::State::status="$folder/state/status" --no-install-recommends \
    -o Dir::Cache::archives="$folder/debs" --download-only -y install "${wanted[@]}")
for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
cat >"$folder/save.py" <<'PYTHON'
"""Two QEMUs with no disk and a stopped guest; a helper that refuses to save."""
import json
import os
import socket
import subprocess
import sys
import threading
import time

from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_call, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

folder, root = sys.argv[1:]
libraries = ":".join(f"{root}{path}" for path in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"))
loader = [f"{root}/lib64/ld-linux-x86-64.so.2", "--library-path", libraries]
programs = []


def bus(name):
    """A bus of its own; its address."""
    path = f"{folder}/{name}.bus"
    with open(f"{folder}/{name}.conf", "w") as file:
        file.write(f"<busconfig><type>session</type><listen>unix:path={path}</listen><policy context='default'>"
                   "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>")
    programs.append(subprocess.Popen(
        [*loader, f"{root}/usr/bin/dbus-daemon", "--nofork", f"--config-file={folder}/{name}.conf"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    while not os.path.exists(path):
        time.sleep(0.1)
    return f"unix:path={path}"


def helper(address, calls):
    """org.qemu.VMState1 on that bus: it has an Id, and Save() is an error."""
    connection = open_dbus_connection(address)
    connection.send_and_get_reply(message_bus.RequestName("org.qemu.VMState1"))

    def serve():
        while True:
            message = connection.receive()
            if message.header.message_type != MessageType.method_call:
                continue
            member = message.header.fields[HeaderFields.member]
            if member == "GetAll":
                connection.send(new_method_return(message, "a{sv}", ({"Id": ("s", "helper")},)))
            elif member == "Get":
                connection.send(new_method_return(message, "v", (("s", "helper"),)))
            else:
                calls.append(member)
                connection.send(new_error(message, "org.example.Refused", "s", ("there is nothing to save",)))

    threading.Thread(target=serve, daemon=True).start()


class Qemu:
    """One QEMU and its monitor."""

    def __init__(self, name, address, *words):
        self.path = f"{folder}/{name}.qmp"
        self.program = subprocess.Popen(
            [*loader, f"{root}/usr/bin/qemu-system-x86_64", "-L", f"{root}/usr/share/qemu", "-L",
             f"{root}/usr/share/seabios", "-machine", "q35", "-accel", "tcg", "-m", "16", "-nodefaults", "-display",
             "none", "-S", "-qmp", f"unix:{self.path},server=on,wait=off", "-object",
             f"dbus-vmstate,id=state,addr={address},id-list=helper", *words], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "QEMU_MODULE_DIR": f"{root}/usr/lib/x86_64-linux-gnu/qemu"})
        while not os.path.exists(self.path):
            assert self.program.poll() is None
            time.sleep(0.1)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.path)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}))
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                return answer["return"]


here, there, calls = bus("here"), bus("there"), []
helper(here, calls)
helper(there, [])
destination = Qemu("destination", there, "-incoming", f"unix:{folder}/stream")
source = Qemu("source", here)
source("migrate", uri=f"unix:{folder}/stream")
while source("query-migrate").get("status") not in ("completed", "failed"):
    time.sleep(0.1)
print("helper:", *calls)
print("source:", source("query-migrate")["status"], source("query-status")["status"])
print("destination: exit", destination.program.wait(60))
source("quit")
for program in programs:
    program.terminate()
PYTHON
seen=$("$folder/venv/bin/python" "$folder/save.py" "$folder" "$folder/root")
echo "$seen"
wanted="helper: Save
source: completed postmigrate
destination: exit 1"
[ "$seen" = "$wanted" ] || { echo "it is not as it was seen" >&2; exit 1; }
