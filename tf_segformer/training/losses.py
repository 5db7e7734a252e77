"""SegmentationLoss: cross-entropy, focal, OHEM and Dice on logits that are resized to the labels, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tf_segformer.errors import DatasetError
from tf_segformer.ops.labels import pixel_weights, squeeze_labels, with_background
from tf_segformer.ops.sequential import map_images
from tf_segformer.ops.tracing import runs_tensorflow_kernels
from tf_segformer.training.row_chunks import map_row_chunks

NORMALIZERS = ("valid_pixels", "all_pixels")
_DICE_SMOOTHING = 1.0
_NAMED_LABELS = 10  # of the invalid ones, in an assertion


@keras.saving.register_keras_serializable(package="tf_segformer")
class SegmentationLoss(keras.losses.Loss):
    """Sparse pixel-wise loss on logits of any resolution.

    The logits are resized bilinearly (half-pixel centres, as `torch.nn.functional.interpolate` with
    `align_corners=False`) to the labels' size inside the loss, in float32, one chunk of rows at a time; the gradient of
    each chunk is computed with its value, and only its low-resolution projection is kept. Logits with a single channel
    are binary: label 1 against label 0 through a sigmoid. Keras' `sample_weight`, one per image or one per pixel,
    multiplies the weights of pixels.

    Args:
        ignore_index: Label of pixels that contribute neither to the value nor to the gradient.
        normalize_by: "valid_pixels" divides by the summed weights of the pixels that count (Hugging Face, Keras),
            "all_pixels" by the number of all pixels (NVlabs, mmsegmentation), so that a weight's size matters.
        class_weights: One weight per class (two for binary logits), or None for ones.
        label_smoothing: Fraction of the target that is spread evenly over all classes, in [0, 1).
        focal_gamma: Exponent of the focal factor `(1 - p)^gamma` (Lin et al. 2017); 0 switches it off.
        ohem_threshold: If given, only pixels whose true class has a lower probability count (Shrivastava et al. 2016).
        ohem_min_kept: With `ohem_threshold`: at least this many of the hardest pixels of the batch count.
        dice_weight: Weight of `1 - Dice` (Milletari et al. 2016), averaged over the classes present in the labels.
        name: Name in Keras' logs.

    Raises:
        ValueError: For an argument out of range.
        DatasetError: In eager execution, for a label that is neither a class nor `ignore_index`. Within `fit`,
            TensorFlow ends the step with an `InvalidArgumentError` that names the labels. XLA and JAX have no
            assertions: there such a label makes the loss NaN and the gradient 0.

    Example:
        >>> import numpy as np
        >>> loss = SegmentationLoss()
        >>> logits, labels = np.zeros((1, 4, 4, 3), "float32"), np.zeros((1, 16, 16), "int32")
        >>> round(float(loss(labels, logits)), 4)  # log(3)
        1.0986
    """

    def __init__(
        self,
        ignore_index: int = 255,
        normalize_by: str = "valid_pixels",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
        dice_weight: float = 0.0,
        name: str = "segmentation_loss",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if normalize_by not in NORMALIZERS:
            raise ValueError(f"normalize_by={normalize_by!r} must be one of {', '.join(NORMALIZERS)}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing!r} must be at least 0 and below 1")
        if focal_gamma < 0 or dice_weight < 0:
            raise ValueError(f"focal_gamma={focal_gamma!r} and dice_weight={dice_weight!r} must be at least 0")
        if ohem_threshold is not None and not 0 < ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold={ohem_threshold!r} must be above 0 and at most 1")
        if class_weights is not None and min(class_weights) < 0:
            raise ValueError(f"class_weights={class_weights!r} must be at least 0")
        self.ignore_index = ignore_index
        self.normalize_by = normalize_by
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.dice_weight = dice_weight

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> SegmentationLoss:
        """The loss of a model's configuration, or what `get_config` described.

        Args:
            config: A `SegformerConfig`, whose `semantic_loss_ignore_index` is the ignored label; or the dictionary of
                `get_config`.
            **options: Arguments of the constructor.

        Returns:
            The loss.

        Example:
            >>> from tf_segformer import SegformerConfig
            >>> SegmentationLoss.from_config(SegformerConfig(semantic_loss_ignore_index=7)).ignore_index
            7
        """
        arguments = config if isinstance(config, dict) else {"ignore_index": config.semantic_loss_ignore_index}
        return cls(**{**arguments, **options})

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of one batch as a float32 scalar; see `call`."""
        # Keras would multiply the one value of the batch by the weights
        return super().__call__(y_true if sample_weight is None else (y_true, sample_weight), y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of one batch.

        Args:
            y_true: Labels, (B, H, W) or (B, H, W, 1), whole numbers; or a tuple of them and sample weights.
            y_pred: Logits, (B, h, w, K) of any h and w.

        Returns:
            The average as float32 (1,): Keras takes the mean of it, and divides a vector, but no scalar, among the
            devices of a distribution.
        """
        y_true, sample_weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        labels, logits = ops.cast(squeeze_labels(y_true), "int32"), with_background(y_pred)
        num_classes = logits.shape[-1]
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} entries, the logits have {num_classes} classes"
            )

        is_class = ops.logical_and(labels >= 0, labels < num_classes)
        is_counted = ops.logical_and(is_class, labels != self.ignore_index)  # (B, H, W)
        is_invalid = ops.logical_not(ops.logical_or(is_class, labels == self.ignore_index))
        labels, invalid = self._checked_labels(labels, is_invalid, num_classes)
        labels, counts = ops.where(is_counted, labels, 0), ops.cast(is_counted, "float32")
        if sample_weight is not None:
            counts = counts * pixel_weights(sample_weight)
        value = _with_gradient(logits, lambda x: self._value_and_gradient(x, labels, counts))
        return ops.reshape(ops.where(invalid, float("nan"), value), (1,))

    def _checked_labels(self, labels: Any, is_invalid: Any, num_classes: int) -> tuple[Any, Any]:
        """The labels, with an error where some are invalid and the backend can raise one; and whether some are."""
        invalid = ops.any(is_invalid)
        reason = (
            f"neither a class (0 to {num_classes - 1}) nor ignore_index={self.ignore_index}: map the labels, or build "
            "the model with more classes"
        )
        if not _is_concrete(invalid):
            return _assert_valid(labels, is_invalid, invalid, reason), invalid
        if bool(invalid):
            found = sorted({int(label) for label in ops.convert_to_numpy(labels).ravel()})
            raise DatasetError(f"labels {found} hold values that are {reason}")
        return labels, invalid

    def _value_and_gradient(self, logits: Any, labels: Any, counts: Any) -> tuple[Any, Any]:
        """The loss and its gradient with respect to the low-resolution logits."""
        weights = counts
        if self.ohem_threshold is not None:
            weights = weights * self._hard_pixels(logits, labels, counts)
        if self.class_weights is not None:
            weights = weights * ops.take(ops.convert_to_tensor(self.class_weights, "float32"), labels)
        total = ops.sum(weights) if self.normalize_by == "valid_pixels" else ops.sum(ops.ones_like(weights))
        weights = weights / ops.maximum(_over_replicas(total), 1e-12)  # every pixel ignored: 0 / tiny = 0
        dice_value, d_overlap, d_prediction = 0.0, None, None
        if self.dice_weight:
            dice_value, d_overlap, d_prediction = self._dice(logits, labels, counts)

        def of_chunk(upsampled: Any, labels: Any, weights: Any, counts: Any) -> tuple[Any, Any]:
            p, log_total = _softmax(upsampled)
            is_label = ops.one_hot(labels, upsampled.shape[-1], dtype="float32")  # (s, W, K)
            x_label = ops.take_along_axis(upsampled, labels[..., None], axis=-1)
            pixels, grad = self._cross_entropy(upsampled, x_label, log_total, p, is_label)
            grad = grad * weights[..., None]
            if d_overlap is not None:
                d_p = (d_overlap * is_label + d_prediction) * counts[..., None]
                grad = grad + p * (d_p - ops.sum(p * d_p, axis=-1, keepdims=True))
            return ops.sum(pixels[..., 0] * weights), grad

        def of_image(logits: Any, *pixels: Any) -> tuple[Any, Any]:
            values, grads = map_row_chunks(of_chunk, logits, *pixels, project_last=True)
            return ops.sum(values), grads

        values, gradient = map_images(of_image, (logits, labels, weights, counts), ["float32"] * 2)
        return ops.sum(values) + dice_value, ops.reshape(gradient, ops.shape(logits))

    def _cross_entropy(self, x: Any, x_label: Any, log_total: Any, p: Any, is_label: Any) -> tuple[Any, Any]:
        """Each pixel's (focal, smoothed) cross-entropy (..., 1), and its gradient (..., K) by the logits x (..., K)."""
        value, grad, smoothing = log_total - x_label, p - is_label, self.label_smoothing
        if smoothing:
            value = value + smoothing * (x_label - ops.mean(x, axis=-1, keepdims=True))
            grad = grad + smoothing * (is_label - 1 / is_label.shape[-1])
        if self.focal_gamma:
            p_label = ops.sum(p * is_label, axis=-1, keepdims=True)
            p_other = ops.maximum(1 - p_label, 1e-7)  # its power has no derivative at 0 for exponents below 1
            factor = p_other**self.focal_gamma
            d_p_label = -self.focal_gamma * p_other ** (self.focal_gamma - 1)
            grad = factor * grad + value * d_p_label * p_label * (is_label - p)
            value = factor * value
        return value, grad

    def _hard_pixels(self, logits: Any, labels: Any, counts: Any) -> Any:
        """1 where a pixel is among the hard ones of online hard example mining, (B, H, W)."""

        def of_chunk(upsampled: Any, labels: Any) -> tuple[Any]:
            return (ops.take_along_axis(_softmax(upsampled)[0], labels[..., None], axis=-1)[..., 0],)

        def of_image(logits: Any, labels: Any) -> tuple[Any]:
            (p_label,) = map_row_chunks(of_chunk, logits, labels)  # (chunks, s, W)
            return (ops.reshape(p_label, (-1, ops.shape(labels)[1]))[: ops.shape(labels)[0]],)

        (p_label,) = map_images(of_image, (logits, labels), ["float32"])
        p_label = ops.where(counts > 0, p_label, 2.0)  # the ignored come last
        in_order = ops.sort(ops.reshape(p_label, (-1,)))
        last_kept = ops.take(in_order, ops.minimum(self.ohem_min_kept, ops.size(in_order)) - 1)
        is_hard = ops.logical_or(p_label < self.ohem_threshold, p_label <= last_kept)
        return ops.cast(is_hard, "float32")

    def _dice(self, logits: Any, labels: Any, counts: Any) -> tuple[Any, Any, Any]:
        """The weighted Dice loss; its gradients (K,) by each class's sum of overlap and sum of probabilities."""
        num_classes = logits.shape[-1]

        def of_chunk(upsampled: Any, labels: Any, counts: Any) -> tuple[Any]:
            mask = counts[..., None]
            is_label = ops.one_hot(labels, num_classes, dtype="float32") * mask
            p = _softmax(upsampled)[0]
            return (ops.stack([ops.sum(each, axis=(0, 1)) for each in (p * is_label, p * mask, is_label)]),)

        def of_image(*maps: Any) -> tuple[Any]:
            return (ops.sum(map_row_chunks(of_chunk, *maps)[0], axis=0),)  # (3, K)

        (sums,) = map_images(of_image, (logits, labels, counts), ["float32"])
        overlap, predicted, labelled = ops.unstack(ops.reshape(ops.sum(sums, axis=0), (3, num_classes)), 3)
        present = ops.cast(labelled > 0, "float32")
        weight = self.dice_weight * present / ops.maximum(ops.sum(present), 1.0)
        union = predicted + labelled + _DICE_SMOOTHING
        dice = (2 * overlap + _DICE_SMOOTHING) / union
        return ops.sum(weight * (1 - dice)), -2 * weight / union, weight * dice / union

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras' serialization."""
        return {
            "ignore_index": self.ignore_index,
            "normalize_by": self.normalize_by,
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
            "focal_gamma": self.focal_gamma,
            "ohem_threshold": self.ohem_threshold,
            "ohem_min_kept": self.ohem_min_kept,
            "dice_weight": self.dice_weight,
            "name": self.name,
        }


def _softmax(logits: Any) -> tuple[Any, Any]:
    """The probabilities (..., K), and the logarithm (..., 1) of the sum of the exponentials, by the likeliest class."""
    p = ops.softmax(logits)
    return p, ops.max(logits, axis=-1, keepdims=True) - ops.log(ops.max(p, axis=-1, keepdims=True))


def _with_gradient(logits: Any, value_and_gradient: Callable[[Any], tuple[Any, Any]]) -> Any:
    """The scalar of `value_and_gradient`, whose gradient is the tensor that it computes as well."""

    @ops.custom_gradient
    def scalar(logits: Any) -> tuple[Any, Callable[..., Any]]:
        value, grad = value_and_gradient(logits)

        def gradient(*args: Any, upstream: Any = None) -> Any:  # each backend of Keras hands it over differently
            return grad * (args[-1] if upstream is None else upstream)

        return value, gradient

    return scalar(logits)


def _assert_valid(labels: Any, is_invalid: Any, invalid: Any, reason: str) -> Any:
    """The labels, behind an assertion that names the invalid ones, where TensorFlow runs the graph itself."""
    if not runs_tensorflow_kernels():
        return labels
    import tensorflow as tf

    found = tf.cond(
        invalid,
        lambda: tf.sort(tf.unique(tf.boolean_mask(labels, is_invalid))[0]),
        lambda: tf.zeros(0, labels.dtype),
    )
    data = ["labels hold values that are", reason, found]
    with tf.control_dependencies([tf.debugging.Assert(~invalid, data, summarize=_NAMED_LABELS)]):
        return tf.identity(labels)


def _over_replicas(total: Any) -> Any:
    """The total over `tf.distribute` replicas, divided by their number as Keras divides the loss."""
    if keras.backend.backend() != "tensorflow":
        return total
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return total
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, total)


def _is_concrete(tensor: Any) -> bool:
    """Whether the tensor has a value now, outside any graph that is being traced."""
    try:
        ops.convert_to_numpy(tensor)
    except (AttributeError, NotImplementedError, TypeError, RuntimeError):
        return False
    return True
