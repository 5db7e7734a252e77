"""Rasters: images with a place on the earth, read and written a window at a time (extra `geo`)."""
