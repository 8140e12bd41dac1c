"""Documents in chunks, from connections that cannot pass descriptors."""
from __future__ import annotations

import os
import secrets
from typing import Dict

from gi.repository import GLib

from .. import errors

#: Uploads of a user at once; of all users but root; of root; seconds after the last chunk that an
#: upload is kept.
MOST_OF_ONE, MOST, MOST_OF_ROOT, KEPT = 4, 16, 16, 600


class _Upload:
    def __init__(self, user: int) -> None:
        self.user = user
        self.fd = os.memfd_create("upload", os.MFD_CLOEXEC)
        self.size = 0
        self.timer = 0


class Uploads:
    """Uploads by token.  A caller cannot learn whether another user's token exists."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_token: Dict[str, _Upload] = {}

    def put(self, token: str, chunk: bytes, user: int) -> str:
        """Append to an upload, or, for token "", begin an upload; its token.  Raises TooMany,
        TooLarge, BadFile."""
        if token:
            upload = self._find(token, user)
        else:
            beside = [upload for upload in self._by_token.values()
                      if bool(upload.user) == bool(user)]
            mine = [upload for upload in beside if upload.user == user]
            if len(beside) >= (MOST if user else MOST_OF_ROOT) or user and len(mine) >= MOST_OF_ONE:
                raise errors.TooMany(f"{len(mine)} uploads of user {user} are not used yet")
            token, upload = secrets.token_hex(16), _Upload(user)
            self._by_token[token] = upload
        if upload.size + len(chunk) > self.limit:
            self._drop(token)
            raise errors.TooLarge(f"the upload has more than {self.limit} bytes",
                                  do="export the document again, or raise [limits] document")
        os.pwrite(upload.fd, chunk, upload.size)
        upload.size += len(chunk)
        if upload.timer:
            GLib.source_remove(upload.timer)
        upload.timer = GLib.timeout_add_seconds(KEPT, self._expired, token)
        return token

    def size(self, token: str, user: int) -> int:
        """The bytes of an upload so far; 0 for none of this user's."""
        upload = self._by_token.get(token)
        return upload.size if upload and upload.user == user else 0

    def take(self, token: str, user: int) -> int:
        """The descriptor of an upload; the caller has to close it.  Raises BadFile."""
        upload = self._find(token, user)
        GLib.source_remove(upload.timer)
        del self._by_token[token]
        return upload.fd

    def _find(self, token: str, user: int) -> _Upload:
        upload = self._by_token.get(token)
        if upload is None or upload.user != user:
            raise errors.BadFile(f"there is no upload {token[:40]!a}",
                                 do="Upload the document again")
        return upload

    def _drop(self, token: str) -> None:
        upload = self._by_token.pop(token)
        if upload.timer:
            GLib.source_remove(upload.timer)
        os.close(upload.fd)

    def _expired(self, token: str) -> bool:
        self._by_token[token].timer = 0
        self._drop(token)
        return False


def file_of(data: bytes) -> int:
    """A descriptor of what came whole with a call; the caller has to close it."""
    fd = os.memfd_create("upload", os.MFD_CLOEXEC)
    os.pwrite(fd, data, 0)
    return fd
