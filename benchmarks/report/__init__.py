"""What a benchmark found, as tables, plots, files and a page."""
