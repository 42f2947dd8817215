"""Classify many videos at once: one or several streams, each a loop that admits, runs and answers videos."""
