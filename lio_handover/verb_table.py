"""The verbs and their options, one row each: all else that knows verbs is made from them.

``VERBS`` has what is typed after ``lio-handover`` (and, where ``bus``, the methods of D-Bus that
are the host's); ``HANDOVER_VERBS`` has the steps of a handover between two hosts, which are typed
after ``source`` or ``destination``, and which are the methods of a handover on D-Bus.  A row says
whose verb it is (``role``), which polkit action a call needs (``action``), what it is given
(``takes``), its ``options``, and what `--help` and the D-Bus interface tell of it.

Made from the rows:

* ``cli/parser.py``: the parser, hence `--help`, completion and the man page of lio-handover;
* ``cli/main.py``: which module a verb is imported from (``command``, see COMMANDS);
* ``service``: the host's methods (HOST_VERBS, PAIR_VERBS), those of a handover (HANDOVER_VERBS,
  ``begins``: those that the Manager has, as a host may not know the handover yet), the options of
  each and their types (``Verb.on_bus``: {name on D-Bus: Option}), polkit's ACTIONS, a job's
  deadline;
* ``protocol/table.py``: who has a verb.

A new option is a row of OPTIONS and its name in the rows of the verbs that take it.  This module
is part of what the start of the command line takes: it imports nothing.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

# --- the words of the columns --------------------------------------------------------------------
#: ``role``: a verb of one host, or of the side of a handover that has it, or of a driver that has
#: both hosts run such verbs.
HOST, SOURCE, DESTINATION, BOTH, PAIR = "host", "source", "destination", "both", "pair"
#: ``action``: what polkit is asked for, see etc/polkit-1.
READ, WRITE = "read", "write"
#: Asked for beside the verb's own: to be handed a document (it holds CHAP secrets), or to compare
#: its secrets; to assert, or go on in spite of, what two hosts may end up serving one target by.
DOCUMENT, FORCE = "document", "force"
#: To make, change and delete targets and what belongs to them.
MANAGE = "manage"
ACTIONS = (READ, WRITE, DOCUMENT, FORCE, MANAGE)
#: ``action`` of an option that is root's alone: no action of polkit's allows it.
ROOT = "root"
#: ``takes``: names of targets (with none, TARGETS are refused, ANY_TARGETS are all; of NEW_TARGETS
#: a handover is begun), one document, messages of the other side, an id (none: every handover),
#: the words of another row (A_STEP), a node of targetcli's tree and what is wanted of it (A_NODE),
#: a file that says what shall be served (A_FILE), a line of the shell (A_LINE), or nothing.
TARGETS, ANY_TARGETS, NEW_TARGETS, A_DOCUMENT, MESSAGES, AN_ID, A_STEP, NOTHING = (
    "targets", "any-targets", "new-targets", "document", "messages", "id", "step", "nothing")
A_NODE, A_FILE, A_LINE = "node", "wishes", "line"


# --- options -------------------------------------------------------------------------------------
class Option:
    """One option or argument.

    ``action``: what a caller on D-Bus who gives it needs beside the verb's own action, ROOT for
    root alone ("": nothing).
    ``type``: D-Bus's signature: b (a switch), s, u, as (may be given again and again), ah
    (descriptors, only on D-Bus).
    ``flags``: its option strings on the command line (an argument: its name; none: it is only on
    D-Bus).  ``bus``: its name on D-Bus ("": only on the command line).  ``nargs`` as argparse has
    it.  ``asserts``: what who gives it vouches for.
    """

    __slots__ = ("name", "type", "help", "flags", "bus", "metavar", "default", "nargs", "required",
                 "asserts", "action")

    def __init__(self, name: str, type: str, help: str, flags: str = "",  # noqa: A002
                 bus: str = "", metavar: str = "", default: str = "", nargs: str = "",
                 required: bool = False, asserts: bool = False, action: str = "") -> None:
        self.name, self.type, self.help, self.bus = name, type, help, bus
        self.flags = tuple(flags.split())
        self.metavar, self.default, self.nargs = metavar, default, nargs
        self.required, self.asserts, self.action = required, asserts, action


#: How a target is written.
_TARGET = "iscsi/iqn..., vhost/naa..., loopback/naa..."

_OPTIONS = (
    # arguments
    Option("targets", "as", _TARGET, "targets", metavar="TARGET", nargs="*"),
    Option("any-targets", "as", f"{_TARGET} (all, without one)", "targets", metavar="TARGET",
           nargs="*"),
    Option("document", "s", "a document; - is standard input", "file", metavar="FILE"),
    Option("wishes", "s", "what shall be served, YAML or JSON; - is standard input", "file",
           metavar="FILE"),
    Option("node", "s", "a node of targetcli's tree: /backstores/fileio, "
           "/iscsi/iqn.../tpg1/luns", "path", metavar="NODE"),
    Option("words", "as", "in targetcli's order, or NAME=VALUE; of a secret NAME=@FILE, or NAME=- "
           "to be asked", "words", metavar="WORD", nargs="*"),
    Option("line", "as", "a line, as targetcli takes it: /iscsi create iqn.2003-01.org.example:db "
           "(none: lines of standard input, or a terminal)", "line", metavar="WORD", nargs="*"),
    Option("step", "s", "a step of this side of the handover", "step", metavar="VERB"),
    Option("names", "as", "the handover; left out where just one is under way (for prepare: "
           "TARGETs)", "names", metavar="ID", nargs="*"),
    Option("id", "s", "a handover (all, without one)", "id", metavar="ID", nargs="?"),
    # what a verb works on
    Option("all", "b", "every target of this host", "--all", bus="all"),
    Option("upload", "s", "token of a document that came in pieces, see Upload", bus="upload"),
    Option("messages", "as", "what the other side said; - is standard input", "--messages",
           metavar="FILE"),
    Option("uploads", "as", "tokens of messages that came in pieces, see Upload", bus="uploads"),
    Option("said", "s", "the messages themselves, where they are short", bus="said"),
    Option("mode", "s", "of prepare: iscsi, iscsi-late, vhost-qmp, vhost-inband or vhost-stopped "
           "(default iscsi, with --guest vhost-qmp)", "--mode", bus="mode", metavar="MODE"),
    Option("handover", "s", "its id, a UUID in small letters (default: one is made)",
           bus="handover"),
    Option("map", "as", "another name on this host (KIND: device, root, portal, target, initiator, "
           "rtpi, limit)", "--map", bus="maps", metavar="KIND:OLD=NEW"),
    # how it is done
    Option("allow", "as", "go on in spite of a finding; a refusal says which NAME", "--allow",
           bus="allow", metavar="NAME"),
    Option("probe", "b", "ask the devices for what configfs does not show of registrations, "
           "through a nexus that is gone afterwards; meanwhile initiators see one port more",
           "--probe", bus="probe", action=WRITE),
    Option("secrets", "b", "compare secrets, too (root: always)", bus="secrets", action=DOCUMENT),
    Option("from-saveconfig", "b", "FILE is targetcli's save file", "--from-saveconfig"),
    Option("dry-run", "b", "only show the plan", "--dry-run"),
    Option("preview", "b", "only show the plan", "--dry-run", bus="dry-run"),
    Option("prune", "b", "delete what the file does not have", "--prune", bus="prune"),
    Option("by-position", "as", "values without names, in targetcli's order", bus="words"),
    Option("wait", "b", "answer once it is done", bus="wait"),
    Option("preferences", "s", "what the user's file of the shell's preferences has (JSON)",
           bus="preferences"),
    Option("folder", "s", "where relative paths begin", bus="folder"),
    Option("secret-fds", "ah", "files with a secret each, which a value @0, @1... names",
           bus="secret-fds"),
    Option("as-file", "b", "as a file that apply takes: only what differs from the defaults",
           "--as-file"),
    Option("uses", "s", "only which backstores and LUNs serve this file or device", "--uses",
           metavar="PATH"),
    Option("check", "b", "one line for a monitoring system, and its exit code: 0 well, 1 look at "
           "it, 2 act, 3 unknown", "--check"),
    Option("export", "b", "export at once, in the same job, whose answer has the document, too",
           bus="export"),
    Option("document-version", "u", "the version of documents that both hosts know",
           bus="document-version"),
    Option("boot", "b", "only take out of targetcli's save file what may not open alone", "--boot"),
    Option("units", "b", "leave what has a unit of its own to that, and start it", "--units"),
    # the other host
    Option("peer", "s", "how ssh reaches the other host: recover asks it there", "--peer",
           bus="peer", metavar="HOST", action=FORCE),
    Option("ask", "s", "how to run lio-handover on the other host: 'ssh b lio-handover'", "--ask",
           metavar="COMMAND"),
    Option("question", "s", "a text of the asker's, which the answer then is about, so that no "
           "older answer passes for it", "--question", bus="question", metavar="TEXT"),
    Option("to", "s", "how ssh reaches the destination", "--to", bus="to", metavar="HOST",
           required=True),
    Option("here", "s", "how ssh reaches this host from there (default: its name)", "--here",
           bus="here", metavar="HOST"),
    Option("resume", "s", "go on with a move that was cut off after the source had released",
           "--resume", bus="resume", metavar="ID"),
    Option("guest", "as", "the monitor (QMP) of the guest's QEMU, which then moves with its vhost "
           "targets; once for each guest", "--guest", bus="guest", metavar="SOCKET", action=ROOT),
    Option("guest-there", "as", "that of the QEMU on the destination which waits for it, started "
           "with -incoming defer -S; in the order of --guest", "--guest-there", bus="guest-there",
           metavar="SOCKET", action=ROOT),
    Option("guest-fds", "ah", "instead of guest: sockets that are connected to those monitors",
           bus="guest-fds"),
    Option("guest-there-fds", "ah", "instead of guest-there: the same", bus="guest-there-fds"),
    Option("guest-uri", "as", "where the guest's RAM goes, in that order (default: by TCP to where "
           "ssh goes, any port; not encrypted)", "--guest-uri", bus="guest-uri", metavar="URI"),
    Option("deadline", "as", "seconds after which a step of a move with a guest is given up and "
           "all taken back: copy (3600), look, stop, freeze, export, arm, sent, came (60), listen, "
           "migrate, continue (10); or that a guest may take to run and to be attached: cont, "
           "verify (60)", "--deadline", bus="deadline", metavar="STEP=SECONDS"),
    # what a human asserts, or (of QEMU) the driver that sees it
    Option("peer-is-fenced", "b", "the other host is off now", "--peer-is-fenced",
           bus="peer-is-fenced", asserts=True, action=FORCE),
    Option("peer-never-returns", "b", "nor will it ever boot with its records",
           "--peer-never-returns", bus="peer-never-returns", asserts=True, action=FORCE),
    Option("guest-left", "b", "QEMU here has completed the migration, or is gone", "--guest-left",
           bus="guest-left", asserts=True),
    # where the answer goes
    Option("output", "s", "where the document goes (default -, standard output)", "-o --output",
           metavar="FILE", default="-"),
    Option("messages-out", "s", "where the messages of the answer go; - is standard output",
           "-o --output", metavar="FILE"),
    Option("whole", "b", "the answer as --ask reads it, with documents and their secrets, on "
           "standard output", "--whole"),
    # of every command
    Option("json", "b", "data as JSON on standard output, an error as well", "--json"),
    Option("config", "s", "instead of /etc/lio-handover/lio-handover.conf", "--config",
           metavar="FILE"),
    Option("alone", "b", "do the work here, even where lio-handoverd runs", "--alone"),
    Option("debug", "b", "show where in the program an error came from", "--debug"),
)
OPTIONS: Mapping[str, Option] = {option.name: option for option in _OPTIONS}
#: Options that stand before or after any verb of the command line.
COMMON = ("json", "config", "alone", "debug")
#: Assertions to a verb of a handover, by a human or by the driver of QEMU.
ASSERTIONS = tuple(option.name for option in _OPTIONS if option.asserts)
#: Values of option allow → what giving one to a verb that changes this host takes on D-Bus beside
#: the verb's own action: by these two hosts may end up serving one target, as this host's records,
#: or the document, say that another may serve it.
OVERRIDES: Mapping[str, str] = {"exported": FORCE, "imported": FORCE, "handover": FORCE,
                                "not-frozen": FORCE}
#: On D-Bus, options of root alone: paths that root opens.  Others hand descriptors in, by these.
OF_ROOT: Mapping[str, str] = {"guest": "guest-fds", "guest-there": "guest-there-fds"}
_ASSERTIONS = " ".join(ASSERTIONS)
#: Options of a verb only where it begins a handover (see Verb.of_call); on D-Bus, options that a
#: verb about every handover does not take, as they are about the other host of one handover.
OF_A_BEGINNING = ("handover", "mode", "map", "uploads", "said")
OF_ONE_HANDOVER = ("peer", "document-version", "uploads", "said", "question")

#: ``takes`` → the arguments of the command line, and the options of D-Bus that stand for them.
_ARGUMENTS: Mapping[str, str] = {
    TARGETS: "targets", ANY_TARGETS: "any-targets", A_DOCUMENT: "document upload", AN_ID: "id",
    A_STEP: "step names", NEW_TARGETS: "targets", MESSAGES: "uploads said", NOTHING: "",
    A_NODE: "node words", A_FILE: "wishes upload", A_LINE: "line"}


# --- verbs ---------------------------------------------------------------------------------------
class Verb:
    """One verb.

    ``role``, ``action``, ``takes``: see the words above; ``options``: rows of OPTIONS, those of
    ``takes`` first.  ``help`` is a line, ``more`` what `--help` says beneath it.  ``deadline``:
    seconds without a sign of life after which its job alarms (0: the rows of protocol/table.py say
    it).  ``bus``: whether it is a method on D-Bus; ``begins``: of a handover that the host need not
    know.  ``command``: the module of cli/ that has it, or of another
    package, with that.  ``run``: the function of local/verbs.py
    that carries out what is the host's.
    """

    __slots__ = ("name", "role", "action", "takes", "options", "help", "more", "deadline", "bus",
                 "begins", "command", "run")

    def __init__(self, name: str, role: str, action: str, takes: str, options: str,
                 help: str, more: str = "", deadline: float = 0, bus: bool = False,  # noqa: A002
                 begins: bool = False, command: str = "", run: str = "") -> None:
        self.name, self.role, self.action, self.takes = name, role, action, takes
        self.options = tuple(f"{_ARGUMENTS[takes]} {options}".split())
        self.help, self.more, self.deadline = help, more, deadline
        self.bus, self.begins, self.command, self.run = bus, begins, command, run

    @property
    def on_bus(self) -> dict[str, Option]:
        """Its options on D-Bus, by their names there."""
        return {OPTIONS[name].bus: OPTIONS[name] for name in self.options if OPTIONS[name].bus}

    def of_call(self, begins: bool) -> dict[str, Option]:
        """The options, by their names on D-Bus, that a call takes: one that begins a handover
        (``begins``), or one about a handover that there is."""
        return {name: option for name, option in self.on_bus.items()
                if begins or not self.begins or option.name not in OF_A_BEGINNING}

    def actions(self, given: Mapping[str, Any], authenticated: bool = False) -> tuple[str, ...]:
        """The actions that a call on D-Bus takes beside the verb's own, ROOT among them.

        ``given``: the options that have values, by their names there, and ``messages`` where
        messages of the other host came along.  Whoever carries messages can make one up, by which
        two hosts serve, unless both hosts have a key by which those are known (``authenticated``).
        """
        needed = [option.action for name, option in self.on_bus.items() if given.get(name)]
        if self.action != READ:
            needed += [OVERRIDES.get(name, "") for name in given.get("allow", ())]
        if self.takes == MESSAGES and not authenticated and (
                given.get("messages") or given.get("uploads") or given.get("said")):
            needed.append(FORCE)
        return tuple(action for action in dict.fromkeys(needed) if action not in ("", self.action))

    @property
    def typed(self) -> tuple[Option, ...]:
        """Its arguments and options on the command line, but for COMMON."""
        return tuple(OPTIONS[name] for name in self.options if OPTIONS[name].flags)


_VERBS = (
    Verb("show", HOST, READ, ANY_TARGETS, "as-file uses",
         "what this host serves, as a tree", """\
