"""Makes the man pages and the bash completion in a folder: scripts/man and scripts/install run it.

    python3 manual.py FOLDER    writes lio-handover.8, lio-handoverd.8, lio-handover-vmstate.8,
                                lio-handover-hook.8, lio-handover.conf.5 and
                                completions/lio-handover

The pages of section 8 are the four parsers as argparse-manpage prints them; that of section 5 is
the table of settings (configuration.KEYS) with their defaults and the comments of the configuration
file that is installed; the completion is what shtab makes of the parser.  Nothing is committed, so
nothing can be out of date.

Exits with 3 and one line where argparse-manpage or shtab is not there.
"""
from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

try:
    import shtab
    from argparse_manpage.compat import get_reproducible_date
    from argparse_manpage.manpage import Manpage
except ImportError as error:
    print(f"{error.name} is missing: man pages and completion need the Python packages "
          "argparse-manpage and shtab", file=sys.stderr)
    sys.exit(3)

from lio_handover import __version__, errors  # noqa: E402
from lio_handover.cli import parser as command_line  # noqa: E402
from lio_handover.configuration import KEYS, NAMED, NEEDED, PATH, STATE_DIRECTORY  # noqa: E402
from lio_handover.model.plugins import PLUGINS  # noqa: E402
from lio_handover.protocol import table  # noqa: E402
from lio_handover.settings import Late, Settings  # noqa: E402
from lio_handover.verb_table import HANDOVER_VERBS  # noqa: E402

SHIPPED = ROOT / "etc" / "lio-handover" / "lio-handover.conf"
DOCUMENTATION = "/usr/share/doc/lio-handover"
MANUAL = "lio-handover"
FILES = (
    (PATH, "what documents may make this host serve, and more: lio-handover.conf(5)"),
    (STATE_DIRECTORY, "journals of handovers, what was removed, numbers of epochs; root's alone"),
    (f"{DOCUMENTATION}/index.md", "the documentation: operation, usage, reference, internals"),
    (errors.RECOVERY_PAGE, "what to do at night"),
)

#: Kind of a setting, as configuration.py reads it → what may stand there.
KINDS = {
    "paths": "full paths, one a line",
    "patterns": "full paths, one a line; * is anything but /",
    "texts": "patterns, one a line; * is anything but / and ;",
    "path": "a full path",
    "path or none": "a full path, or nothing",
    "bytes": "a number of bytes",
    "name or none": "a name, or nothing",
    "host or none": "a host as ssh is told it, HOST or USER@HOST, or nothing",
    "hosts": "hosts as ssh is told them, HOST or USER@HOST, one a line",
    "command": "the full path of a program and its arguments, one a line",
    "seconds": "seconds, 1 to 9999",
}


# --- roff ----------------------------------------------------------------------------------------
def escaped(text: str) -> str:
    """Text that roff prints as it is: backslashes, hyphens, quotes, dots that begin a line."""
    for sign, name in (("\\", "\\e"), ("-", "\\-"), ("`", "\\(ga"), ("^", "\\(ha"),
                       ("~", "\\(ti")):
        text = text.replace(sign, name)
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def is_layout(line: str) -> bool:
    """Whether a line of help is laid out by its blanks: indented, or in columns."""
    return line.startswith("  ") or "   " in line.strip()


def prose(text: str) -> str:
    """Paragraphs of help as roff: what is laid out by blanks stays so, the rest is filled."""
    lines: list[str] = []
    example = False
    for line in text.strip("\n").splitlines():
        if is_layout(line) != example and line:
            lines.append(".EE" if example else ".EX")
            example = not example
        if line:
            lines.append(escaped(line))
        elif lines and not example:
            lines.append(".PP")
        elif example:
            lines.append(".EE\n.PP")
            example = False
    if example:
        lines.append(".EE")
    return tidied("\n".join(lines))


def tidied(page: str) -> str:
    """No blank line and no paragraph that follows or precedes a heading: mandoc finds fault."""
    page = re.sub(r"\n{2,}", "\n.PP\n", page)
    page = re.sub(r"^(\.TH .*\n)", r"\1.nh\n.ad l\n", page)  # no word and no option is torn
    page = re.sub(r"(?m)^(\.PP\n)+", ".PP\n", page)
    page = re.sub(r"(?m)^(\.S[HS] .*\n)\.PP\n", r"\1", page)
    return re.sub(r"(?m)^\.PP\n(?=\.(S[HS]|TP|PP)\b)", "", page)


