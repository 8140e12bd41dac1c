"""The library: its names, and the examples of the manual on real kernels."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

import lio_handover as lio
from lio_handover import library
from tests import lab
from tests.drivers.test_move_lab import PEERS, Pair, pair, serving
from tests.support import inbus, inhandover, inhost, samples
from tests.support.commandline import CHECKOUT
from tests.support.inhandover import TARGET

__all__ = ["pair"]
EXAMPLES = CHECKOUT / "docs" / "examples"
INSTALLED = "/usr/share/doc/lio-handover/examples"


def test_the_names_are_those_of_the_manual() -> None:
    assert lio.__all__ == ["Host", "State", "Document", "Plan", "Finding", "load", "move",
                           "connect", "errors", "model", "__version__"]
    public = {name for name in dir(lio) if not name.startswith("_")} | {"__version__"}
    assert public == set(lio.__all__)
    for name in lio.__all__:
        assert getattr(lio, name) is not None
    assert lio.Host is library.Host
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(lio, "nonsense")
    text = (CHECKOUT / "docs" / "api.md").read_text()
    assert all(f"`{name}" in text for name in lio.__all__)
    methods = {name for name in vars(lio.Host) if not name.startswith("_")} - {"settings"}
    row = next(line for line in text.splitlines() if line.startswith("| `Host("))
    assert methods == set(row.split("`")[3::2])


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, lio_handover; dir(lio_handover); print(*sorted(" \
        "name for name in sys.modules if name.startswith('lio_handover')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True,
                          text=True, check=True)
    assert done.stdout.split() == ["lio_handover"]


def test_its_help_says_how_to_begin() -> None:
    done = subprocess.run([sys.executable, "-m", "pydoc", "lio_handover"], cwd=CHECKOUT,
                          capture_output=True, text=True, check=True)
    for line in ("host = lio.Host()", "class Host(", "frozen(self, *targets", "move(targets"):
        assert line in done.stdout, line


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(lio.errors.NotRoot) as caught:
        lio.Host()
    assert caught.value.next == "sudo" and caught.value.code == lio.errors.NotRoot.code


def test_a_document_is_a_file(tmp_path: Any) -> None:
    document = samples.document(samples.iscsi(chap=True), True)
    path = str(tmp_path / "document")
    document.save(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    again = lio.load(path)
    assert (again, again.digest) == (document, document.digest)
    assert again.targets == (f"iscsi/{samples.IQN}",)
    (lun, *_) = again.state.luns(again.targets[0])
    assert lun.backstore in again.state.backstores and again.state.luns("iscsi/iqn.x:y") == ()


# ── on real kernels ──────────────────────────────────────────────────────────────────────────

def example(host: lab.Host, name: str, *words: str) -> str:
    """What an example that is installed prints."""
    shell = ["/bin/sh"] if name.endswith(".sh") else ["/usr/bin/python3"]
    done = host.run([*shell, f"{INSTALLED}/{name}", *words], timeout=120, check=False,
                    env={**os.environ, "PYTHONPATH": "/usr/lib/lio-handover"})
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def refusals(target: str) -> list[tuple[str, str]]:
    """What a plan that is not for this host any more, and an unknown target, are refused with."""
    host = lio.Host(inhost.SETTINGS)
    found: list[tuple[str, str]] = []
    calls: Sequence[Any] = (lambda: host.check("iscsi/iqn.x:y"), lambda: host.freeze(),
                            lambda: host.thaw(target))
    for call in calls:
        try:
            call()
        except lio.errors.HandoverError as error:
            found.append((type(error).__name__, error.next))
    return found


def thawed_where_it_fails(target: str) -> tuple[str, bool]:
    """The gate inside and after a block that fails before anything is exported."""
    host = lio.Host(inhost.SETTINGS)
    inside = ""
    try:
        with host.frozen(target):
            inside = ",".join(inhandover.gates().values())
            raise KeyError("nothing was exported")
    except KeyError:
        pass
    return inside, set(inhandover.gates().values()) == {"1"}


def by_service(target: str, host: str = "") -> dict[str, Any]:
    """Every verb of the service that leaves the target as it is."""
    with lio.connect(host) as service:
        found: dict[str, Any] = {
            "shown": service.show(target)["state"]["targets"][0]["wwn"],
            "findings": service.check(target),
            "frozen": (service.freeze(target).targets, inhandover.gates()),
            "thawed": service.thaw(target).targets}
        document = service.export(target)
        service.verify(document)
        try:
            service.plan(document)
        except lio.errors.NotFrozen as error:
            found["plan"] = (error.code, [finding.override for finding in error.findings])
        try:
            service.move([target], "nowhere")
        except lio.errors.BadCall as error:
            found["move"] = error.what
        try:
            service.remove("iscsi/iqn.x:y")
        except lio.errors.HandoverError as error:
            found["remove"] = type(error).__name__
    return {**found, "targets": document.targets, "digest": len(document.digest)}


def test_the_examples_run(bed: lab.Lab, pair: Pair) -> None:  # noqa: F811
    a, b = pair
    a.call(inhost.build, inhandover.state(bed.shared))
    shown = example(a, "01_show_and_check.py", TARGET)
    assert f"LUN 0: {bed.shared}/zero.img, 2 registrations, reservation of type 5" in shown
    assert "LUN 1: " in shown and "(--allow " not in shown
    assert a.call(refusals, TARGET) == [
        ("NoSuchTarget", "lio-handover show"), ("BadCall", "name targets"),
        ("NoSuchTarget", "lio-handover show")]
    assert a.call(thawed_where_it_fails, TARGET) == ("0", True)
    by_bus = a.call(by_service, TARGET)
    assert set(by_bus.pop("frozen")[1].values()) == {"0"}
    expected = {"shown": TARGET.partition("/")[2], "findings": (), "thawed": (TARGET,),
                "plan": (lio.errors.NotFrozen.code, ["not-frozen"]), "remove": "NoSuchTarget",
                "targets": (TARGET,), "digest": 64,
                "move": "option to: 'nowhere' is not among [service] peers"}
    assert by_bus == expected
    assert "prepare done" in example(a, "05_service_by_dbus_python.py", TARGET)
    busctl = example(a, "06_busctl.sh", TARGET)
    assert ".Freeze " in busctl and f'"{TARGET}"' in busctl and '"sessions"' in busctl

    for host in pair:
        host.call(inbus.install, inhost.CONFIG + PEERS)
    moved = example(a, "07_move_by_dbus_python.py", TARGET, "b", "--here", "a")
    assert f"{TARGET} is on b: window " in moved and "/10 " in moved and serving(pair) == [b]
    moved = example(b, "04_move.py", TARGET, "a", "b")
    assert f"{TARGET} is on a: nobody served for " in moved and serving(pair) == [a]

    far = b.call(by_service, TARGET, "a")  # by ssh: documents go in pieces
    assert far.pop("frozen")[0] == (TARGET,)
    assert far == {**expected, "move": f"a says: {expected['move']}"}

    file = str(bed.shared / "document.json")
    assert f"{TARGET}: {file}, digest " in example(a, "02_freeze_and_export.py", TARGET, file)
    assert serving(pair) == [] and (bed.shared / "document.json").stat().st_mode & 0o777 == 0o600
    planned = example(b, "03_plan_and_apply.py", file)
    assert "mkdir " in planned and " writes to the kernel" in planned and serving(pair) == [b]
