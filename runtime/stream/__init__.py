"""Many videos at once: admitted, run and answered in a loop, in one stream or several."""
