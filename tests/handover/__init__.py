"""Tests of handovers between hosts, and of what a host restores, on real kernels."""
