"""Tests: plain ones, and those that run on real kernels (tests/lab)."""
