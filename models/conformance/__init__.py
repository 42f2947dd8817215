"""The kit that a new network is run through."""
