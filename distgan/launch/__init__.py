"""Starting runs where they are to run: on this machine, on several, under SLURM, on Kubernetes."""
