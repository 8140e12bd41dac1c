"""What can go wrong in the lab itself, apart from what the tested code does."""
from __future__ import annotations


class LabError(Exception):
    """The bed could not be made or could not be kept: never a finding about the product."""


class HostDied(LabError):
    """A host's kernel ended, by panic or by power cut, while somebody waited for it."""


class HostTimeout(LabError):
    """A call or a program in a host did not end in time; the console's tail is in the text."""


class NotClean(LabError):
    """A wiped host still holds something of the test before."""