Sessions, reservations and their holders included; never a secret.

  lio-handover show
  lio-handover show iscsi/iqn.2003-01.org.example:db
  lio-handover show --as-file > targets.yaml       what apply takes
  lio-handover show --uses /dev/sdb                who serves it
""", deadline=10, bus=True, command="host_commands", run="show"),
    Verb("prepare", HOST, READ, TARGETS, "all allow probe",
         "what speaks against handing targets over; changes nothing", """\
All reasons at once, each with what can be done.  Run it while the target serves.

  lio-handover prepare iscsi/iqn.2003-01.org.example:db
  lio-handover prepare --all --json
""", deadline=120, bus=True, command="host_commands", run="prepare"),
    Verb("freeze", HOST, WRITE, TARGETS, "all allow probe",
         "shut the gates, wait until no command executes, flush all data", """\
Initiators are thrown out and try to come back; they find the destination, or this host after
thaw.  Where it can't be finished, the gates are opened again.

  lio-handover freeze iscsi/iqn.2003-01.org.example:db
""", deadline=30, bus=True, command="host_commands", run="freeze"),
    Verb("export", HOST, WRITE, TARGETS, "all allow probe output",
         "write a document of targets; changes nothing", """\
Of frozen targets it is what import wants.  It holds CHAP secrets: a file is made for its owner
alone, whole or not at all; a terminal gets none.

  lio-handover export iscsi/iqn.2003-01.org.example:db -o db.json
  lio-handover export --all | ssh b lio-handover import -
