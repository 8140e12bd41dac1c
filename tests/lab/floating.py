"""Kernels older than 6.16 as User Mode Linux on processors with a large register file.

Such a kernel keeps the floating point registers of its processes in a buffer of fixed size.  On a
machine with AMX the whole state is four times that, and the machine's kernel takes it back only
whole ("ptrace set fp regs failed, errno = 14"): it does not boot there.  The program
gets a twin that names a generous length when it writes the registers: the machine's kernel cuts
that to its own size, and skips what follows the buffer, because the header of the state, inside
the buffer, does not list it.  Newer kernels ask for the size and need no twin.
"""
from __future__ import annotations

import ctypes
import os
import re
import signal
from pathlib import Path

FIXED_SIZE = 2696       # what those kernels reserve: all up to AVX-512 and protection keys
# movq $FIXED_SIZE,length ; mov $PTRACE_SETREGSET,%edi
_WRITES = re.compile(rb"(\x48\xc7\x45.)\x88\x0a\x00\x00(\xbf\x05\x42\x00\x00)", re.DOTALL)
_GENEROUS = (1 << 16).to_bytes(4, "little")


def twin_of(program: bytes) -> bytes | None:
    """The kernel's program for such machines; None where it copes with any size by itself."""
    changed, times = _WRITES.subn(lambda found: found[1] + _GENEROUS + found[2], program)
    return changed if times == 1 else None


def needed_here() -> bool:
    """Whether this machine's register state is larger than what those kernels reserve."""
    return _state_size() > FIXED_SIZE


def build_twin(linux: Path) -> None:
    """Put the twin, where there is one, next to the program."""
    changed = twin_of(linux.read_bytes())
    if changed:
        twin = twin_path(linux)
        twin.write_bytes(changed)
        twin.chmod(0o755)


def twin_path(linux: Path) -> Path:
    """Where a program's twin is kept."""
    return linux.with_name("linux-large-registers")


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _state_size() -> int:
    """How many bytes this machine's kernel gives for a process's extended registers."""
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    pid = os.fork()
    if pid == 0:
        library.ptrace(0, 0, None, None)                    # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    try:
        buffer = ctypes.create_string_buffer(1 << 16)
        vector = _Vector(ctypes.addressof(buffer), len(buffer))
        if library.ptrace(0x4204, pid, 0x202, ctypes.addressof(vector)):    # GETREGSET, XSTATE
            return 0
        return int(vector.length)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
