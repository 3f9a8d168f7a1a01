"""Curves through tables of runs; one file a law."""
