"""Images out of WebDataset tar shards: url -> manifest -> sample plan -> reader; or url -> stream."""
