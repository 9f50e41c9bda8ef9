"""Decode attention over pages of codes."""
