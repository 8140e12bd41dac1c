"""Tests of who drives two hosts."""
