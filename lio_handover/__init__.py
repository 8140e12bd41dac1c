"""Moves a LIO target, with its reservations, from one host to another."""

__version__ = "0.1.0"