""", deadline=60, bus=True, command="host_commands", run="export"),
    Verb("thaw", HOST, WRITE, TARGETS, "all allow",
         "open the gates that freeze has shut", """\
Only where no other host serves the target: two that do destroy its data.

  lio-handover thaw iscsi/iqn.2003-01.org.example:db
  lio-handover thaw --all        everything that was frozen here
""", deadline=30, bus=True, command="host_commands", run="thaw"),
    Verb("diff", HOST, READ, A_DOCUMENT, "map secrets",
         "this host beside a document, what differs marked", """\
  !  differs      +  only in the document      -  only here
Exit code 0 where they are the same, 1 where they differ.

  lio-handover diff db.json
""", deadline=60, bus=True, command="host_commands", run="diff"),
    Verb("plan", HOST, READ, A_DOCUMENT, "map allow secrets",
         "the steps that import would take; changes nothing", """\
With the names that are mapped and all that speaks against it.

  lio-handover plan db.json --map root:/srv/a=/srv/b
""", deadline=60, bus=True, command="host_commands", run="plan"),
    Verb("import", HOST, WRITE, A_DOCUMENT, "dry-run from-saveconfig map allow secrets",
         "serve what a document says", """\
All of it or nothing: what fails, or is interrupted, is taken back.  --map takes
  device:/dev/sdb=/dev/sdc                 the path of one backstore
  root:/srv/a=/srv/b                       every path below a directory
  portal:192.0.2.1:3260=192.0.2.9:3260     a portal (without ports: all of that address)
  target:iqn.2003-01.a=iqn.2003-01.b       an IQN or WWPN
  initiator:naa.5001=naa.5002              an ACL or nexus
  rtpi:1=fresh                             the relative port 1, wherever a TPG has it, becomes one
                                           that only its name decides (rtpi:1=7: becomes 7)
  rtpi:iscsi/iqn.2003-01.a/tpg1=7          the relative port of one TPG
  limit:queue_depth=128                    at most 128, where this host's devices can't have more
