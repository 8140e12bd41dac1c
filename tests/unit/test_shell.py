"""The shell's lines, its preferences and its table of commands."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from lio_handover import errors, verb_table
from lio_handover.shell import commands, main, preferences
from lio_handover.shell.line import Line, of_words, parse
from lio_handover.shell.preferences import Preferences


@pytest.mark.parametrize("text, line", [
    ("ls", Line(command="ls")),
    ("/iscsi", Line("/iscsi")),
    ("/iscsi/* status", Line("/iscsi/", True, "status")),
    ("*", Line("", True)),
    ("iscsi/ create iqn.2003-01.a:b", Line("iscsi/", command="create", words=("iqn.2003-01.a:b",))),
    ("@last ls depth=1", Line("@last", command="ls", values={"depth": "1"})),
    ("/a set auth userid= password=abc",
     Line("/a", command="set", words=("auth",), values={"userid": "", "password": "abc"})),
    ("/a set auth 'password=pass|word'", Line("/a", command="set",
                                              words=("auth", "password=pass|word"))),
    ("/a set auth password='pass|word'", Line("/a", command="set", words=("auth",),
                                              values={"password": "pass|word"})),
    ('/a create "a b" c\\ d=e', Line("/a", command="create", words=("a b", "c d=e"))),
    ('set auth password="a\\"b\\$"', Line(command="set", words=("auth",),
                                          values={"password": 'a"b$'})),
    ("/a create näme x={y}^z", Line("/a", command="create", words=("näme",),
                                    values={"x": "{y}^z"})),
    ("  ", None), ("# create target", None)])
def test_a_line_is_taken_as_a_shell_would_take_it(text: str, line: Line | None) -> None:
    assert parse(text) == line


@pytest.mark.parametrize("text", [
    "/a set auth password='x", 'create "', "create x\\", "create \x07", "create a=1 a=2",
    "create-now x", "a;b c", "/a create 'x\x1b'", "x" * 70000])
def test_what_cannot_be_taken_is_refused_whole(text: str) -> None:
    with pytest.raises(errors.BadCall):
        parse(text)


def test_one_argument_is_a_line_and_several_are_its_words() -> None:
    assert of_words(["/iscsi create 'a b'"]) == Line("/iscsi", command="create", words=("a b",))
    assert of_words(["/iscsi", "create", "a b"]) == Line("/iscsi", command="create", words=("a b",))
    assert of_words(["set", "auth", "password=it's"]) == Line(
        command="set", words=("auth",), values={"password": "it's"})
    with pytest.raises(errors.BadCall):
        of_words(["ls", "a\nb"])


# ---- preferences --------------------------------------------------------------------------------
def test_preferences_are_kept(tmp_path: Path) -> None:
    folder = str(tmp_path / "home")
    liked = Preferences(folder)
    assert liked["auto_add_mapped_luns"] is True and liked["color_command"] == "cyan"
    liked.values["auto_add_mapped_luns"] = preferences.taken("bool", "False", "x")
    liked.values["color_command"] = preferences.taken("color", "default", "x")
    liked.bookmarks["here"] = "/iscsi"
    liked.went("/iscsi")
    liked.save()
    again = Preferences(folder)
    assert again["auto_add_mapped_luns"] is False and again["color_command"] is None
    assert again.bookmarks == {"here": "/iscsi"} and again.paths == ("/", "/iscsi")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / preferences.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"global": 1}', "\x00", '{"global": {}, '
                                  '"bookmarks": {}, "paths": [], "index": "x"}'])
def test_a_file_of_something_else_is_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / preferences.FILE).write_text(text)
    liked = Preferences(str(tmp_path))
    assert liked["auto_enable_tpgt"] is True and "can't be read" in liked.note


def test_a_wrong_value_is_said(tmp_path: Path) -> None:
    (tmp_path / preferences.FILE).write_text(json.dumps(
        {"global": {"color_mode": "perhaps", "of": "others"}, "bookmarks": {}, "paths": ["/"],
         "index": 7}))
    liked = Preferences(str(tmp_path))
    assert liked["color_mode"] is True and "color_mode" in liked.note and liked.index == 0


@pytest.mark.parametrize("kind, word", [
    ("bool", "yes"), ("bool", "1"), ("number", "x"), ("number", "-1"), ("number", "1" * 20),
    ("color", "pink"), ("colordefault", "default"), ("loglevel", "loud"), ("string", "a\nb")])
def test_a_word_of_another_type_is_refused(kind: str, word: str) -> None:
    with pytest.raises(errors.BadCall, match="Not setting it! Syntax error"):
        preferences.taken(kind, word, "it")


# ---- commands -----------------------------------------------------------------------------------
@pytest.mark.parametrize("row", commands.rows(), ids=lambda row: f"{row.kinds}-{row.name}")
def test_a_row_has_what_runs_it(row: commands.Command) -> None:
    module, _, function = row.where.partition(".")
    if function:
        assert callable(getattr(main.module(module), function))
    else:
        known = {flag for option in verb_table.VERBS[module].typed for flag in option.flags}
        assert all({parameter.name, f"--{parameter.name}"} & known for parameter in row.parameters)
    assert row.kinds in commands.KINDS and row.help.endswith(".")
    needed = [parameter.needed for parameter in row.parameters]
    assert needed == sorted(needed, reverse=True)


def test_the_parameters_of_a_command() -> None:
    create = commands.of("luns")["create"]
    assert main.taken(create, ("a", "1"), {"add_mapped_luns": "false"}) == {
        "storage_object": "a", "lun": "1", "add_mapped_luns": "false"}
    for words, values, said in (
            ((), {}, "Missing required parameter storage_object"),
            (("a",), {"storage_object": "b"}, "Duplicate parameter storage_object"),
            (("a",), {"size": "b"}, "Unexpected keyword parameter 'size'"),
            (("a", "b", "c", "d"), {}, "Got 4 positionnal parameters, expected at most 3"),
            (("",), {}, "Missing required parameter storage_object")):
        with pytest.raises(errors.BadCall, match=said):
            main.taken(create, words, values)
