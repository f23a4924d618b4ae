"""Files behind URLs: transfers that are tried again, and a bounded cache on a local disk."""
