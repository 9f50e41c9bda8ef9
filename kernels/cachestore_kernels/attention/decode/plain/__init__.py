"""Decode attention over pages of floats."""
