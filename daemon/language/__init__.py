"""The runbook language (floor 2): grammar, dimensions, the signal catalogue, window kernels, explanation."""