def terms(rows: Iterator[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n\\fB{escaped(term)}\\fR\n{escaped(text)}" for term, text in rows)


def see_also(*pages: str) -> str:
    return ",\n".join(f".BR {escaped(page.partition('(')[0])} ({page.partition('(')[2]}"
                      for page in pages).replace("),", ") ,")


# --- the parsers ---------------------------------------------------------------------------------
def commands(program: argparse.ArgumentParser) -> Any:
    """The action that has the verbs' parsers."""
    return next(action for action in program._actions
                if isinstance(action, argparse._SubParsersAction))


def whole_parser() -> argparse.ArgumentParser:
    """The parser of lio-handover with the arguments of every verb, which parser() makes of one."""
    program = command_line.parser()
    verbs = commands(program).choices
    for verb in verbs:
        verbs[verb] = commands(command_line.parser(verb)).choices[verb]
    return program


def text_of(parser: argparse.ArgumentParser) -> str:
    return "\n\n".join(filter(None, (parser.description, parser.epilog)))


def page(parser: argparse.ArgumentParser, brief: str, **sections: str) -> str:
    """A page of section 8.  ``sections``: title, blanks as ``_`` → roff."""
    parser.description, parser.epilog = text_of(parser), None
    manpage = Manpage(parser, format="single-commands-section",
                      _data={"project_name": "lio-handover", "version": __version__,
                             "manual_section": 8, "manual_title": MANUAL, "description": brief})
    manpage.mf.format_text = prose
    manpage.synopsis = [word for word in manpage.synopsis if word != "[-h]"]
    for title, text in sections.items():
        manpage.add_section(title.replace("_", " "), "=", text)
    lines = str(manpage).splitlines()
    lines[0] = lines[0].replace("\\-", "-")  # of the date
    # Each verb's arguments and options are one list, and no further in than others.
    return "\n".join(line for line in lines
                     if line not in ("arguments:", "options:", ".RS 7", ".RE")) + "\n"


def command_page() -> str:
    """lio-handover(8)."""
    program = whole_parser()
    text = program.epilog or ""
    program.epilog, codes, exits = text.partition("Exit codes:")
    common = {action.dest for action in program._actions if action.option_strings}
    for parser in commands(program).choices.values():
        for action in parser._actions:
            if action.dest in common:
                action.help = argparse.SUPPRESS
        # The line above it says what the verb does.
        parser.description, parser.epilog = parser.epilog or "", None
    made = page(program, "hand Linux SCSI targets over between hosts, with their reservations",
                EXIT_STATUS=prose(codes + exits) + "\n" + terms(
                    (f"{code} {name}", do) for code, name, do in errors.table()),
                FILES=terms(iter(FILES)),
                SEE_ALSO=see_also("lio-handoverd(8)", "lio-handover.conf(5)", "targetcli(8)"))
    return tidied(re.sub(r"(?m)^usage: ", "", made))


def service_page() -> str:
    """lio-handoverd(8); it needs dbus-python and GLib, as the service does."""
    from lio_handover.service import main
    return tidied(page(main.parser(), "the service that hands Linux SCSI targets over",
                       FILES=terms(iter(FILES)),
                       SEE_ALSO=see_also("lio-handover(8)", "lio-handover.conf(5)",
                                         "busctl(1)", "polkit(8)")))


def vmstate_page() -> str:
    """lio-handover-vmstate(8); it needs them, too."""
    from lio_handover.vmstate import main
    return tidied(page(main.parser(), "carry a guest's SCSI targets in QEMU's stream",
                       FILES=terms(iter(FILES)),
                       SEE_ALSO=see_also("lio-handover(8)", "lio-handoverd(8)", "qemu(1)")))


def hook_page() -> str:
    """lio-handover-hook(8)."""
    from lio_handover.hooks import main
    return tidied(page(main.parser(), "hand a guest's targets over where its manager migrates it",
                       FILES=terms(iter(FILES)),
                       SEE_ALSO=see_also("lio-handover(8)", "lio-handover-vmstate(8)",
                                         "lio-handover.conf(5)")))


# --- the settings --------------------------------------------------------------------------------
def comments(text: str) -> dict[tuple[str, str], str]:
    """What the configuration file says in comments.

    (section, key) → the lines above the key; ("", "") → the head of the file; (NAMED, "") and
    (NAMED, "example") → what is said, and shown, of the section with a name.
    """
    section, found = "", {}
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("["):
            section = lines.pop(0)[1:-1]
        shown = [line[1:] for line in lines if line.startswith("#  ") or line == "#"]
        said = [line[2:] for line in lines if re.match(r"# ?(\S|$)", line) and "=" not in line]
        keys = [line[1:].partition(" =")[0] for line in lines if re.match(r"#\w+ =", line)]
        if keys:
            found[section, keys[0]] = "\n".join(said)
        elif section:
            found[NAMED, ""] = "\n".join(said).strip()
            found[NAMED, "example"] = "\n".join(shown).strip("\n")
        else:
            found.setdefault(("", ""), "\n".join(said))
    return found


def default(section: str, key: str, field: str, kind: str) -> str:
    """What counts where a key is not set."""
    if section == NAMED and key in NEEDED:
        return "Needed."
    value = getattr(Late("") if section == NAMED else Settings(), field)
    if kind == "bytes" and not value % 1024**2:
        value = f"{value // 1024**2}M"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return f"Default: {text or 'none'}."


def settings_page() -> str:
    """lio-handover.conf(5).  Raises KeyError for a setting that the configuration file lacks."""
    said = comments(SHIPPED.read_text(encoding="utf-8"))
    lines = [f'.TH LIO-HANDOVER.CONF "5" "{get_reproducible_date()}" "lio-handover {__version__}" '
             f'"{MANUAL}"',
             ".SH NAME", escaped("lio-handover.conf - what lio-handover may do on this host"),
             ".SH SYNOPSIS", f".I {escaped(PATH)}\n.br\n.I {escaped(PATH)}.d/*.conf",
             ".SH DESCRIPTION", prose(said["", ""]), ".SH SETTINGS"]
    for section, keys in KEYS.items():
        lines.append(".SS " + escaped(f"[{section} NAME]" if section == NAMED else f"[{section}]"))
        if section == NAMED:
            lines.append(prose(said[NAMED, ""]))
        for key, (field, kind) in keys.items():
            text = "" if section == NAMED else said[section, key]
            lines += [".TP", f"\\fB{escaped(key)}\\fR = \\fI{escaped(KINDS[kind])}\\fR",
                      escaped(text), escaped(default(section, key, field, kind))]
    lines += [".SH EXAMPLE", prose(said[NAMED, "example"]), ".SH FILES", terms(iter(FILES)),
              ".SH SEE ALSO", see_also("lio-handover(8)", "lio-handoverd(8)")]
    return tidied("\n".join(filter(None, lines)) + "\n")


# --- completion ----------------------------------------------------------------------------------
#: Words that bash is offered for TARGET: what configfs has, which anybody may list; for ID: the
#: handovers, which root may, and the targets that prepare takes there; for NODE: nodes of
#: targetcli's tree; for WORD: what is below the node, or what it can be made of.  A target has
#: colons, at which bash ends a word: what stands before the last one is typed already.
TARGETS = r"""
_lio_handover_targets() {
  local line=${COMP_LINE:0:COMP_POINT} typed
  typed=${line##* }
  (cd "${LIO_HANDOVER_TREE:-/sys/kernel/config/target}" 2>/dev/null &&
    compgen -W "$(printf '%s\n' {iscsi,vhost,loopback}/*.* | grep -v '[*]')" -- "$typed") |
    while read -r word; do printf '%s\n' "${word#"${typed%"$1"}"}"; done
}
_lio_handover_ids() {
  compgen -W "$(ls "${LIO_HANDOVER_STATE:-/var/lib/lio-handover}/handovers" 2>/dev/null)" -- "$1"
  _lio_handover_targets "$1"
}
_lio_handover_tree() {
  (cd "${LIO_HANDOVER_TREE:-/sys/kernel/config/target}" 2>/dev/null || exit
    printf '/%s\n' iscsi vhost loopback backstores/{PLUGINS,lu_groups}
    find core -mindepth 2 -maxdepth 2 -type d 2>/dev/null | grep -v '^core/alua/' |
      sed -E 'RENAMES; s#^core/([a-z_]+)_[0-9]+/#/backstores/\1/#'
    find iscsi vhost loopback -maxdepth 5 -type d 2>/dev/null |
      grep -Ev '/(attrib|auth|param|fabric_statistics|info|statistics)(/|$)' |
      grep -E '^[a-z]+/[^/]*[.][^/]*(/tpgt_[0-9]+(/(lun|np|acls)(/.*)?)?)?$' |
      sed -E 's#/tpgt_#/tpg#; s#(/acls/[^/]+)/lun_#\1/mapped_lun#; s#/lun/lun_#/luns/lun#
              s#/lun$#/luns#; s#/np(/|$)#/portals\1#; s#^#/#')
}
_lio_handover_nodes() {
  local line=${COMP_LINE:0:COMP_POINT} typed
  typed=${line##* }
  compgen -W "$(_lio_handover_tree)" -- "$typed" |
    while read -r word; do printf '%s\n' "${word#"${typed%"$1"}"}"; done
}
_lio_handover_words() {
  local line=${COMP_LINE:0:COMP_POINT} typed
  local words=(${line% *})
  local path=${words[-1]} verb=${words[-2]}
  typed=${line##* }
  case $path in create|set|delete) _lio_handover_nodes "$1"; return ;; esac  # behind its colon
  case $verb:$path in
    create:*/luns) compgen -W "$(_lio_handover_tree |
      sed -n 's#^/backstores/\([^/]*/[^/]*\)$#\1#p')" -- "$typed" ;;
    delete:*) compgen -W "$(_lio_handover_tree | grep -F "${path%/}/" |
      sed "s#.*${path%/}/##" | grep -v /)" -- "$typed" ;;
    create:/backstores/*) compgen -f -- "$typed" ;;
  esac | while read -r word; do printf '%s\n' "${word#"${typed%"$1"}"}"; done
}
_lio_handover_hosts() { compgen -A hostname -- "$1"; }
"""
#: metavar → what completes it.
COMPLETERS: dict[str, dict[str, str]] = {
    "FILE": shtab.FILE,  # type: ignore[dict-item]
    "TARGET": {"bash": "_lio_handover_targets"},
    "ID": {"bash": "_lio_handover_ids"},
    "HOST": {"bash": "_lio_handover_hosts"},
    "NODE": {"bash": "_lio_handover_nodes"},
    "PATH": shtab.FILE,  # type: ignore[dict-item]
    "WORD": {"bash": "_lio_handover_words"},
}


def completion() -> str:
    """The completion of bash."""
    program = whole_parser()
    program.prog = "lio-handover"
    for role, parser in [("", program), *commands(program).choices.items()]:
        for action in parser._actions:
            if action.metavar in COMPLETERS:
                action.complete = COMPLETERS[str(action.metavar)]
            elif action.metavar == "MODE":
                action.choices = [mode.value for mode in table.MODES]
            elif action.metavar == "VERB" and role:
                action.choices = [name for name, row in HANDOVER_VERBS.items()
                                  if row.role == role and row.bus]
    plugins = {row.name: row.rtslib_name for row in PLUGINS.values()}
    preamble = TARGETS.replace("PLUGINS", ",".join(sorted(plugins.values()))).replace(
        "RENAMES", "; ".join(f"s#^core/{name}_[0-9]+/#/backstores/{shown}/#"
                             for name, shown in plugins.items() if name != shown))
    return shtab.complete(program, "bash", preamble={"bash": preamble})  # type: ignore[arg-type]


def main(folder: str) -> int:
    os.environ["COLUMNS"] = "10000"  # roff breaks lines, argparse shall not
    pages = {"lio-handover.8": command_page, "lio-handoverd.8": service_page,
             "lio-handover-vmstate.8": vmstate_page, "lio-handover-hook.8": hook_page,
             "lio-handover.conf.5": settings_page, "completions/lio-handover": completion}
    for name, make in pages.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print((__doc__ or "").split("\n\n")[1], file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
