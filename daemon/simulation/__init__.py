"""Worlds that did not happen (floor 5): the simulated account and venue, and the drivers of replay and of runbook tests."""
