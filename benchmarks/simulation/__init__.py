"""Run the scheduler against a cost table instead of a device."""
