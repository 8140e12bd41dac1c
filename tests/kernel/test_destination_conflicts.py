"""What a destination has already, or by itself: discovery auth, attributes of no table."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.host.looked_at import View
from lio_handover.kernel.configfs import Configfs
from lio_handover.model import attributes, defaults
from lio_handover.model.objects import DiscoveryAuth, State
from lio_handover.views import json_view
from tests import lab
from tests.lab.inside import TARGET, forget_discovery
from tests.support import inhost, samples

OTHER = "iqn.2026-11.org.example:other"
SET = {"userid": "anyone", "password": "secret of discovery", "userid_mutual": "array",
       "password_mutual": "secret of the answer", "enforce_discovery_auth": "1"}
UNSET = {"userid": "", "password": "", "userid_mutual": "", "password_mutual": "",
         "enforce_discovery_auth": "0"}


# ── inside the host ──────────────────────────────────────────────────────────────────────────

def discovery(values: dict[str, str]) -> None:
    """Write them, by bare hands."""
    folder = TARGET / "iscsi" / "discovery_auth"
    folder.parent.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)


def discovery_here() -> dict[str, str]:
    folder = TARGET / "iscsi" / "discovery_auth"
    return {name: (folder / name).read_text().strip() for name in SET}


def handed_over(values: dict[str, str]) -> bytes:
    """The document of all that is here, which goes, together with discovery auth."""
    discovery(values)
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    (TARGET / "iscsi").rmdir()
    forget_discovery()
    return data


class NoGate(Configfs):
    """A kernel that opens no gate."""

    def write(self, path: str, data: bytes) -> None:
        if path.endswith("tpgt_1/enable") and data == b"1\n":
            raise OSError(5, "injected")
        super().write(path, data)


def import_without_gate(data: bytes) -> None:
    one = inhost.core(NoGate())
    one.import_(one.ready(documents.loads(data)))


def forget(path: str) -> None:
    """Have tables as those of years ago, which did not know this; for one call."""
    attributes._INDEX["backstore", "fileio"].pop(path)
    table = defaults.DEFAULTS["backstore", "fileio"]
    assert isinstance(table, dict)
    table.pop(path)


UNKNOWN = "attrib/emulate_caw"


def write_unknown(value: str) -> None:
    (TARGET / "core/fileio_0/disk0" / UNKNOWN).write_text(value)


def read_unknown() -> str:
    return (TARGET / "core/fileio_0/disk0" / UNKNOWN).read_text().strip()


def export_unknown() -> bytes:
    forget(UNKNOWN)
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    return data


def import_unknown(data: bytes, *allow: str) -> tuple[str, ...]:
    forget(UNKNOWN)
    return inhost.import_(data, allow).notes


# ── tests ────────────────────────────────────────────────────────────────────────────────────

def plain(bed: lab.Lab, wwn: str = samples.IQN, name: str = "disk0", port: str = "3260") -> State:
    """A target with one file, and nothing said of it that the kernel can say itself."""
    path = bed.shared / f"{name}.img"
    path.write_bytes(b"\0" * lab.MiB)
    state = samples.iscsi(paths=[str(path)], wwn=wwn, portals=[f"0.0.0.0:{port}"])
    store, = state.backstores
    store = replace(store, key=("backstore", "fileio", name), hba="", alua_groups=(), parameters={
        **store.parameters, "fd_dev_size": str(lab.MiB)},
        attributes={"wwn/vpd_unit_serial": f"serial-{name}"})
    target, = state.targets
    tpg, = target.tpgs
    luns = tuple(replace(lun, backstore=store.key) for lun in tpg.luns)
    wanted = {"attrib/authentication": "0", "enable": "1", "rtpi": port}
    return State((), (store,), (replace(target, tpgs=(
        replace(tpg, luns=luns, attributes=wanted),)),))


def test_discovery_auth_moves_to_a_host_that_has_none(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, plain(bed))
    data = stable.call(handed_over, SET)
    stable.call(inhost.import_, data)
    assert stable.call(discovery_here) == SET
    assert stable.call(inhost.import_, data).writes == 0
    stable.call(inhost.freeze)
    stable.call(inhost.remove)      # another target may need it
    assert stable.call(discovery_here) == SET
    stable.call(inhost.import_, data)       # and it is the same


@pytest.mark.parametrize("source, there", [
    pytest.param(SET, {**SET, "userid": "somebody"}, id="user", marks=pytest.mark.full),
    pytest.param(SET, {**SET, "password": "another"}, id="password"),
    pytest.param(UNSET, SET, id="only here"),
    pytest.param(SET, {**SET, "enforce_discovery_auth": "0"}, id="not enforced",
                 marks=pytest.mark.full)])
def test_discovery_auth_of_the_host_is_not_overwritten(
        source: dict[str, str], there: dict[str, str], bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, plain(bed))
    data = stable.call(handed_over, {} if source is UNSET else source)
    stable.call(discovery, there)
    before = stable.call(inhost.tree)
    with pytest.raises(errors.CannotRepresent, match="discovery_auth") as caught:
        stable.call(inhost.import_, data)
    assert not any(value in str(caught.value) for value in SET.values() if "secret" in value)
    assert stable.call(inhost.tree) == before
    stable.call(inhost.import_, data, ("discovery-auth",))
    assert stable.call(discovery_here) == there


def test_discovery_auth_is_not_set_for_targets_that_are_here(bed: lab.Lab,
                                                             stable: lab.Host) -> None:
    stable.call(inhost.build, plain(bed))
    data = stable.call(handed_over, SET)
    stable.call(inhost.build, plain(bed, OTHER, "other", "3261"))
    with pytest.raises(errors.CannotRepresent, match=OTHER):
        stable.call(inhost.import_, data)
    stable.call(inhost.import_, data, ("discovery-auth",))
    assert stable.call(discovery_here) == UNSET


def test_an_undone_import_leaves_no_discovery_auth(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, plain(bed))
    data = stable.call(handed_over, SET)
    stable.call(discovery, {})
    with pytest.raises(errors.KernelRefused, match="nothing was changed"):
        stable.call(import_without_gate, data)
    # The kernel can't be told to forget: it says NULL, and does as if there was nothing.
    assert stable.call(discovery_here) == {name: "NULL" if value == "" else value
                                           for name, value in UNSET.items()}
    stable.call(inhost.import_, data)
    assert stable.call(discovery_here) == SET


def test_documents_without_discovery_auth_are_read() -> None:
    state = samples.iscsi()
    old = documents.dumps(samples.document(state))
    assert b"discovery_auth" not in old and documents.loads(old).state.discovery_auth is None
    new = replace(state, discovery_auth=DiscoveryAuth(attributes=SET))
    read = documents.loads(documents.dumps(samples.document(new)))
    assert read.state.discovery_auth == new.discovery_auth
    shown = json.dumps(json_view.view_tree(View(read.state)))
    assert "secret of" not in shown + repr(read) and '"password": "(secret)"' in shown


def test_an_attribute_that_no_table_knows_has_to_be_the_same(bed: lab.Lab,
                                                             newest: lab.Host) -> None:
    newest.call(inhost.build, plain(bed))
    same = newest.call(export_unknown)
    assert any(UNKNOWN in note for note in newest.call(import_unknown, same))

    newest.call(write_unknown, "0")
    other = newest.call(export_unknown)
    before = newest.call(inhost.tree)
    with pytest.raises(errors.CannotRepresent, match=f"{UNKNOWN} is 1 instead of 0.*"
                       "nothing was changed.*unknown-attribute"):
        newest.call(import_unknown, other)
    assert newest.call(inhost.tree) == before
    newest.call(import_unknown, other, "unknown-attribute")
    assert newest.call(read_unknown) == "1"
