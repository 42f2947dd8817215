"""What an engine was built from and for: its key, what a runtime asks for, the cache, the header of a plan."""
