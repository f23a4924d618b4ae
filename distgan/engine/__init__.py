"""The seam between the algorithm and how ranks share the work; `base.Engine` is all that the trainer knows."""
