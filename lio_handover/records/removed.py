"""A removed target is kept as a document first, to be imported from again."""
from __future__ import annotations

import os
import time
from typing import List

from .. import errors
from ..document import representable
from ..document.document import Document
from ..document.envelope import with_digest
from ..errors import Finding
from ..system.atomic_file import write_file


def unkept(document: Document) -> List[Finding]:
    """Findings on parts of the document that import would not take again."""
    if not document.state.targets:
        return []  # nor is it kept
    return [Finding(errors.InUse, finding.subject,
                    f"what is removed could not be imported again, as "
                    f"{finding.sentence}", "unclear", finding.do)
            for finding in representable.findings(document)]


def keep(document: Document, directory: str) -> str:
    """Write it into ``<state directory>/removed/``; its path.  Raises BadFile."""
    folder = os.path.join(directory, "removed")
    stem = os.path.join(folder, time.strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}")
    path = next(candidate for candidate in (f"{stem}{more}.json" for more in ("", *(
        f"-{number}" for number in range(2, 1000)))) if not os.path.exists(candidate))
    if not document.state.targets:
        return ""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        write_file(path, with_digest(document.body, document.digest))
    except OSError as error:
        raise errors.BadFile(f"{path} can't be written: {error.strerror}",
                             do="make room: what is removed is kept there first") from None
    return path
