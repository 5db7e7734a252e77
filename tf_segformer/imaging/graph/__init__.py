"""Image processing as operations of a TensorFlow graph, equal to the one in NumPy and Pillow."""
