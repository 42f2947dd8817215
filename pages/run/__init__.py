"""What became of the videos of a run, as a page."""
