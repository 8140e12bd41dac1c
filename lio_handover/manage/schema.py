"""The JSON Schema of the file of `apply`, made of the tables; the check of a file against it.

An editor completes and checks by the same schema, which ``python3 -m lio_handover.manage.schema``
prints, and scripts/install puts into /usr/share/lio-handover.
"""
from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Sequence

from .. import errors
from ..model import fabrics
from ..model.attributes import SECRET, U16, Attribute, row as row_of
from .nouns import ALIASES, BACKSTORES, NOUNS, PORTAL, Parameter, targetcli_name
from .settable import SECRETS, names

Schema = Dict[str, Any]

#: The version of the file: the only one.
VERSION = 1
#: The name of the file that an editor is given.
FILE = "targets.schema.json"
_SWITCH: Schema = {"enum": [True, False, 0, 1]}
_TEXT: Schema = {"type": ["string", "integer"]}
#: A secret is the content of a file, or what this host has.
SECRET_SCHEMA: Schema = {
    "description": "{file: PATH}: the first line of a file; {keep: true}: what this host has",
    "oneOf": [{"type": "object", "properties": {"file": {"type": "string", "pattern": "^/"}},
               "required": ["file"], "additionalProperties": False},
              {"type": "object", "properties": {"keep": {"const": True}}, "required": ["keep"],
               "additionalProperties": False}]}
_TYPES: Mapping[str, Schema] = {
    "path": {"type": "string", "pattern": "^/"},
    "size": {"type": ["string", "integer"], "pattern": "^[0-9]+[kKmMgGtT]?[iI]?[bB]?$",
             "minimum": 1},
    "bool": _SWITCH, "number": {"type": "integer", "minimum": 0},
    "id": {"type": "integer", "minimum": 1, "maximum": U16}, "text": _TEXT, "serial": _TEXT}
#: Group of `set` → the member of the file that has its attributes.
MEMBERS = {"attribute": "attributes", "parameter": "parameters", "auth": "auth", "wwn": "inquiry"}


def _object(properties: Mapping[str, Any], needed: Sequence[str] = (), text: str = "") -> Schema:
    return {"type": "object", **({"description": text} if text else {}),
            "properties": dict(properties), "additionalProperties": False,
            **({"required": [*needed]} if needed else {})}


def _keyed(pattern: str, value: Schema, text: str = "") -> Schema:
    return {"type": "object", **({"description": text} if text else {}),
            "patternProperties": {pattern: value}, "additionalProperties": False}


def of_attribute(row: Attribute) -> Schema:
    """The schema of an attribute's value."""
    if row.kind == SECRET:
        return SECRET_SCHEMA
    if row.allowed:
        numbers = [int(word) for word in row.allowed if word.isdigit()]
        return {"enum": [*row.allowed, *numbers]}
    if row.numeric:
        low, high = row.range
        return _SWITCH if (low, high) == (0, 1) else {
            "type": "integer", "minimum": low, "maximum": high}
    return {"type": ["string", "integer", "boolean"], "maxLength": row.longest}


def _attributes(kind: str, owner: str, groups: Sequence[str] = ()) -> Dict[str, Schema]:
    """{member: its schema} of the attributes of a kind of object."""
    noun, members = NOUNS[kind], {}
    for group, words in names(noun, owner).items():
        prefix = noun.groups[group]
        inside = {}
        for word in words:
            path = ALIASES.get(kind, {}).get(prefix + word, prefix + word)
            row = row_of(kind, owner, path)
            assert row is not None
            inside[word] = {**of_attribute(row), **(
                {"default": row.default_of(owner)} if row.default_of(owner) and row.kind != SECRET
                else {})}
        if not groups or group in groups:
            if group in MEMBERS:
                members[MEMBERS[group]] = _object(inside)
            else:
                members.update(inside)
    return members


def _parameters(rows: Sequence[Parameter]) -> Dict[str, Schema]:
    return {row.name: {**_TYPES[row.type], "description": row.help + (
        f"; without it: {row.default}" if row.default else "")} for row in rows
        if row.type not in ("name",)}


def _backstore(plugin: str) -> Schema:
    rows = BACKSTORES[plugin]
    groups = _attributes("alua_group", "")
    needed = [row.name for row in rows if row.needed and row.name != "name"]
    return _object({
        **_attributes("backstore", plugin), **_parameters(rows), "lu_group": {"type": "string"},
        "alua": _keyed("^[^/]+$", _object({"tag": _TYPES["id"], **groups}),
                       "its ALUA groups by name")}, needed)


