"""`lio-handover shell` where lio-handoverd runs: its changes go through that."""
from __future__ import annotations

import pytest

from tests import lab
from tests.conftest import Pool
from tests.support import inshellbus
from tests.support.inbus import Service
from tests.support.one_liners import STORIES


@pytest.fixture
def service(bed: lab.Lab, _pool: Pool) -> Service:
    """A host of its own: what is installed there stays."""
    service = Service(_pool.take("stable", name="bus")[0])
    service.start()
    return service


def test_each_line_comes_to_the_same_by_the_service(service: Service, bed: lab.Lab) -> None:
    """Its exit code, its texts, the kernel's tree and the user's preferences."""
    folder = f"{bed.shared}/roads"
    texts = [[(line.text.replace("{dir}", folder).replace("{disk}", "/dev/ubda"), line.row)
              for line in story.lines] for story in STORIES]
    by_the_service, wrong = service.call(inshellbus.stories, texts, folder, timeout=280)
    assert not wrong, "\n".join(f"{text}: {here}, alone {there}" for text, here, there in wrong)
    assert by_the_service > 40


def test_what_is_typed_goes_through_the_service(service: Service, bed: lab.Lab) -> None:
    found = service.call(inshellbus.roads, timeout=120)
    assert [code for code, _, _ in found["made"]] == [0, 0, 0], found["made"]
    code, said, why = found["typed"]
    assert code == 1 and "line 3: Command not found 'nonsense'" in why, found["typed"]
    assert said.count("Created Node ACL for ") == 2 and said.count("Created mapped LUN 0.") == 2
    assert found["secret"] == "secretsecret12" and "secretsecret" not in said + why
    assert found["last"][1].startswith("/iscsi/") and found["last"][1].endswith("example:you\n")
    for case, what in (("wrong", "nothing was changed"), ("taken", "already exists"),
                       ("twice", "Duplicate parameter lun.")):
        code, said, why = found[case]
        assert (code, said) == (1, "") and what in why and why.count("\n") == 1, found[case]
    assert found["by the service"] == 5
    assert found["program"].startswith("Deleted Node ACL ") and found["kept"] == []
