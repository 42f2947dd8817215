"""Scores: what every checkpoint answers on labelled videos."""
