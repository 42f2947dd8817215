"""Thresholds are chosen from scores: by the rules, for a cost, or for a promise."""
