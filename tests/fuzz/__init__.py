"""Inputs made by chance for every reader of what others have written: python3 -m tests.fuzz.

Only our own readers are fed: nothing goes to a kernel, a QEMU, a bus or another library.
"""
