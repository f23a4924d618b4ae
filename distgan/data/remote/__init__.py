"""Shards behind URLs: transfers that are tried again, a bounded cache on a local disk, and who fills it."""
