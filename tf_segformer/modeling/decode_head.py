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

from tf_segformer.modeling.initialization import PACKAGE, normal_initializer
from tf_segformer.ops.channels import Dense
from tf_segformer.ops.chunked_head import classify_maps, classify_maps_in_training

BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}  # torch's defaults; its momentum 0.1 weighs the new batch


@keras.saving.register_keras_serializable(package=PACKAGE)
class LinearWeights(keras.layers.Layer):
    """Kernel and bias of a linear map that is composed with others instead of being applied alone.

    They stay float32 under mixed precision, since a product of rounded matrices would be rounded twice.

    Args:
        units: Channels of the result.
        use_bias: Whether there is a bias.
        initializer_range: Standard deviation of the initial kernel.
    """

    def __init__(self, units: int, use_bias: bool = True, initializer_range: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer_range = initializer_range

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for `input_shape[-1]` channels."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=normal_initializer(self.initializer_range),
            autocast=False,
        )
        self.bias: Any = (
            self.add_weight(name="bias", shape=(self.units,), initializer="zeros", autocast=False)
            if self.use_bias
            else None
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("units", "use_bias", "initializer_range")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def scale_and_shift(norm: keras.layers.BatchNormalization) -> tuple[Any, Any]:
    """A batch norm at inference as one scale and one shift a channel, float32."""
    scale = ops.cast(norm.gamma, "float32") * ops.rsqrt(ops.cast(norm.moving_variance, "float32") + norm.epsilon)
    return scale, ops.cast(norm.beta, "float32") - ops.cast(norm.moving_mean, "float32") * scale


@keras.saving.register_keras_serializable(package=PACKAGE)
class SegformerDecodeHead(keras.layers.Layer):
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

    def __init__(
        self,
        num_labels: int,
        hidden_size: int = 256,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_labels = num_labels
        self.hidden_size = hidden_size
        self.dropout_rate = dropout
        self.initializer_range = initializer_range
        self.batch_norm = keras.layers.BatchNormalization(**BATCH_NORM, dtype=self.dtype_policy, name="batch_norm")
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.classifier = Dense(
            num_labels,
            kernel_initializer=normal_initializer(initializer_range),
            dtype=self.dtype_policy,
            name="classifier",
        )

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights, those of the checkpoint, for one feature map a stage."""
        self.linear_c = [
            LinearWeights(
                self.hidden_size,
                initializer_range=self.initializer_range,
                dtype=self.dtype_policy,
                name=f"linear_c_{stage}",
            )
            for stage in range(len(input_shape))
        ]
        for layer, shape in zip(self.linear_c, input_shape, strict=True):
            layer.build(shape)
        self.linear_fuse = LinearWeights(
            self.hidden_size,
            use_bias=False,
            initializer_range=self.initializer_range,
            dtype=self.dtype_policy,
            name="linear_fuse",
        )
        self.linear_fuse.build((len(input_shape) * self.hidden_size,))
        self.batch_norm.build((None, None, None, self.hidden_size))
        self.classifier.build((None, None, None, self.hidden_size))

    def call(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Feature maps (B, H_i, W_i, C_i), the largest first -> float32 logits (B, H_0, W_0, num_labels)."""
        kernels, bias = self.composed_weights(fold_batch_norm=not training)
        if training:
            return classify_maps_in_training(
                feature_maps, kernels, bias, self.batch_norm, self.dropout, self.classifier
            )
        return classify_maps(feature_maps, kernels, bias, self.classifier.kernel, self.classifier.bias)

    def composed_weights(self, fold_batch_norm: bool) -> tuple[list[Any], Any]:
        """The two linear maps as one for each stage.

        Args:
            fold_batch_norm: Whether the batch norm at inference is part of them.

        Returns:
            A float32 kernel (C_i, D) a stage, and one float32 bias (D,) for their sum.
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

    def compute_output_spec(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Shape and dtype of the logits, without running the layer."""
        return keras.KerasTensor((*feature_maps[0].shape[:-1], self.num_labels), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "hidden_size": self.hidden_size,
            "dropout": self.dropout_rate,
            "initializer_range": self.initializer_range,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class MmsegDecodeHead(keras.layers.Layer):
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

    def __init__(
        self,
        num_labels: int,
        hidden_size: int = 256,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_labels = num_labels
        self.hidden_size = hidden_size
        self.dropout_rate = dropout
        self.initializer_range = initializer_range
        self.fusion = self._dense("fusion", hidden_size, use_bias=False)
        self.fusion_norm = keras.layers.BatchNormalization(**BATCH_NORM, dtype=self.dtype_policy, name="fusion_norm")
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.classifier = self._dense("classifier", num_labels)

    def _dense(self, name: str, units: int, use_bias: bool = True) -> Dense:
        return Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=normal_initializer(self.initializer_range),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights for one feature map a stage."""
        stages = range(len(input_shape))
        self.convolutions = [self._dense(f"convolution_{stage}", self.hidden_size, use_bias=False) for stage in stages]
        self.batch_norms = [
            keras.layers.BatchNormalization(**BATCH_NORM, dtype=self.dtype_policy, name=f"batch_norm_{stage}")
            for stage in stages
        ]
        hidden_shape = (None, None, None, self.hidden_size)
        for stage, shape in enumerate(input_shape):
            self.convolutions[stage].build(shape)
            self.batch_norms[stage].build(hidden_shape)
        self.fusion.build((None, None, None, len(input_shape) * self.hidden_size))
        self.fusion_norm.build(hidden_shape)
        self.classifier.build(hidden_shape)

    def call(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Feature maps (B, H_i, W_i, C_i), the largest first -> float32 logits (B, H_0, W_0, num_labels)."""
        fusion_kernel = ops.cast(self.fusion.kernel, "float32")
        kernels = ops.split(fusion_kernel, len(feature_maps), axis=0)  # first stage first
        maps = [  # (B, H_i, W_i, D)
            ops.relu(norm(convolution(each), training=training))
            for each, convolution, norm in zip(feature_maps, self.convolutions, self.batch_norms, strict=True)
        ]
        if training:
            no_bias = ops.zeros((self.hidden_size,))
            return classify_maps_in_training(maps, kernels, no_bias, self.fusion_norm, self.dropout, self.classifier)
        scale, shift = scale_and_shift(self.fusion_norm)
        kernels = [kernel * scale for kernel in kernels]
        return classify_maps(maps, kernels, shift, self.classifier.kernel, self.classifier.bias)

    def compute_output_spec(self, feature_maps: Sequence[Any], training: bool = False) -> Any:
        """Shape and dtype of the logits, without running the layer."""
        return keras.KerasTensor((*feature_maps[0].shape[:-1], self.num_labels), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "hidden_size": self.hidden_size,
            "dropout": self.dropout_rate,
            "initializer_range": self.initializer_range,
        }


DECODE_HEAD_CLASSES: dict[str, type[keras.layers.Layer]] = {"segformer": SegformerDecodeHead, "mmseg": MmsegDecodeHead}
