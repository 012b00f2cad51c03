"""What speaks to the world: one module per driver, errors translated at the seam."""
