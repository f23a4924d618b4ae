"""distgan: distributed GAN training with exact gradient penalties, streamed shards and exact resume."""

__version__ = "0.1.0"
