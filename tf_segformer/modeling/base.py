"""What the layers share: a configuration that is their arguments, and the shape of the map whose tokens they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras


def registered(cls: type) -> type:
    """Makes a class known to Keras, also without the name of the package, by which h5 files call it."""
    keras.saving.get_custom_objects()[cls.__name__] = cls
    return keras.saving.register_keras_serializable(package="tf_segformer")(cls)


class ConfiguredLayer(keras.layers.Layer):
    """A layer that gives the `arguments` of its constructor as its configuration; subclasses set them."""

    arguments: dict[str, Any]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, those of Keras among them."""
        return {**super().get_config(), **self.arguments}


@dataclass(frozen=True)
class FeatureShape:
    """Batch, height and width of the feature map that tokens (B*H*W, C) are of, each an int or a scalar tensor.

    Not a tuple, in which Keras lets no layer take both.
    """

    batch: Any
    height: Any
    width: Any

    def with_channels(self, channels: int) -> tuple[Any, ...]:
        """(B, H, W, channels)."""
        return self.batch, self.height, self.width, channels

    def with_heads(self, heads: int, width: int) -> tuple[Any, ...]:
        """(B, H*W, heads, width); where H or W is a tensor, -1 stands for the number of tokens."""
        known = isinstance(self.height, int) and isinstance(self.width, int)
        return self.batch, self.height * self.width if known else -1, heads, width
