"""A guest that is nothing but firmware: 100 times a second it says the number of its next record,
and which QEMU executes it, on the debug console.

    a 17 2

The number is in its RAM, so it goes where the guest goes.  The QEMU's number is read from the
console's own port (isa-debugcon's ``readback``), which does not migrate.  So what the QEMUs were
told, one after the other, is the story of one guest if no number is missing and none comes twice.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PORT = 0xe9
SIZE = 1 << 16      # at 0xf0000, as firmware is
RATE = 100
CPU = "486"     # without an interrupt controller of its own, which would have to be told more
#: The program: bytes in hexadecimal, and what they are to an assembler (16 bits).
_PROGRAM = """
fa              begin:  cli
31c0                    xor     ax, ax
8ed8                    mov     ds, ax
8ed0                    mov     ss, ax
bc0070                  mov     sp, 0x7000
66c706001000000000      mov     dword [0x1000], 0       ; the number of the next record
c70620004300            mov     word [0x20], tick       ; interrupt 8, the timer's
c706220000f0            mov     word [0x22], 0xf000
b011 e620               out     0x20, 0x11              ; the interrupt controller: the timer alone,
b008 e621               out     0x21, 8                 ; as interrupt 8
b004 e621               out     0x21, 4
b001 e621               out     0x21, 1
b0fe e621               out     0x21, 0xfe
b034 e643               out     0x43, 0x34              ; the timer: each 11932 of 1193182 Hz
b09c e640               out     0x40, 0x9c
b02e e640               out     0x40, 0x2e
fb                      sti
f4              rest:   hlt
ebfd                    jmp     rest
bae900          tick:   mov     dx, 0xe9
b061 ee                 out     dx, 'a'
b020 ee                 out     dx, ' '
66a10010                mov     eax, [0x1000]
66ff060010              inc     dword [0x1000]
66bb0a000000            mov     ebx, 10
31c9                    xor     cx, cx
6631d2          digits: xor     edx, edx
66f7f3                  div     ebx
52                      push    dx
41                      inc     cx
6685c0                  test    eax, eax
75f3                    jnz     digits
bae900                  mov     dx, 0xe9
58              print:  pop     ax
0430                    add     al, '0'
ee                      out     dx, al
e2fa                    loop    print
b020 ee                 out     dx, ' '
ec                      in      al, dx                  ; which QEMU this is
0430                    add     al, '0'
ee                      out     dx, al
b00a ee                 out     dx, 10
b020 e620               out     0x20, 0x20              ; the interrupt is over
cf                      iret
"""
_RESET = bytes.fromhex("ea000000f0")    # jmp 0xf000:begin, where a processor begins
_RECORD = re.compile(r"a (\d+) (\d)")


def write(path: Path) -> Path:
    """The image, as QEMU's -bios takes it."""
    code = b"".join(bytes.fromhex(re.split(r"\s{2,}", line)[0])
                    for line in _PROGRAM.strip().splitlines())
    path.write_bytes((code.ljust(SIZE - 16, b"\0") + _RESET).ljust(SIZE, b"\0"))
    return path


def console(path: str, number: int) -> list[str]:
    """QEMU's words for the console, whose output comes into this file."""
    return ["-chardev", f"file,id=said,path={path},append=on",
            "-device", f"isa-debugcon,iobase={PORT:#x},readback={number},chardev=said"]


def records(said: Iterable[str]) -> list[tuple[int, int]]:
    """(number, QEMU) of all that QEMUs were told, each file's text in the order in which they
    executed the guest.  A record that one began and the next ended is the next one's."""
    found: list[tuple[int, int]] = []
    rest = ""
    for text in said:
        if not text:
            continue
        head, _, text = text.partition("\n") if not text.startswith("a ") else ("", "", text)
        if head or rest:
            found += _whole([rest + head])
        *lines, rest = text.split("\n")
        found += _whole(lines)
    return found


def _whole(lines: Iterable[str]) -> list[tuple[int, int]]:
    return [(int(match[1]), int(match[2]))
            for match in map(_RECORD.fullmatch, lines) if match]
