"""The daemon from start to end: one connection to the bus, one main loop."""
from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any, Optional, Sequence

import dbus
import dbus.bus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

from .. import __version__, dbus_names, errors, settings
from ..kernel.facts import boot_id
from ..protocol.authentication import has_key
from ..records import state_folder
from ..system.journald import NOTICE, Log
from .bus import interfaces
from .bus.dispatcher import ObjectTree
from .bus.polkit import Authority
from .follower import Follower
from .inventory import Inventory, PutOff
from .jobs import Jobs
from .manager import Manager
from .requests import Requests
from .uploads import Uploads
from .watcher import Watcher

PROG = "lio-handoverd"
DESCRIPTION = f"""\
Serves handovers of Linux SCSI targets on the system bus as {dbus_names.BUS_NAME}.

Every verb of lio-handover that changes this host is a method there and returns a job, whose signal
Completed says that it has ended.  While the service runs, lio-handover asks it to do the work.  The
service also looks after the targets of handovers: what this host may not serve it shuts, and it
keeps a copy of registrations that the kernel has just written.

Callers that are not root need a polkit action of io.github.lio-handover1 (read, write, document,
force).  SIGTERM ends the service once what is being changed is whole again.
"""


class Daemon:
    """The service on one connection."""

    def __init__(self, connection: Any, config: str, log: Log, bus: str) -> None:
        self.connection, self.log, self.marked = connection, log, bus == "system"
        self.loop = GLib.MainLoop()
        self.code = 0
        limits = settings.load(config) if config else settings.load()
        state_folder.check(limits.state_directory, limits.key)
        self.tree = ObjectTree(connection, interfaces.load(), Authority(connection, limits.group),
                               log)
        self.inventory = Inventory(self.tree, config, limits.state_directory, log)
        self.follower = Follower(config, log)
        self.watcher = Watcher(config, os.path.join(limits.state_directory, "handovers"), log)
        self.looked = PutOff(self._looked)
        self.inventory.looked = self.looked
        self.jobs = Jobs(self.tree, log)
        self.jobs.stands, self.jobs.workers.hurried = self.inventory.stands, self._hurried
        self.tree.refresh, self.inventory.hurried = self.inventory.refresh, self._hurried
        requests = Requests(self.jobs, Uploads(limits.document_bytes), config, _address(bus),
                            lambda: has_key(limits))
        self.inventory.requests = requests
        self.tree.add(Manager(self.tree, self.inventory, requests, boot_id()))

    def run(self) -> int:
        """Own the bus name and serve; the exit code.  Raises NoService where another process owns
        the name."""
        for number in (signal.SIGTERM, signal.SIGINT):
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, self._stop)
        self.connection.set_exit_on_disconnect(False)
        self.connection.call_on_disconnection(self._disconnected)
        if self.connection.request_name(dbus_names.BUS_NAME, dbus.bus.NAME_FLAG_DO_NOT_QUEUE) \
                != dbus.bus.REQUEST_NAME_REPLY_PRIMARY_OWNER:
            raise errors.NoService(f"another process owns {dbus_names.BUS_NAME}",
                                   do="systemctl status lio-handoverd")
        self.inventory.refresh(lambda: None)
        self.jobs.workers.spare.prepare()
        self.follower.start()
        self.watcher.start()
        self._mark(True)
        self.log.say(f"{PROG} {__version__} is {dbus_names.BUS_NAME}", NOTICE)
        try:
            self.loop.run()
        finally:
            self._mark(False)
        return self.code

    def _hurried(self, ended: bool) -> None:
        for put_off in (self.inventory.unasked, self.looked, self.follower.look):
            put_off.hurry(ended)

    def _looked(self) -> None:
        self.follower.look()
        self.watcher.look()

    def _disconnected(self, _connection: Any) -> None:
        self.log.warn("the bus is gone")
        self.code = errors.NoService.code
        self._stop()

    def _stop(self) -> bool:
        """End once the running jobs have ended: first the moves, which need the service until then
        to go back, or to finish a handover whose source has released."""
        if not self.jobs.ending:
            self.jobs.ending = True
            for job in self.jobs.moves():
                self.log.warn(f"{PROG} ends: job {job.number}, a move, is taken back, or finished "
                              "where the source has released; what that leaves open, "
                              "`lio-handover recover` ends", handover=job.handover)
                if job.child:
                    job.child.signal(signal.SIGTERM)
            if not self._moves_ended():
                GLib.timeout_add(50, lambda: not self._moves_ended())
        return True

    def _moves_ended(self) -> bool:
        """Whether no move runs any more; then take no new calls, and end all other jobs."""
        if self.jobs.moves():
            return False
        try:
            self.connection.release_name(dbus_names.BUS_NAME)
        except dbus.DBusException:
            pass  # the bus is gone
        self.inventory.stop()
        self.follower.stop()
        self.watcher.stop()
        self.jobs.workers.dismiss()
        for job in self.jobs.running():
            if job.child:
                job.child.signal(signal.SIGTERM)
        GLib.timeout_add(50, self._ended)
        return True

    def _ended(self) -> bool:
        if self.jobs.running() or self.watcher.busy:
            return True
        self.loop.quit()
        return False

    def _mark(self, there: bool) -> None:
        """Create or remove the file that tells clients on this host that the service runs."""
        if not self.marked:
            return
        try:
            if there:
                os.makedirs(os.path.dirname(dbus_names.RUNNING), 0o755, exist_ok=True)
                with open(dbus_names.RUNNING, "w") as file:
                    file.write(f"{os.getpid()}\n")
            else:
                os.unlink(dbus_names.RUNNING)
        except OSError:
            pass  # the command line works alone then


def connection(bus: str) -> Any:
    """A private connection to a bus: ``system``, ``session`` or an address."""
    known = {"system": dbus.bus.BUS_SYSTEM, "session": dbus.bus.BUS_SESSION}
    return dbus.bus.BusConnection(known.get(bus, bus), mainloop=DBusGMainLoop())


def _address(bus: str) -> str:
    """How a worker reaches the same bus: an address, "" for the system's."""
    return {"system": "", "session": os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")}.get(bus, bus)


def parser() -> argparse.ArgumentParser:
    """The parser of the service's command line; lio-handoverd(8) is made from it."""
    commands = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands.add_argument("--version", action="version", version=f"{PROG} {__version__}",
                          help="show the version and end")
    commands.add_argument("--bus", default="system", metavar="BUS",
                          help="system (the default), session, or the address of a bus")
    commands.add_argument("--config", default="", metavar="FILE",
                          help="instead of /etc/lio-handover/lio-handover.conf")
    return commands


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    args = parser().parse_args(argv)
    os.umask(0o077)
    try:
        return Daemon(connection(args.bus), args.config, Log(), args.bus).run()
    except errors.HandoverError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return error.code
    except dbus.DBusException as error:
        no = errors.NoService(f"the bus can't be used: {error.get_dbus_message()}",
                              do="systemctl status dbus, and see the bus policy")
        print(f"{PROG}: {no}", file=sys.stderr)
        return no.code
