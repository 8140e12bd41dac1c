"""Documents that come in pieces, from connections that can't pass descriptors."""
from __future__ import annotations

import os
import secrets
from typing import Dict

from gi.repository import GLib

from .. import errors

#: How many of one user at once, of all, and seconds after the last piece that one is kept.
MOST_OF_ONE, MOST, KEPT = 4, 16, 600


class _Upload:
    def __init__(self, user: int) -> None:
        self.user = user
        self.fd = os.memfd_create("upload", os.MFD_CLOEXEC)
        self.size = 0
        self.timer = 0


class Uploads:
    """By token; who does not own one can't tell whether it is there."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_token: Dict[str, _Upload] = {}

    def put(self, token: str, chunk: bytes, user: int) -> str:
        """Append to an upload, or begin one; its token.  Raises TooMany, TooLarge, BadFile."""
        if token:
            one = self._find(token, user)
        else:
            mine = [upload for upload in self._by_token.values() if upload.user == user]
            if len(self._by_token) >= MOST or len(mine) >= MOST_OF_ONE:
                raise errors.TooMany(f"{len(mine)} uploads of user {user} are not used yet")
            token, one = secrets.token_hex(16), _Upload(user)
            self._by_token[token] = one
        if one.size + len(chunk) > self.limit:
            self._drop(token)
            raise errors.TooLarge(f"the upload has more than {self.limit} bytes",
                                  do="export the document again, or raise [limits] document")
        os.pwrite(one.fd, chunk, one.size)
        one.size += len(chunk)
        if one.timer:
            GLib.source_remove(one.timer)
        one.timer = GLib.timeout_add_seconds(KEPT, self._expired, token)
        return token

    def take(self, token: str, user: int) -> int:
        """The descriptor of an upload, which is its taker's now.  Raises BadFile."""
        one = self._find(token, user)
        GLib.source_remove(one.timer)
        del self._by_token[token]
        return one.fd

    def _find(self, token: str, user: int) -> _Upload:
        one = self._by_token.get(token)
        if one is None or one.user != user:
            raise errors.BadFile(f"there is no upload {token[:40]!a}",
                                 do="Upload the document again")
        return one

    def _drop(self, token: str) -> None:
        one = self._by_token.pop(token)
        if one.timer:
            GLib.source_remove(one.timer)
        os.close(one.fd)

    def _expired(self, token: str) -> bool:
        self._by_token[token].timer = 0
        self._drop(token)
        return False
