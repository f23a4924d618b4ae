"""`python -m distgan.data pack`: images from wherever they are -> WebDataset shards.

find (what the source is, its files) -> open (items: name, place, label) -> select (keys, parts, order)
  -> workers (read, decode, fit, encode) -> shards and journal -> index, report, rename
"""
