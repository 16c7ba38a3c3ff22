"""Runbook files (floor 3): loaded with positions, checked, compiled to a program."""
