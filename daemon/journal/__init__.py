"""The journal and the recordings (floor 5): what happened, kept so that it can be replayed, verified and audited."""
