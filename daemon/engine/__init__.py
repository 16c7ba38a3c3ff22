"""Deciding (floor 4): events in, records and actions out; no clock, no I/O, no randomness."""
