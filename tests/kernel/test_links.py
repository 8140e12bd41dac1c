"""The link of a LUN is looked for by the name that it had last, and found whatever it is called."""
from __future__ import annotations

import os
from typing import Optional

from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from tests import lab
from tests.bench import inhost
from tests.support import inwindow

LUN = f"{inhost.TPG}/lun/lun_0"
MAPPED = f"{inhost.TPG}/acls/{inhost.INITIATOR.format(0)}/lun_0"


def links_as_others_change_them(folder: str) -> list[tuple[list[str], list[Optional[int]]]]:
    """(names of the LUN's and the mapped LUN's links, what the latter leads to), as one reader of
    the tree sees them: at first, with the mapped LUN's link gone, and with both made again by other
    names."""
    inwindow.serve(folder, 1, 0)
    fs = Configfs()

    def seen() -> tuple[list[str], list[Optional[int]]]:
        tpg = Reader(fs, reservations=False).state().targets[0].tpgs[0]
        mapped = tpg.acls[0].mapped_luns[0]
        return [tpg.luns[0].alias, mapped.alias], [mapped.lun]

    found = [seen()]
    os.unlink(fs.path(f"{MAPPED}/link"))
    found.append(seen())
    os.unlink(fs.path(f"{LUN}/link"))
    os.symlink(fs.path("core/fileio_0/disk0"), fs.path(f"{LUN}/another"))
    os.symlink(fs.path(LUN), fs.path(f"{MAPPED}/third"))
    found.append(seen())
    inhost.down()
    return found


def test_links_that_others_make_by_other_names_are_found(bed: lab.Lab, newest: lab.Host) -> None:
    assert newest.call(links_as_others_change_them, str(bed.shared / "links")) == [
        (["link", "link"], [0]), (["link", ""], [None]), (["another", "third"], [0])]
