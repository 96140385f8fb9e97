"""From records on disk to tensors: reading, transforming, tokenising, collating, checking."""
