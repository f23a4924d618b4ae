"""Shard sets: a tar's members, samples and index; the records of a directory of them; the manifest of a run."""
