"""A file of `apply`, YAML or JSON → plain data: mappings, lists, text, whole numbers, switches.

The reader takes of YAML what people write by hand: no anchors and aliases (by which a short file
becomes a huge one), no tags, no second document, no key twice.  Words that are neither true, false,
null nor a plain number stay the text that they are.
"""
from __future__ import annotations

import json
import re
from typing import Any, Dict, List, NoReturn, Tuple

from .. import errors
from ..errors import quoted

#: Bytes of a file, levels of it, and values in it, at most.
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 8 << 20, 16, 500_000
NUMBER = re.compile("0|-?[1-9][0-9]{0,18}")
_PLAIN = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None,
          "": None}


def _fail(what: str) -> NoReturn:
    raise errors.BadStructure(what, do="correct the file")


def load(data: bytes) -> Any:
    """The data of a file.  Raises TooLarge, TooDeep, NotJson, BadStructure, Duplicate,
    ModuleMissing where YAML is given and PyYAML is not there."""
    if len(data) > MAX_BYTES:
        raise errors.TooLarge(f"the file has {len(data)} bytes, more than {MAX_BYTES}",
                              do="describe fewer targets in one file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.NotJson(f"byte {error.start} is not UTF-8", do="write the file as UTF-8"
                             ) from None
    if "\0" in text:
        raise errors.NotJson("the file has a NUL", do="correct the file")
    return _of_json(text) if text.lstrip()[:1] in ("{", "[") else _of_yaml(text)


def _of_json(text: str) -> Any:
    if max(text.count("{"), text.count("[")) > MAX_VALUES:
        raise errors.TooLarge("the file has too many objects", do="describe fewer targets in one "
                                                                  "file")
    try:
        tree = json.loads(text, object_pairs_hook=_once, parse_float=_no_float,
                          parse_constant=_no_float)
    except json.JSONDecodeError as error:
        raise errors.NotJson(f"line {error.lineno}: {error.msg}", do="correct the file") from None
    except RecursionError:
        raise errors.TooDeep(f"the file is nested more than {MAX_DEPTH} levels",
                             do="correct the file") from None
    except ValueError as error:
        if isinstance(error, errors.MISSHAPEN) and not isinstance(error, errors.HandoverError):
            _fail("a number has too many digits")
        raise
    _bound(tree)
    return tree


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    members: Dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise errors.Duplicate(f"{quoted(name)} is there twice", do="correct the file")
        members[name] = value
    return members


def _no_float(word: str) -> NoReturn:
    _fail(f"{quoted(word)} is no whole number")


def _bound(tree: Any) -> None:
    """Raises TooDeep, TooLarge."""
    level, left = [tree], MAX_VALUES
    for _depth in range(MAX_DEPTH):
        below: List[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        left -= len(below)
        if left < 0:
            raise errors.TooLarge(f"the file has more than {MAX_VALUES} values",
                                  do="describe fewer targets in one file")
        if not below:
            return
        level = below
    raise errors.TooDeep(f"the file is nested more than {MAX_DEPTH} levels", do="correct the file")


# ---- YAML ---------------------------------------------------------------------------------------
def _of_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise errors.ModuleMissing("PyYAML is not installed, and the file is not JSON",
                                   do="apt install python3-yaml, or write JSON") from None
    try:
        return _Builder(yaml).build(yaml.parse(text, getattr(yaml, "CSafeLoader",
                                                             yaml.SafeLoader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = str(getattr(error, "problem", "") or "it is no YAML")
        raise errors.NotJson((f"line {mark.line + 1}: " if mark else "") + errors.shown(what),
                             do="correct the file") from None


class _Builder:
    """The events of a file → its data."""

    def __init__(self, yaml: Any) -> None:
        self.yaml, self.left = yaml, MAX_VALUES
        #: the containers that are not closed: (container, key that waits for its value)
        self.open: List[Tuple[Any, List[Any]]] = []
        self.documents = 0
        self.tree: Any = None

    def build(self, events: Any) -> Any:
        yaml = self.yaml
        for event in events:
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self._fail(event, "anchors and aliases are not taken")
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self._fail(event, "there is a second document in it")
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._untagged(event)
                if len(self.open) >= MAX_DEPTH:
                    raise errors.TooDeep(f"line {event.start_mark.line + 1}: nested more than "
                                         f"{MAX_DEPTH} levels", do="correct the file")
                container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                self._add(event, container, key=False)
                self.open.append((container, []))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self.open.pop()
            elif isinstance(event, yaml.ScalarEvent):
                self._untagged(event)
                self._add(event, self._scalar(event), key=True)
        return self.tree

    def _untagged(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            self._fail(event, "tags are not taken")

    @staticmethod
    def _scalar(event: Any) -> Any:
        word = event.value
        if event.style:  # quoted, or a block
            return word
        if word in _PLAIN:
            return _PLAIN[word]
        return int(word) if NUMBER.fullmatch(word) else word

    def _add(self, event: Any, value: Any, key: bool) -> None:
        self.left -= 1
        if self.left < 0:
            raise errors.TooLarge(f"the file has more than {MAX_VALUES} values",
                                  do="describe fewer targets in one file")
        if not self.open:
            self.tree = value
            return
        container, waiting = self.open[-1]
        if isinstance(container, list):
            container.append(value)
        elif waiting:
            container[waiting.pop()] = value
        else:
            if not key:
                self._fail(event, "a name is a mapping or a list")
            name = event.value
            if name in container:
                raise errors.Duplicate(f"line {event.start_mark.line + 1}: {quoted(name)} is there "
                                       "twice", do="correct the file")
            container[name] = None
            waiting.append(name)

    @staticmethod
    def _fail(event: Any, what: str) -> NoReturn:
        _fail(f"line {event.start_mark.line + 1}: {what}")
