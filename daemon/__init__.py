"""reefd: a runbook automation daemon for perpetuals. The import package is `daemon`, the command `reefd`."""

__version__ = "0.1.0"
