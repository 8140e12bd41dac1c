"""Tests of the protocol's table by its model."""
