"""targetcli's preferences, its bookmarks and its history of paths, of one user.

targetcli keeps them as a pickle, which whoever can write it has root run; here they are JSON in a
folder of the user's own.  Its log of every line that is typed, with the secrets in it, is not kept:
``logfile`` and ``loglevel_file`` are taken and have no effect.
"""
from __future__ import annotations

import json
import os
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from .. import errors
from ..errors import quoted
from ..system.atomic_file import write_file

#: Names the folder, as TARGETCLI_HOME does for targetcli.
HOME = "LIO_HANDOVER_SHELL_HOME"
FOLDER, FILE, HISTORY = "~/.lio-handover", "preferences.json", "history.txt"
MAX_BYTES = 256 * 1024
LEVELS = ("critical", "error", "warning", "info", "verbose", "debug")
COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
#: Paths of the history that are kept.
REMEMBERED = 100


class Preference(NamedTuple):
    """A row of `get global`: its type, its default, a line on it."""

    name: str
    type: str
    default: Any
    help: str


ROWS: Tuple[Preference, ...] = (
    Preference("auto_add_default_portal", "bool", True,
               "Whether a new TPG gets the portal [::0]:3260."),
    Preference("auto_add_mapped_luns", "bool", True,
               "Whether a new LUN is mapped for each ACL, and each LUN for a new ACL."),
    Preference("auto_cd_after_create", "bool", False, "Whether create goes to what it has made."),
    Preference("auto_enable_tpgt", "bool", True, "Whether a new TPG is enabled at once."),
    Preference("auto_save_on_exit", "bool", True,
               "Whether the end of the interactive shell saves the configuration."),
    Preference("auto_use_daemon", "bool", False, "targetcli's; without effect here."),
    Preference("color_command", "color", "cyan", "Colour of commands that Tab shows."),
    Preference("color_default", "colordefault", None, "Colour of all other text."),
    Preference("color_keyword", "color", "cyan", "Colour of names of parameters that Tab shows."),
    Preference("color_mode", "bool", True, "Whether there are colours."),
    Preference("color_parameter", "color", "magenta", "Colour of values that Tab shows."),
    Preference("color_path", "color", "magenta", "Colour of paths that Tab shows."),
    Preference("daemon_use_batch_mode", "bool", False, "targetcli's; without effect here."),
    Preference("export_backstore_name_as_model", "bool", True,
               "Whether initiators are told a new backstore's name as its model."),
    Preference("logfile", "string", None, "targetcli's; without effect here: nothing is logged."),
    Preference("loglevel_console", "loglevel", "info", "What is shown beside results."),
    Preference("loglevel_file", "loglevel", None, "targetcli's; without effect here."),
    Preference("max_backup_files", "string", "10",
               "Copies of the save file that are kept in backup/."),
    Preference("prompt_length", "number", 30, "Longest path of a prompt; 0: no limit."),
    Preference("tree_max_depth", "number", 0, "Depth of ls; 0: all of it."),
    Preference("tree_round_nodes", "bool", True, "Whether nodes are drawn as o, else as +."),
    Preference("tree_show_root", "bool", True, "Whether ls shows the node that it begins at."),
    Preference("tree_status_mode", "bool", True, "Whether ls shows the status of each node."),
)
BY_NAME: Mapping[str, Preference] = {row.name: row for row in ROWS}


# ---- values --------------------------------------------------------------------------------------
def syntax(kind: str) -> str:
    """The values of a type, in configshell's words."""
    return {"bool": "true|false", "number": "NUMBER", "string": "STRING_OF_TEXT",
            "loglevel": "|".join(LEVELS), "color": "|".join((*COLOURS, "default")),
            "colordefault": "|".join((*COLOURS, "none")), "yesno": "Yes|No"}[kind]


def choices(kind: str) -> Tuple[str, ...]:
    """The few values of a type, () where there are many."""
    return () if kind in ("number", "string") else tuple(syntax(kind).split("|"))


def taken(kind: str, word: str, name: str) -> Any:
    """The value of a word.  Raises BadCall."""
    values = choices(kind)
    if kind == "bool" and word.lower() in values:
        return word.lower() == "true"
    if kind == "number" and word.isascii() and word.isdigit() and len(word) < 10:
        return int(word)
    if kind == "string" and word.isprintable():
        return word or None
    if kind in ("color", "colordefault", "loglevel") and word in values:
        return None if word in ("default", "none") else word
    raise errors.BadCall(f"Not setting {name}! Syntax error, {quoted(word)} is not "
                         f"{syntax(kind)}.", do="correct it")


def shown(kind: str, value: Any) -> str:
    """A value as `get` shows it."""
    if kind == "bool":
        return "true" if value else "false"
    if value is None:
        return {"color": "default", "colordefault": "none"}.get(kind, "n/a")
    return str(value)


# ---- the file ------------------------------------------------------------------------------------
class Preferences:
    """The preferences of a user.  A file that cannot be read is as none, and said in ``note``;
    ``text``: what it has, where another process has read it, and will write it."""

    def __init__(self, folder: Optional[str] = None, text: str = "") -> None:
        home = os.path.expanduser(os.environ.get(HOME) or FOLDER) if folder is None else folder
        #: "" where there is no home to keep it in
        self.folder = home if home.startswith("/") else ""
        self.values: Dict[str, Any] = {row.name: row.default for row in ROWS}
        self.bookmarks: Dict[str, str] = {}
        self.paths: Tuple[str, ...] = ("/",)
        self.index = 0
        self.note = ""
        self._load(text)

    @property
    def file(self) -> str:
        return os.path.join(self.folder, FILE)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def _load(self, text: str) -> None:
        if not self.folder and not text:
            return
        try:
            if not text:
                with open(self.file, "rb") as file:
                    text = file.read(MAX_BYTES).decode()
            self._take(json.loads(text))
        except FileNotFoundError:
            pass
        except (OSError, *errors.MISSHAPEN):
            self.note = f"{self.file} can't be read: the defaults are taken"

    def _take(self, tree: Mapping[str, Any]) -> None:
        for name, word in tree["global"].items():
            if name in BY_NAME:
                try:
                    self.values[name] = taken(BY_NAME[name].type, word, name)
                except errors.BadCall:
                    self.note = f"{self.file}: {quoted(str(name))} has a wrong value"
        self.bookmarks = {str(name): str(path) for name, path in tree["bookmarks"].items()}
        self.paths = tuple(map(str, tree["paths"]))[-REMEMBERED:] or ("/",)
        self.index = min(max(int(tree["index"]), 0), len(self.paths) - 1)

    def save(self) -> None:
        """Keep them.  Raises BadFile."""
        if not self.folder:
            return
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            write_file(self.file, self.text().encode(), durable=False)
        except OSError as error:
            raise errors.BadFile(f"{self.file} can't be written: {error.strerror}",
                                 do="look at the folder") from None

    def text(self) -> str:
        """The content of the file, as it shall be."""
        tree = {"global": {row.name: shown(row.type, self.values[row.name]) for row in ROWS
                           if self.values[row.name] != row.default},
                "bookmarks": self.bookmarks, "paths": list(self.paths), "index": self.index}
        return json.dumps(tree, indent=1, sort_keys=True) + "\n"

    def went(self, path: str) -> None:
        """Remember a path that was gone to, behind the one that is current."""
        if path != self.paths[self.index]:
            self.paths = (*self.paths[:self.index + 1], path)[-REMEMBERED:]
            self.index = len(self.paths) - 1
