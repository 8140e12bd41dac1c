"""The previous landing: its tree, out of this repository's own history, see CONTRIBUTING.md."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.inbus import CHECKOUT

#: One line: the commit that is the neighbour.
NAMED = CHECKOUT / "tests" / "neighbour.txt"
#: Set where tests run from a copy of the checkout, see scripts/lib/setup.sh.
REPOSITORY = "LIO_HANDOVER_REPOSITORY"
#: Of its tree, what runs.
PARTS = ("lio_handover", "scripts")
#: Its compiled modules lie beside the others, and end with them.
ENVIRONMENT = {"PYTHONPYCACHEPREFIX": ""}
#: Its service: what /run/daemon is made of, see inbus.Service.restart.
DAEMON = """
import os, sys
sys.pycache_prefix = None
os.environ.pop("PYTHONPYCACHEPREFIX", None)
sys.path.insert(0, {folder!r})
from lio_handover.service.main import main
sys.exit(main())
"""


class NoNeighbour(Exception):
    """The commit that NAMED names is not to be had."""


def commit(path: Path = NAMED) -> str:
    """The id of the neighbour's commit.  Raises NoNeighbour."""
    words = path.read_text().split()
    if len(words) != 1 or len(words[0]) != 40 or set(words[0]) - set("0123456789abcdef"):
        raise NoNeighbour(f"{path} is not one line with the 40 digits of a commit")
    return words[0]


def take(folder: Path, name: str = "", repository: str = "") -> Path:
    """The tree of that commit below ``folder``; where its launcher is.  Raises NoNeighbour."""
    name = name or commit()
    repository = repository or os.environ.get(REPOSITORY, str(CHECKOUT))
    # Whoever owns the checkout: it is only read.
    git = ["git", "-c", "safe.directory=*", "-C", repository]
    done = subprocess.run([*git, "archive", "--format=tar", name, "--", *PARTS],
                          capture_output=True, check=False)
    if done.returncode:
        shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], text=True,
                                 capture_output=True, check=False).stdout.strip() == "true"
        raise NoNeighbour(
            f"{NAMED.name} names {name}, which is not in {repository}"
            + ("; next: git fetch --unshallow" if shallow else
               f": {done.stderr.decode(errors='replace').strip()}; next: git fetch"))
    if subprocess.run([*git, "merge-base", "--is-ancestor", name, "HEAD"], check=False).returncode:
        raise NoNeighbour(f"{NAMED.name} names {name}, which is no ancestor of what is checked out "
                          "here: another clone would not have it; next: name one that is")
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--no-same-owner", "--directory", str(folder)],
                   input=done.stdout, check=True)
    # By the Python of the hosts, which would compile it again for each command.
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(folder / PARTS[0])],
                   env={**os.environ, **ENVIRONMENT}, check=True)
    return folder / "scripts" / "lio-handover"
