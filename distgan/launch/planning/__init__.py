"""`python -m distgan.launch plan`: what the model of `distgan.planning` says of a run, and what to do about it."""
