"""Tests of one host, or of two that hand a document over, on real kernels."""
