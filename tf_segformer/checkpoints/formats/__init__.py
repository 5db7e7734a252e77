"""One file format each: from a file to its tensors by name."""
