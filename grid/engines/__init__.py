"""What an engine was built from and for: its key, the runtime's request, the cache, and the header of a plan."""
