"""How fast the parts of distgan are, each beside what plain PyTorch offers, in one run: `python -m distgan.bench --help`."""
