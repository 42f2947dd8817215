"""A video's way along the route, as a page or a figure."""
