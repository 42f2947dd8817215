"""What is measured: contestants in rounds, call times, streams, and the machine."""
