"""From a plan's slices to batches: worker processes that read samples by their place, and bring remote shards ahead."""