Block devices with a WWID are found by it.

  lio-handover import db.json --dry-run
  lio-handover import --from-saveconfig /etc/target/saveconfig.json
  lio-handover import db.json --map device:/dev/sdb=/dev/disk/by-id/wwn-0x5000c500a1b2c3d4
""", deadline=60, bus=True, command="host_commands", run="import_"),
    Verb("verify", HOST, READ, A_DOCUMENT, "map secrets",
         "whether this host serves just what a document says", """\
Exit code 0 where it does.

  lio-handover verify db.json
""", deadline=60, bus=True, command="host_commands", run="verify"),
    Verb("remove", HOST, WRITE, TARGETS, "all allow",
         "take targets away, with the backstores that nothing else exports", """\
Refused where somebody is logged in, holds reservations or shares a backstore.  A document of
what is removed is kept.  PLUGIN/NAME names a backstore that no target exports.

  lio-handover remove iscsi/iqn.2003-01.org.example:db
  lio-handover remove iscsi/iqn.2003-01.org.example:db --allow reserved   after a handover
""", deadline=60, bus=True, command="host_commands", run="remove"),
    Verb("adopt", HOST, WRITE, TARGETS, "all allow",
         "have lio-handover restore targets at a boot, whole", """\
With all that targetcli's file can't hold: registrations, identities, relative ports, a nexus.  They
are served all the time, and leave targetcli's file.  Once more after a change: the copy that a boot
goes by is made anew.

  lio-handover adopt iscsi/iqn.2003-01.org.example:db
