"""The service without its verbs' bodies: a call that is allowed gets a job that is never begun.

There are two jobs of root's that have ended, of plain and of secret data, and one for each user who
is named; none is ever forgotten.  Run before the service's ``main``.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lio_handover.service import inventory, jobs, main, uploads
from lio_handover.service.jobs import DONE, Job, Jobs

PLAIN, SECRET, FIRST_OF_USERS = 1, 2, 10
TARGET, BACKSTORE = "iscsi/iqn.x", "fileio/x"
REQUEST = {"verb": "show", "role": "", "handover": "", "targets": ["iscsi/x"], "writes": False,
           "limited": False, "small": False}


def _start(self: Jobs, request: Mapping[str, Any], documents: Sequence[int], user: int) -> Job:
    for fd in documents:
        os.close(fd)
    with open(os.environ["LIO_TEST_BEGUN"], "a") as file:
        file.write(f"{user} {request['role']} {request['verb']}\n")
    return self._kept[PLAIN]


def stub(users: Sequence[int]) -> None:
    """Of the classes of the service, what would begin anything."""
    refresh = inventory.Inventory.refresh

    def once(self: Any, then: Callable[[], None]) -> None:
        if any("/handovers/" in path for path in self.tree.nodes):
            for node in (inventory.TargetObject(self, {
                    "name": TARGET, "enabled": True, "frozen": False, "restored_by": ""}, "/"),
                    inventory.BackstoreObject(self, BACKSTORE),
                    inventory.AclObject(self, TARGET, 1, "iqn.x")):
                self.tree.nodes.setdefault(node.path, node)
            then()
        else:
            refresh(self, then)

    class Daemon(main.Daemon):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            for number, user, secret in ((PLAIN, 0, False), (SECRET, 0, True), *(
                    (FIRST_OF_USERS + user, user, False) for user in users)):
                job = Job(self.jobs, number, REQUEST, user)
                os.write(job.data, b"data")
                job.state, job.size, job.secret = DONE, 4, secret
                self.jobs._kept[number] = job
                self.tree.add(job)

    uploads.MOST_OF_ONE = uploads.MOST = 1000  # who is refused does not use what was uploaded
    jobs.Jobs.start = _start  # type: ignore[method-assign]
    jobs.Jobs.forget = lambda self, job: None  # type: ignore[method-assign]
    inventory.Inventory.refresh = once  # type: ignore[method-assign]
    main.Daemon = Daemon  # type: ignore[misc, assignment]
