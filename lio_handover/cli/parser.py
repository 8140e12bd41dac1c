"""The command line's grammar: a parser that is made from the rows of verb_table.py.

This module imports little, for a fast start.
"""
from __future__ import annotations

import argparse
import os

from .. import __version__, errors
from ..verb_table import COMMON, OPTIONS, VERBS, Option
from .output import PROG, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Sequence

DESCRIPTION = """\
Moves a LIO target (iSCSI) with its persistent reservations from one host to another.

on the source:       prepare, freeze, export     (thaw takes a freeze back)
on the destination:  plan, import, verify
on the source:       remove
"""

EPILOG = """\
TARGET is what `show` prints: iscsi/iqn..., vhost/naa... or loopback/naa...
FILE is a document as export writes it; - is standard input or output.

A handover:
  a# lio-handover prepare iscsi/iqn.2003-01.org.example:db
  a# lio-handover freeze  iscsi/iqn.2003-01.org.example:db
  a# lio-handover export  iscsi/iqn.2003-01.org.example:db | ssh b lio-handover import -
  b# lio-handover verify  FILE
  a# lio-handover remove  iscsi/iqn.2003-01.org.example:db

Exit codes: 0 done, or the same; 1 they differ (diff); 2 not understood; 3 and up, see
`lio-handover errors`; 128+N ended by signal N, with everything taken back.
"""


# --- parsing -------------------------------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    """A parser whose errors have the form of all other errors: one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; {errors.NOTHING_CHANGED}; next: {self.prog} --help")
        raise SystemExit(errors.USAGE)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; importing shutil for the width would take longest of all."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
        except (OSError, ValueError):
            width = 80
        super().__init__(prog, width=max(width - 2, 40))


def parser(verb: str = "") -> Parser:
    """The parser of a verb's command line; without a ``verb``, of the options before a verb."""
    program = Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=Formatter)
    program.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    for option in COMMON:
        _add(program, OPTIONS[option])
    verbs = program.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True,
                                   parser_class=Parser)
    for row in VERBS.values():
        if verb in ("", row.name):
            command = verbs.add_parser(
                row.name, help=row.help, description=row.help[0].upper() + row.help[1:] + ".",
                epilog=row.more, formatter_class=Formatter, add_help=bool(verb))
            for taken in row.typed if verb else ():
                _add(command, taken)
            for option in COMMON if verb else ():
                _add(command, OPTIONS[option], argparse.SUPPRESS)  # a value before the verb stays
    return program


def _add(to: Parser, option: Option, default: Any = None) -> None:
    """Add an option to a parser, with ``default`` instead of the option's own default."""
    more: dict[str, Any] = {"help": option.help}
    if option.asserts:
        more = {"help": f"you say so: {option.help}", "action": "append_const",
                "dest": "assertions", "const": option.name, "default": []}
    elif option.type == "b":
        more["action"] = "store_true"
    elif option.type == "as" and not option.nargs:
        more.update(action="append", default=[])
    elif option.nargs != "*" and option.flags != (option.name,):
        more["default"] = option.default
    if option.metavar:
        more["metavar"] = option.metavar
    if option.nargs:
        more["nargs"] = option.nargs
    if option.required:
        more["required"] = True
    if default is not None:
        more["default"] = default
    to.add_argument(*option.flags, **more)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line.  Raises SystemExit after it has printed --help, --version
    or an error."""
    program = parser(_verb(words))
    args, unknown = program.parse_known_args(words)
    # argparse returns names behind an option as unknown arguments.
    if unknown and hasattr(args, "names") and not any(word.startswith("-") for word in unknown):
        args.names += unknown
    elif unknown:
        program.error("unrecognized arguments: " + " ".join(unknown))
    return args


def _verb(words: Sequence[str]) -> str:
    """The verb whose arguments the parser needs; "" where it needs those of all verbs."""
    before = ""
    for word in words:
        if not word.startswith("-") and before != "--config":
            return word if word in VERBS else ""
        before = word
        if word in ("-h", "--help"):
            return ""
        if word == "--version":
            return word
    return ""