""", deadline=60, bus=True, command="host_commands", run="adopt"),
    Verb("giveback", HOST, WRITE, TARGETS, "all allow",
         "have targetcli restore targets at a boot", """\
They go into its save file, as they were there before, unless they were changed since.  What that
file can't hold is named, and refused unless it may be lost at a boot.

  lio-handover giveback iscsi/iqn.2003-01.org.example:db
  lio-handover giveback iscsi/iqn.2003-01.org.example:db --allow not-saved
""", deadline=60, bus=True, command="host_commands", run="giveback"),
    Verb("create", HOST, MANAGE, A_NODE, "secret-fds by-position wait preview allow",
         "make a backstore, target, TPG, portal, LUN, ACL, mapped LUN or group", """\
With targetcli's nodes, words and defaults; all of it or nothing.  A new target is restored by
lio-handover at a boot; one of targetcli's save file is saved there.

  lio-handover create /backstores/fileio disk0 /srv/disk0.img 10G
  lio-handover create /iscsi iqn.2003-01.org.example:db
  lio-handover create /iscsi/iqn.2003-01.org.example:db/tpg1/luns /backstores/fileio/disk0
  lio-handover create /iscsi/iqn.2003-01.org.example:db/tpg1/acls iqn.1994-05.org.example:me
""", deadline=60, bus=True, command="manage_commands", run="create"),
    Verb("set", HOST, MANAGE, A_NODE, "secret-fds by-position wait preview allow",
         "set attributes, parameters, CHAP, the size of a file", """\
