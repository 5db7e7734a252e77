"""The networks, in keras.ops alone: they run on the TensorFlow, JAX and torch backends."""
