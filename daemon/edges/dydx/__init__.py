"""The dYdX v4 edge (floor 6): wire shapes, the feed and the venue."""
