"""Datasets: their files, what is wrong with them, and the batches made from them."""

from tf_segformer.requirements import check_keras

check_keras()
