"""What becomes of damaged and hostile shards: each kind of damage is planted into twenty known samples, which webdataset and distgan then
read, in processes of their own with a limit of time and memory.

Counted is what comes out: samples that are right (the pixels and the label that were packed), wrong ones, doubled ones; whether anything
was said, and whether a file was written that only code from within the data can write (a canary).
"""
