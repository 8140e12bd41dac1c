"""Tests without a kernel and without a bus."""
