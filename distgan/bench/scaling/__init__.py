"""What `python -m distgan.launch plan` needs to know of a device: seconds of each phase at several batches, what a checkpoint, a start and
a log line take, what ranks exchange, and how long they exchange bytes here. And whether the plan's model is right here: what it predicts
from one rank is held against what several do.

Settings of distgan.train (--config FILE --section.key value) say what is trained, run and metrics aside; by default the embedded digits.
The engine is DDP; the plan derives the others.
"""
