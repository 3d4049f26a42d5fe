"""From an alignment to COLMAP and the programs around it."""
