"""A GPU's memory and stream, through cuda-python or pycuda. Not yet run on hardware."""
