"""Checkpoints: bytes to named arrays, names to names, arrays to Keras models and back."""