def _tpg(fabric: str) -> Schema:
    row = fabrics.of(fabric)
    number = "^(0|[1-9][0-9]*)$"
    lun = {"anyOf": [{"type": "string"}, _object({
        "backstore": {"type": "string"}, **_attributes("lun", fabric)}, ["backstore"])]}
    mapped = {"anyOf": [{"type": "integer", "minimum": 0}, _object({
        "lun": {"type": "integer", "minimum": 0}, **_attributes("mapped_lun", fabric)}, ["lun"])]}
    members = {**_attributes("tpg", fabric), "luns": _keyed(
        number, lun, "number: PLUGIN/NAME of the backstore")}
    if row.nexus:
        members["nexus"] = {"type": "string"}
    if row.portals:
        members["portals"] = {
            "description": f"ADDRESS:PORT, [ADDRESS]:PORT; without it: {PORTAL}",
            "anyOf": [{"type": "array", "items": {"type": "string"}}, _keyed(
                "^.+:[0-9]+$", {"anyOf": [{"type": "null"}, _object(
                    _attributes("portal", fabric))]})]}
    members["acls"] = _keyed("^[^/]+$", {"anyOf": [{"type": "null"}, _object({
        **_attributes("acl", fabric), "mapped_luns": _keyed(
            number, mapped, "number: LUN of the TPG; without it: each LUN, its own number")})]},
        "the initiators by name")
    return _object(members)


@lru_cache(maxsize=None)
def schema() -> Schema:
    """The schema of the file (JSON Schema 2020-12)."""
    plugins_of = {f"^({'|'.join(sorted({plugin, targetcli_name(plugin)}))})/[^/]+$":
                  _backstore(plugin) for plugin in BACKSTORES}
    targets = {f"^{name}/({'|'.join(prefix.replace('.', '[.]') for prefix in row.wwns)}).+$": {
        "anyOf": [{"type": "null"}, _keyed("^tpg(0|[1-9][0-9]*)$", {"anyOf": [
            {"type": "null"}, _tpg(name)]})]} for name, row in fabrics.FABRICS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a host shall serve (lio-handover apply)",
        "description": "Only what differs from the defaults need be there.",
        **_object({
            "version": {"const": VERSION},
            "backstores": {"type": "object", "patternProperties": plugins_of,
                           "additionalProperties": False},
            "lu_groups": _keyed("^[^/]+$", {"anyOf": [{"type": "null"}, _object(
                {"id": _TYPES["id"]})]}),
            "targets": {"type": "object", "patternProperties": targets,
                        "additionalProperties": False},
            "discovery_auth": _object(_attributes("discovery_auth", ""))})}


# ---- a file against it ---------------------------------------------------------------------------
def check(tree: Any) -> None:
    """Raises BadStructure where a file does not fit the schema, ModuleMissing without jsonschema.
    The message has names of the file, and no values: they may be secrets."""
    try:
        validator = _validator()
    except ImportError:
        raise errors.ModuleMissing("jsonschema is not installed, which checks the file",
                                   do="apt install python3-jsonschema") from None
    error = next(validator.iter_errors(tree), None)
    if error is not None:
        while error.context:
            error = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator
                                                          != "type"))
        if {*map(str, error.absolute_path)} & SECRETS:
            error.validator = "oneOf"
        where = " / ".join(errors.shown(str(word)) for word in error.absolute_path) or "the file"
        raise errors.BadStructure(f"{where}: {_said(error)}", do="correct the file")


@lru_cache(maxsize=None)
def _validator() -> Any:
    import jsonschema
    return jsonschema.Draft202012Validator(schema())


def _said(error: Any) -> str:
    """The fault in words, without the value that is wrong."""
    wanted = error.validator_value
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", ()))
        extra = [name for name in error.instance if name not in known] \
            if isinstance(error.instance, dict) else []
        patterns = sorted(error.schema.get("patternProperties", ()))
        return f"{errors.quoted(str(extra[0]) if extra else '?')} is not known there" + (
            f" (there may be {', '.join(known)})" if known and len(known) < 40 else
            f" (a name there fits {patterns[0]})" if len(patterns) == 1 else "")
    if error.validator == "required":
        missing = [name for name in wanted if name not in error.instance]
        return f"{', '.join(missing)} is missing"
    if error.validator == "type":
        return "is not of type " + (" or ".join(wanted) if isinstance(wanted, list)
                                    else str(wanted))
    if error.validator in ("enum", "const"):
        values: List[Any] = wanted if error.validator == "enum" else [wanted]
        return "is not one of " + ", ".join(json.dumps(value) for value in values)
    if error.validator in ("minimum", "maximum"):
        return f"its {error.validator} is {wanted}"
    return {"pattern": f"does not fit {wanted}", "maxLength": f"has more than {wanted} characters",
            "anyOf": "has none of the forms that it may have",
            "oneOf": "is none of {file: PATH} and {keep: true}"}.get(
                error.validator, f"does not fit: {error.validator}")


def text() -> str:
    """The schema as it is installed."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print the schema, or write its file into the folder that is named."""
    if not argv:
        print(text(), end="")
        return 0
    with open(os.path.join(argv[0], FILE), "w") as file:
        file.write(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
