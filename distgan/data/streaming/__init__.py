"""What cannot be indexed: shards read once from end to end, as they come, through webdataset."""
