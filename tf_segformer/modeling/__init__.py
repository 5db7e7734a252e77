"""The networks, in keras.ops alone: they run on the TensorFlow, JAX and torch backends."""

from tf_segformer.requirements import check_keras

check_keras()