With targetcli's groups, which may be left out.  An empty value is that of a new object.

  lio-handover set /iscsi/iqn.2003-01.org.example:db/tpg1 attribute generate_node_acls=1
  lio-handover set /iscsi/iqn.2003-01.org.example:db/tpg1/acls/iqn.1994-05.org.example:me \\
    auth userid=me password=@/root/me.secret
  lio-handover set /backstores/fileio/disk0 size=20G
""", deadline=60, bus=True, command="manage_commands", run="set_"),
    Verb("delete", HOST, MANAGE, A_NODE, "by-position wait preview allow",
         "delete one object and what belongs to it", """\
Refused where somebody is logged in, has a guest attached, or is registered.  A backstore's file
stays.

  lio-handover delete /iscsi/iqn.2003-01.org.example:db/tpg1/luns 0
  lio-handover delete /iscsi iqn.2003-01.org.example:db
""", deadline=60, bus=True, command="manage_commands", run="delete"),
    Verb("apply", HOST, MANAGE, A_FILE, "prune preview allow",
         "have this host serve what a file says", """\
YAML or JSON, see usage/managing.md in /usr/share/doc/lio-handover: only what differs from the
defaults.  It shows the difference, and does all of it or nothing; a second run changes nothing.

  lio-handover show --as-file > targets.yaml
  lio-handover apply targets.yaml --dry-run
  lio-handover apply targets.yaml
""", deadline=120, bus=True, command="manage_commands", run="apply"),
    Verb("shell", HOST, MANAGE, A_LINE, "dry-run allow wait preferences folder",
         "targetcli's tree, commands and texts, with the guards of create, set and delete", """\
A line of its arguments, lines of standard input, or a shell in a terminal.  Nothing is kept for
the next boot until saveconfig.  See usage/shell.md in /usr/share/doc/lio-handover.

  lio-handover shell
  lio-handover shell ls /iscsi
  lio-handover shell /backstores/fileio create disk0 /srv/disk0.img 10G
  lio-handover shell --dry-run /iscsi delete iqn.2003-01.org.example:db
