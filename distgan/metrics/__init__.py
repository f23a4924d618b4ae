"""What a run tells of itself: meter -> log.jsonl, progress bar, Prometheus."""
