"""DDP and every stage of DeepSpeed's ZeRO beside each other: images/s on several numbers of ranks, what they exchange, when, and the
memory of a rank.

Settings of distgan.train (--config FILE --section.key value) say what is trained, run and metrics aside; by default the embedded
digits. The global batch is the same on any number of ranks. Under ZeRO every parameter is sharded, however small.
"""
