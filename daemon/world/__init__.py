"""What exists (floor 1): entities, topology, margin and funding formulas."""
