"""The all-MLP decode head, with its two linear maps composed before they touch a pixel.

The paper's head projects each stage to D channels, upsamples to the first stage's size, concatenates and fuses by a
1x1 convolution. Upsampling takes averages of positions, the convolution sums of channels, so they commute, and two
linear maps in a row are one:

    fuse(concat(up(x_i W_i + b_i))) = sum_i up(x_i (W_i F_i) + b_i F_i)

where F_i is the block of the fuse kernel that meets stage i. The small products W_i F_i come first; each stage is then
projected once, at its own resolution, and only upsampled and added after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_segformer.modeling.base import ConfiguredLayer
from tf_segformer.ops.chunked_head import fused_head, fused_head_in_training
from tf_segformer.ops.dense import apply_to_tokens

BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}  # torch's defaults; its momentum 0.1 weighs the new batch


def scale_and_shift(norm: keras.layers.BatchNormalization) -> tuple[Any, Any]:
    """A batch norm at inference as one scale and one shift per channel, float32."""
    scale = ops.cast(norm.gamma, "float32") * ops.rsqrt(ops.cast(norm.moving_variance, "float32") + norm.epsilon)
    return scale, ops.cast(norm.beta, "float32") - ops.cast(norm.moving_mean, "float32") * scale


@keras.saving.register_keras_serializable(package="tf_segformer")
class LinearWeights(ConfiguredLayer):
    """Kernel and bias of a linear map that is composed with others instead of being applied alone.

    They stay float32 under mixed precision, since a product of rounded matrices would be rounded twice.

    Args:
        units: Channels of the result.
        use_bias: Whether there is a bias.
        initializer_range: Standard deviation of the initial kernel.
    """

    def __init__(self, units: int, use_bias: bool = True, initializer_range: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = {"units": units, "use_bias": use_bias, "initializer_range": initializer_range}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for `input_shape[-1]` channels."""
        units, normal = (
            self.arguments["units"],
            keras.initializers.RandomNormal(stddev=self.arguments["initializer_range"]),
        )
        self.kernel = self.add_weight((input_shape[-1], units), initializer=normal, autocast=False, name="kernel")
        if self.arguments["use_bias"]:
            self.bias = self.add_weight((units,), initializer="zeros", autocast=False, name="bias")


