"""How good a model is: metrics, and images of them."""

from tf_segformer.requirements import check_keras

check_keras()
