"""From a record to a batch: which frames, which crop, in which order."""
