"""Tests of lio-handoverd, its clients and its units."""
