"""Servers (floor 8): the simulated venue."""