""", deadline=60, bus=True, command="shell.main", run="shell"),
    Verb("restore", HOST, WRITE, TARGETS, "",
         "bring targets back that lio-handover restores, as their units do", """\
Whole, with their registrations, shut until all of it is there.  Storage that is missing is named,
and waited for where systemd runs this.

  systemctl start lio-handover-target@$(systemd-escape iscsi/iqn.2003-01.org.example:db)
  lio-handover restore iscsi/iqn.2003-01.org.example:db
""", command="restore_commands"),
    Verb("clear", HOST, WRITE, TARGETS, "",
         "take targets down that lio-handover restores, as their units do", """\
Their gates are shut and a copy is kept, registrations included; restore brings them back.

  systemctl stop lio-handover-target@$(systemd-escape iscsi/iqn.2003-01.org.example:db)
  lio-handover clear iscsi/iqn.2003-01.org.example:db
""", command="restore_commands"),
    Verb("source", HOST, WRITE, A_STEP,
         f"messages messages-out mode peer {_ASSERTIONS} allow probe whole",
         "one step of a handover that survives a crash, on the source", """\
VERB: prepare TARGET..., then freeze, export, release, retire with the handover's ID; thaw
goes back.  Each answers with messages, which the other side's verb takes.  A verb may be
repeated; what is out of turn is refused.  See internals/handover-protocol.md in
/usr/share/doc/lio-handover.

  lio-handover source prepare iscsi/iqn.2003-01.org.example:db -o offer.json
  lio-handover source release ID --messages armed.json -o released.json
""", command="handover_commands"),
    Verb("destination", HOST, WRITE, A_STEP,
         f"messages messages-out peer {_ASSERTIONS} map allow probe whole question",
         "one step of a handover that survives a crash, on the destination", """\
VERB: stage, activate (with the document: armed; with released: open), verify, confirm; abort
ends it here, and gives back what was owned.

  lio-handover destination stage --messages offer.json --map root:/srv/a=/srv/b
  lio-handover destination activate ID --messages document.json -o armed.json
""", command="handover_commands"),
    Verb("status", HOST, READ, AN_ID, "messages-out whole question check",
         "where handovers stand, and what leads on", """\
Every handover of this host, or one: its state, what went wrong, what to run next.

  lio-handover status
  lio-handover status ID -o messages.json     its messages, once more
  lio-handover status --check                 for a monitoring system
""", command="handover_commands"),
    Verb("recover", HOST, WRITE, AN_ID,
         f"messages-out ask peer {_ASSERTIONS} allow boot units whole",
         "finish what was cut off, or say what a human may order", """\
After a crash, a reboot or a lost answer, on both hosts, the source first.  It looks at kernel,
journal and the other side, and never guesses: where it can't know, it stays closed.

  lio-handover recover --ask 'ssh b lio-handover'
  lio-handover recover ID --peer-is-fenced     only if the other host is off now
  lio-handover recover --boot                  before targetcli restores, at boot
""", command="handover_commands"),
    Verb("move", PAIR, WRITE, NEW_TARGETS,
         "to resume here mode guest guest-there guest-fds guest-there-fds guest-uri "
         "deadline map allow probe",
         "hand targets over to another host, from start to end", """\
lio-handoverd has to run on both hosts, and ssh to lead to the other one as root.  What fails
before the source has promised not to serve any more is taken back, and the source goes on.

  lio-handover move iscsi/iqn.2003-01.org.example:db --to b
  lio-handover move iscsi/iqn.2003-01.org.example:db --to root@b --map root:/srv/a=/srv/b
  lio-handover move --resume ID --to b        one that was cut off after that
  lio-handover move vhost/naa.5001405000000001 --to b --guest /run/vm.qmp \\
    --guest-there /run/vm.qmp                 with its guest, by live migration
  lio-handover move vhost/naa.5001405000000001 --to b --mode vhost-inband
                                              only to make b ready: then libvirt, Proxmox or
                                              whoever has its monitor migrates the guest
""", deadline=120, bus=True, command="handover_commands"),
    Verb("keygen", HOST, WRITE, NOTHING, "", "make the key that two hosts have in common", """\
