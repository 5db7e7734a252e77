"""Training: losses, metrics, optimizer, augmentation, datasets, recipes and the trainer."""

from tf_segformer.requirements import check_keras

check_keras()