class _DecodeHead(ConfiguredLayer):
    """What the heads share: maps of all stages in, logits of the first stage's size out; arguments as below."""

    def __init__(
        self,
        num_labels: int,
        hidden_size: int = 256,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = {
            "num_labels": num_labels,
            "hidden_size": hidden_size,
            "dropout": dropout,
            "initializer_range": initializer_range,
        }
        self.num_labels, self.hidden_size = num_labels, hidden_size
        self.initializer_range = initializer_range
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.classifier = self._dense("classifier", num_labels)

    def _dense(self, name: str, units: int, use_bias: bool = True) -> keras.layers.Dense:
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        return keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=initializer, dtype=self.dtype_policy, name=name
        )

    def _batch_norm(self, name: str) -> keras.layers.BatchNormalization:
        return keras.layers.BatchNormalization(**BATCH_NORM, dtype=self.dtype_policy, name=name)

    def compute_output_spec(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Shape and dtype of the logits, without running the layer."""
        return keras.KerasTensor((*feature_maps[0].shape[:-1], self.num_labels), dtype="float32")


@keras.saving.register_keras_serializable(package="tf_segformer")
class SegformerDecodeHead(_DecodeHead):
    """The paper's decode head: the feature maps of all stages in, logits at the first stage's resolution out.

    Args:
        num_labels: Number of classes.
        hidden_size: Width D of the head.
        dropout: Dropout before the classifier, in [0, 1).
        initializer_range: Standard deviation of the initial kernels.

    Source: Xie et al. 2021, section 3.2, equation 4; the composition is this project's.

    Example:
        >>> maps = [keras.ops.ones((1, 32 // 2**i, 48 // 2**i, 8 * 2**i)) for i in range(4)]
        >>> tuple(SegformerDecodeHead(num_labels=19, hidden_size=64)(maps).shape)
        (1, 32, 48, 19)
    """

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights, those of the checkpoint, for one feature map per stage."""
        options = {"initializer_range": self.initializer_range, "dtype": self.dtype_policy}
        self.linear_c = [
            LinearWeights(self.hidden_size, name=f"linear_c_{stage}", **options) for stage in range(len(input_shape))
        ]
        for layer, shape in zip(self.linear_c, input_shape, strict=True):
            layer.build(shape)
        self.linear_fuse = LinearWeights(self.hidden_size, use_bias=False, name="linear_fuse", **options)
        self.linear_fuse.build((len(input_shape) * self.hidden_size,))
        self.batch_norm = self._batch_norm("batch_norm")
        self.batch_norm.build((None, None, None, self.hidden_size))
        self.classifier.build((None, self.hidden_size))

    def call(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Feature maps (B, H_i, W_i, C_i), the largest first -> float32 logits (B, H_0, W_0, num_labels)."""
        kernels, bias = self.composed_weights(fold_batch_norm=not training)
        if training:
            return fused_head_in_training(feature_maps, kernels, bias, self.batch_norm, self.dropout, self.classifier)
        return fused_head(feature_maps, kernels, bias, self.classifier)

    def composed_weights(self, fold_batch_norm: bool) -> tuple[list[Any], Any]:
        """The two linear maps as one for each stage.

        Args:
            fold_batch_norm: Whether the batch norm at inference is part of them.

        Returns:
            float32 kernels (C_i, D), one per stage, and one float32 bias (D,) for their sum.
        """
        fuse_kernel = ops.cast(self.linear_fuse.kernel, "float32")  # a policy "bfloat16" stores weights in it as well
        blocks = ops.split(fuse_kernel, len(self.linear_c), axis=0)[::-1]  # stored last stage first
        kernels, biases = [], []
        for layer, block in zip(self.linear_c, blocks, strict=True):
            kernels.append(ops.matmul(ops.cast(layer.kernel, "float32"), block))
            biases.append(ops.matmul(ops.cast(layer.bias, "float32")[None], block))  # (1, D)
        bias = sum(biases)
        if fold_batch_norm:
            scale, shift = scale_and_shift(self.batch_norm)
            kernels = [kernel * scale for kernel in kernels]
            bias = bias * scale + shift
        return kernels, bias[0]


@keras.saving.register_keras_serializable(package="tf_segformer")
class MmsegDecodeHead(_DecodeHead):
    """mmsegmentation's head of the same name: every projection is normalized and activated before the fusion.

    Args:
        num_labels: Number of classes.
        hidden_size: Width D of the head.
        dropout: Dropout before the classifier, in [0, 1).
        initializer_range: Standard deviation of the initial kernels.

    Source: mmsegmentation 1.x, `SegformerHead`. Its activation stands between the two linear maps, so only the
    upsampling and the fusion change places here.

    Example:
        >>> maps = [keras.ops.ones((1, 32 // 2**i, 48 // 2**i, 8 * 2**i)) for i in range(4)]
        >>> tuple(MmsegDecodeHead(num_labels=19, hidden_size=64)(maps).shape)
        (1, 32, 48, 19)
    """

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights for one feature map per stage."""
        stages = range(len(input_shape))
        self.convolutions = [self._dense(f"convolution_{stage}", self.hidden_size, use_bias=False) for stage in stages]
        self.batch_norms = [self._batch_norm(f"batch_norm_{stage}") for stage in stages]
        self.fusion = LinearWeights(
            self.hidden_size,
            use_bias=False,
            initializer_range=self.initializer_range,
            dtype=self.dtype_policy,
            name="fusion",
        )
        self.fusion_norm = self._batch_norm("fusion_norm")
        hidden_shape = (None, None, None, self.hidden_size)
        for stage, shape in enumerate(input_shape):
            self.convolutions[stage].build(shape)
            self.batch_norms[stage].build(hidden_shape)
        self.fusion.build((len(input_shape) * self.hidden_size,))
        self.fusion_norm.build(hidden_shape)
        self.classifier.build((None, self.hidden_size))

    def call(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Feature maps (B, H_i, W_i, C_i), the largest first -> float32 logits (B, H_0, W_0, num_labels)."""
        fusion_kernel = ops.cast(self.fusion.kernel, "float32")
        kernels = ops.split(fusion_kernel, len(feature_maps), axis=0)  # first stage first
        maps = [  # (B, H_i, W_i, D)
            ops.relu(norm(apply_to_tokens(convolution, each), training=training))
            for each, convolution, norm in zip(feature_maps, self.convolutions, self.batch_norms, strict=True)
        ]
        if training:
            no_bias = ops.zeros((self.hidden_size,))
            return fused_head_in_training(maps, kernels, no_bias, self.fusion_norm, self.dropout, self.classifier)
        scale, shift = scale_and_shift(self.fusion_norm)
        return fused_head(maps, [kernel * scale for kernel in kernels], shift, self.classifier)


DECODE_HEAD_CLASSES: dict[str, type[_DecodeHead]] = {"segformer": SegformerDecodeHead, "mmseg": MmsegDecodeHead}
