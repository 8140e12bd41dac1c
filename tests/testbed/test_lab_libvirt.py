"""The examples for libvirt are XML that libvirt takes, and that names the guest's target to us."""
from __future__ import annotations

from pathlib import Path

import pytest

from lio_handover.hooks import domain
from tests.lab import libvirt
from tests.support.commandline import CHECKOUT

EXAMPLES = sorted((CHECKOUT / "docs" / "examples").glob("*_libvirt_*.xml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_domain_to_each_libvirt(example: Path, tmp_path: Path) -> None:
    for role in libvirt.SUITES:
        code, said = libvirt.validate(role, example)
        assert (code, said) == (0, f"{example} validates\n")
        (tmp_path / "wrong.xml").write_text(example.read_text().replace("qemu:arg", "qemu:word"))
        assert libvirt.validate(role, tmp_path / "wrong.xml")[0] != 0
    known = domain.parse(example.read_bytes())
    assert (known.name, known.targets) == ("vm1", ("vhost/naa.5001405000000001",))
