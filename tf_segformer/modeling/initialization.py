"""What every layer shares: the name it is registered under and how its kernels start."""

from __future__ import annotations

import keras

PACKAGE = "tf_segformer"


def normal_initializer(standard_deviation: float) -> keras.initializers.Initializer:
    """A fresh normal initializer: a shared one would give every layer the same numbers."""
    return keras.initializers.RandomNormal(stddev=standard_deviation)