Then neither believes anything of the other but what this key proves to be its word, also where
somebody else carries it.  The file, [host] key of the configuration, is root's alone; it is never
replaced, and never shown.  Carry it to the other host yourself.

  lio-handover keygen
  scp -p /etc/lio-handover/handover.key b:/etc/lio-handover/handover.key
""", command="key_commands"),
    Verb("errors", HOST, READ, NOTHING, "", "the table of exit codes"),
)
VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _VERBS}
#: The verbs that are methods of the Manager on D-Bus: those of one host, and of a driver.
HOST_VERBS: Mapping[str, Verb] = {
    name: verb for name, verb in VERBS.items() if verb.bus and verb.role == HOST}
PAIR_VERBS: Mapping[str, Verb] = {
    name: verb for name, verb in VERBS.items() if verb.bus and verb.role == PAIR}
#: Verb → its method on D-Bus, where that is not the verb's own name: Properties has a Set.
MEMBERS: Mapping[str, str] = {"create": "CreateObject", "set": "SetValues",
                              "delete": "DeleteObject", "shell": "RunLine"}
#: Name → module of cli/, for the verbs that are not in main.py.
COMMANDS: Mapping[str, str] = {name: verb.command for name, verb in VERBS.items() if verb.command}

_OF_ALL = "allow peer document-version"
_HANDOVER_VERBS = (
    Verb("prepare", SOURCE, WRITE, NEW_TARGETS, f"handover mode probe {_OF_ALL}",
         "check everything and offer the target under a new epoch", bus=True, begins=True),
    Verb("freeze", SOURCE, WRITE, NOTHING, f"export probe {_OF_ALL}",
         "make the target quiet, keeping all it needs to go on", bus=True),
    Verb("export", SOURCE, WRITE, NOTHING, f"probe {_OF_ALL}",
         "hand out the document; no kernel write, may be repeated", bus=True),
    Verb("release", SOURCE, WRITE, MESSAGES, f"guest-left {_OF_ALL}",
         "commit: promise not to serve, once the destination is armed", bus=True),
    Verb("thaw", SOURCE, WRITE, MESSAGES, _OF_ALL, "go back to serving", bus=True),
    Verb("retire", SOURCE, WRITE, MESSAGES, _OF_ALL,
         "take the target down, only after the destination serves", bus=True),
    Verb("stage", DESTINATION, WRITE, MESSAGES, f"map {_OF_ALL}",
         "build all that the kernel allows while the source serves", bus=True, begins=True),
    Verb("activate", DESTINATION, WRITE, MESSAGES, _OF_ALL,
         "as far as the messages allow: arm, then own and open the gate", bus=True),
    Verb("verify", DESTINATION, WRITE, NOTHING, _OF_ALL, "read back, see it serve, say so",
         bus=True),
    Verb("confirm", DESTINATION, WRITE, MESSAGES, _OF_ALL,
         "note that the source is gone: from now on alone", bus=True),
    Verb("import", DESTINATION, WRITE, MESSAGES, "",
         "by file: serve what the document says, or change nothing"),
    Verb("abort", DESTINATION, WRITE, MESSAGES, f"probe question {_OF_ALL}",
         "end it here; what was owned is given back, never dropped", bus=True, begins=True),
    Verb("adopt", DESTINATION, WRITE, NOTHING, "",
         "by file: from now on lio-handover restores what is served here"),
    Verb("giveback", DESTINATION, WRITE, NOTHING, "",
         "from now on targetcli restores what is served here"),
    Verb("clear", BOTH, WRITE, NOTHING, "",
         "shut it, keep a copy, take it down; restore, or a boot, brings it back"),
    Verb("status", BOTH, READ, NOTHING, "question",
         "state, epoch, findings, next step; repeats the messages of the state", bus=True,
         begins=True),
    Verb("recover", BOTH, WRITE, MESSAGES, f"{_ASSERTIONS} {_OF_ALL}",
         "after a crash, a reboot or a lost answer: finish or say why not", bus=True, begins=True),
)
#: The steps of a handover.  A step that is not on D-Bus is begun only by the host's verb of the
#: same name, which has a document.
HANDOVER_VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _HANDOVER_VERBS}
