"""The scheduler against a table of costs instead of a device."""
