"""Where targetcli's save file is looked for: known places, the restoring unit, the owner's word."""
from __future__ import annotations

from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.savefile import places

PLAIN = "[Service]\nType=oneshot\nExecStart=/usr/bin/targetctl restore\n" \
        "ExecStop=/usr/bin/targetctl clear\n"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    made = tmp_path / "etc", tmp_path / "usr"
    for one in made:
        one.mkdir()
    monkeypatch.setattr(places, "FOLDERS", tuple(map(str, made)))
    monkeypatch.setattr(places, "KNOWN", (str(tmp_path / "known.json"),))
    return made


def unit(line: str) -> str:
    return PLAIN.replace("/usr/bin/targetctl restore", line, 1)


@pytest.mark.parametrize("line, files", [
    ("/usr/bin/targetctl restore", []),
    ("/usr/bin/targetctl restore /data/save.json", ["/data/save.json"]),
    ("-/usr/bin/targetctl restore \"/data/a b.json\"", ["/data/a b.json"]),
    ("/usr/bin/targetctl restore \\\n   /data/save.json", ["/data/save.json"]),
    ("/usr/bin/targetcli restoreconfig", []),
    ("/usr/bin/targetcli restoreconfig savefile=/data/save.json clear_existing=true",
     ["/data/save.json"]),
    ("/usr/bin/targetcli restoreconfig /data/save.json true", ["/data/save.json"]),
    ("/usr/bin/true", []),
])
def test_the_file_that_a_unit_restores(folders: tuple[Path, Path], line: str,
                                       files: list[str]) -> None:
    for name in places.UNITS:
        (folders[1] / name).write_text(unit(line))
    assert places.named() == files


@pytest.mark.parametrize("line", [
    "/usr/bin/targetctl restore $FILE", "/usr/bin/targetctl restore /data/%i.json",
    "/bin/sh -c 'targetctl restore /data/save.json'", "/usr/bin/targetctl restore data/save.json",
])
def test_what_cannot_be_told_is_refused_unless_the_owner_tells_it(folders: tuple[Path, Path],
                                                                  line: str) -> None:
    (folders[1] / "targetcli.service").write_text(unit(line))
    with pytest.raises(errors.SavefileBroken) as refused:
        places.everywhere()
    assert refused.value.what == f"which file targetcli.service restores can't be told: {line}"
    assert "savefiles in [host]" in refused.value.do
    assert places.named(["/data/save.json"]) == ["/data/save.json"]


def test_a_unit_is_read_as_systemd_reads_it(folders: tuple[Path, Path]) -> None:
    etc, usr = folders
    (usr / "target.service").write_text(unit("/usr/bin/targetctl restore /data/usr.json"))
    (usr / "target.service.d").mkdir()
    (usr / "target.service.d" / "10.conf").write_text(
        "[Service]\nExecStart=\nExecStart=/usr/bin/targetctl restore /data/dropin.json\n")
    assert places.named() == ["/data/dropin.json"]
    (etc / "target.service.d").mkdir()
    (etc / "target.service.d" / "10.conf").write_text("")     # masks the one of the same name
    assert places.named() == ["/data/usr.json"]
    (etc / "target.service").write_text(unit("/usr/bin/targetctl restore /data/etc.json"))
    assert places.named() == ["/data/etc.json"]
    (etc / "target.service").unlink()
    (etc / "target.service").symlink_to("/dev/null")
    assert places.named() == []


def test_named_files_come_first_and_only_those_that_are_there(folders: tuple[Path, Path],
                                                              tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    (folders[1] / "targetcli.service").write_text(unit(f"/usr/bin/targetctl restore {other}"))
    (tmp_path / "known.json").write_text("{}")
    assert places.everywhere() == [str(tmp_path / "known.json")]
    other.write_text("{}")
    assert places.everywhere() == [str(other), str(tmp_path / "known.json")]


def test_the_boot_unit_runs_before_each_unit_that_restores() -> None:
    folder = Path(__file__).parents[2] / "etc/systemd"
    for name, key in (("lio-handover-boot.service", "Before="),
                      ("lio-handover-boot.service", "RequiredBy="),
                      ("lio-handover-recover.service", "After="),
                      ("lio-handoverd.service", "After=")):
        words = [word for line in (folder / name).read_text().splitlines() if line.startswith(key)
                 for word in line[len(key):].split()]
        assert set(places.UNITS) <= set(words), name
