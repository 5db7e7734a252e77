"""SegmentationLoss: cross-entropy, focal, OHEM and Dice on logits that are resized to the labels strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tf_segformer.errors import DatasetError
from tf_segformer.resize import interpolation_matrix

AVERAGES = ("valid", "all")
_STRIP_SIZE = 2**22  # entries of the upsampled logits that exist at a time: 16 MB
_DICE_SMOOTHING = 1.0


def squeeze_labels(labels: Any) -> Any:
    """Labels without their channel axis.

    Args:
        labels: Class indices, (B, H, W) or (B, H, W, 1).

    Returns:
        (B, H, W).

    Raises:
        ValueError: For other shapes, such as one-hot labels or RGB colours.

    Example:
        >>> tuple(squeeze_labels(ops.zeros((1, 4, 6, 1), "int32")).shape)
        (1, 4, 6)
    """
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        return ops.squeeze(labels, axis=-1)
    if len(labels.shape) != 3:
        raise ValueError(
            f"labels must be class indices (batch, height, width), but their shape is {tuple(labels.shape)}: of "
            "one-hot labels take the argmax, of RGB label files give find_dataset the palette"
        )
    return labels


@keras.saving.register_keras_serializable(package="tf_segformer")
class SegmentationLoss(keras.losses.Loss):
    """Sparse pixel-wise loss on logits of any resolution.

    The logits are resized bilinearly (half-pixel centres, as `torch.nn.functional.interpolate` with
    `align_corners=False`) to the labels' size inside the loss, in float32, one band of rows at a time; the gradient of
    each band is computed beside its value and only its low-resolution projection is kept. Logits with a single channel
    are binary: label 1 against label 0 through a sigmoid.

    Args:
        ignore_index: Label that neither counts nor teaches.
        average: "valid" divides by the summed weights of the pixels that count (Hugging Face, Keras), "all" by the
            number of all pixels (NVlabs, mmsegmentation).
        class_weights: One weight a class (two for binary logits), or None for ones.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        focal_gamma: Exponent of the focal factor `(1 - p)^gamma` (Lin et al. 2017); 0 switches it off.
        ohem_threshold: If given, only pixels whose true class has a lower probability count (Shrivastava et al. 2016).
        ohem_min_kept: With `ohem_threshold`: at least this many of the hardest pixels of the batch count.
        dice_weight: Weight of `1 - Dice` (Milletari et al. 2016), averaged over the classes present in the labels.
        name: Name in Keras' logs.

    Raises:
        ValueError: For an argument out of range.
        DatasetError: In eager execution, for a label that is neither a class nor `ignore_index`. Inside a compiled
            graph such a label makes the loss NaN and teaches nothing.

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
        average: str = "valid",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
        dice_weight: float = 0.0,
        name: str = "segmentation_loss",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if average not in AVERAGES:
            raise ValueError(f"average={average!r} must be one of {', '.join(AVERAGES)}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing!r} must be at least 0 and below 1")
        if focal_gamma < 0 or dice_weight < 0:
            raise ValueError(f"focal_gamma={focal_gamma!r} and dice_weight={dice_weight!r} must be at least 0")
        if ohem_threshold is not None and not 0 < ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold={ohem_threshold!r} must be above 0 and at most 1")
        if class_weights is not None and min(class_weights) < 0:
            raise ValueError(f"class_weights={class_weights!r} must be at least 0")
        self.ignore_index = ignore_index
        self.average = average
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.dice_weight = dice_weight

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: None = None) -> Any:
        """The loss of one batch as a float32 scalar; see `call`."""
        if sample_weight is not None:
            raise ValueError("SegmentationLoss takes no sample weights: use ignore_index or class_weights")
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of one batch.

        Args:
            y_true: Labels, (B, H, W) or (B, H, W, 1), whole numbers.
            y_pred: Logits, (B, h, w, K) of any h and w.

        Returns:
            The average as float32 (1,): Keras takes the mean of it, and divides a vector, but no scalar, among the
            devices of a distribution.
        """
        labels, logits = ops.cast(squeeze_labels(y_true), "int32"), y_pred
        if logits.shape[-1] == 1:  # sigmoid(x) is the second entry of softmax([0, x])
            logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
        num_classes = logits.shape[-1]
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} entries, the logits have {num_classes} classes"
            )

        is_class = ops.logical_and(labels >= 0, labels < num_classes)
        counts = ops.logical_and(is_class, labels != self.ignore_index)  # (B, H, W)
        strange = ops.any(ops.logical_not(ops.logical_or(is_class, labels == self.ignore_index)))
        if _is_concrete(strange) and bool(strange):
            found = sorted({int(label) for label in ops.convert_to_numpy(labels).ravel()})
            raise DatasetError(
                f"labels {found} hold values that are neither a class (0 to {num_classes - 1}) nor "
                f"ignore_index={self.ignore_index}: map the labels, or build the model with more classes"
            )
        labels = ops.where(counts, labels, 0)
        value = _with_gradient(logits, lambda x: self._value_and_gradient(x, labels, ops.cast(counts, "float32")))
        return ops.reshape(ops.where(strange, float("nan"), value), (1,))

    def _value_and_gradient(self, logits: Any, labels: Any, counts: Any) -> tuple[Any, Any]:
        """The loss and its gradient with respect to the low-resolution logits."""
        num_classes, strips = logits.shape[-1], _Strips.of(logits, labels)
        weights = counts
        if self.ohem_threshold is not None:
            weights = weights * self._hard_pixels(logits, labels, counts, strips)
        if self.class_weights is not None:
            weights = weights * ops.take(ops.convert_to_tensor(self.class_weights, "float32"), labels)
        total = ops.sum(weights) if self.average == "valid" else ops.sum(ops.ones_like(weights))
        weights = weights / ops.maximum(_over_replicas(total), 1e-12)  # every pixel ignored: 0 / tiny = 0

        dice_value, of_overlap, of_prediction = 0.0, None, None
        if self.dice_weight:
            dice_value, of_overlap, of_prediction = self._dice(logits, labels, counts, strips)
        labels, weights, counts = strips.pad(labels), strips.pad(weights), strips.pad(counts)

        def visit(strip: _Strip, upsampled: Any, value: Any, gradient: Any) -> tuple[Any, Any]:
            log_p, p = _softmax(upsampled)
            is_label = ops.one_hot(strip.cut(labels), num_classes, dtype="float32")  # (B, s, W, K)
            pixels, slope = self._cross_entropy(log_p, p, is_label)
            pixel_weights = strip.cut(weights)[..., None]
            value, slope = value + ops.sum(pixels * pixel_weights), slope * pixel_weights
            if of_overlap is not None:
                by_p = (of_overlap * is_label + of_prediction) * strip.cut(counts)[..., None]
                slope = slope + p * (by_p - ops.sum(p * by_p, axis=-1, keepdims=True))
            return value, gradient + strip.project(slope)

        value, gradient = strips.fold(
            visit, logits, ops.convert_to_tensor(dice_value, "float32"), ops.zeros_like(logits)
        )
        return value, gradient

    def _cross_entropy(self, log_p: Any, p: Any, is_label: Any) -> tuple[Any, Any]:
        """Each pixel's (focal, smoothed) cross-entropy (..., 1) and its slope by the logits (..., K)."""
        smoothing = self.label_smoothing
        target = is_label * (1 - smoothing) + smoothing / is_label.shape[-1] if smoothing else is_label
        value = -ops.sum(target * log_p, axis=-1, keepdims=True)
        slope = p - target
        if self.focal_gamma:
            p_label = ops.sum(p * is_label, axis=-1, keepdims=True)
            p_other = ops.maximum(1 - p_label, 1e-7)  # its power has no slope at 0 for exponents below 1
            factor = p_other**self.focal_gamma
            by_p_label = -self.focal_gamma * p_other ** (self.focal_gamma - 1)
            slope = factor * slope + value * by_p_label * p_label * (is_label - p)
            value = factor * value
        return value, slope

    def _hard_pixels(self, logits: Any, labels: Any, counts: Any, strips: _Strips) -> Any:
        """1 where a pixel is among the hard ones of online hard example mining, (B, H, W)."""
        padded = strips.pad(labels)

        def visit(strip: _Strip, upsampled: Any, p_label: Any) -> tuple[Any]:
            found = ops.take_along_axis(_softmax(upsampled)[1], strip.cut(padded)[..., None], axis=-1)
            return (strip.paste(p_label, found[..., 0]),)

        (p_label,) = strips.fold(visit, logits, ops.zeros_like(padded, dtype="float32"))
        p_label = ops.where(counts > 0, p_label[:, : ops.shape(labels)[1]], 2.0)  # the ignored come last
        in_order = ops.sort(ops.reshape(p_label, (-1,)))
        last_kept = ops.take(in_order, ops.minimum(self.ohem_min_kept, ops.size(in_order)) - 1)
        is_hard = ops.logical_or(p_label < self.ohem_threshold, p_label <= last_kept)
        return ops.cast(is_hard, "float32")

    def _dice(self, logits: Any, labels: Any, counts: Any, strips: _Strips) -> tuple[Any, Any, Any]:
        """The weighted Dice loss and its slopes by the sums of overlap and of prediction of each class, (K,)."""
        num_classes = logits.shape[-1]
        labels, counts = strips.pad(labels), strips.pad(counts)

        def visit(strip: _Strip, upsampled: Any, *sums: Any) -> tuple[Any, ...]:
            mask = strip.cut(counts)[..., None]
            is_label = ops.one_hot(strip.cut(labels), num_classes, dtype="float32") * mask
            p = _softmax(upsampled)[1]
            terms = (p * is_label, p * mask, is_label)
            return tuple(total + ops.sum(term, axis=(0, 1, 2)) for total, term in zip(sums, terms, strict=True))

        overlap, predicted, labelled = strips.fold(visit, logits, *(ops.zeros((num_classes,)) for _ in range(3)))
        present = ops.cast(labelled > 0, "float32")
        share = self.dice_weight * present / ops.maximum(ops.sum(present), 1.0)
        union = predicted + labelled + _DICE_SMOOTHING
        dice = (2 * overlap + _DICE_SMOOTHING) / union
        return ops.sum(share * (1 - dice)), -2 * share / union, share * dice / union

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras' serialization."""
        return {
            "ignore_index": self.ignore_index,
            "average": self.average,
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
            "focal_gamma": self.focal_gamma,
            "ohem_threshold": self.ohem_threshold,
            "ohem_min_kept": self.ohem_min_kept,
            "dice_weight": self.dice_weight,
            "name": self.name,
        }


@dataclass(frozen=True)
class _Strips:
    """Bands of label rows, all of one height, with the matrices that resize to them."""

    rows: Any  # of a strip
    count: Any
    by_row: Any  # (count * rows, h); the rows below the labels are zero
    by_column: Any  # (W, w)

    @classmethod
    def of(cls, logits: Any, labels: Any) -> _Strips:
        """Parts the labels so that the upsampled logits of a strip have about `_STRIP_SIZE` entries."""
        batch, height, width = ops.shape(labels)
        rows = _STRIP_SIZE // (batch * width * logits.shape[-1])
        if isinstance(rows, int) and isinstance(height, int):
            rows = min(max(rows, 1), height)  # JAX needs a plain number
        else:
            rows = ops.minimum(ops.maximum(rows, 1), height)
        count = (height + rows - 1) // rows
        by_row = interpolation_matrix(height, ops.shape(logits)[1])
        by_row = ops.pad(by_row, ((0, count * rows - height), (0, 0)))
        return cls(rows, count, by_row, interpolation_matrix(width, ops.shape(logits)[2]))

    def pad(self, pixels: Any) -> Any:
        """(B, H, W) with zeros below, to whole strips."""
        return ops.pad(pixels, ((0, 0), (0, self.count * self.rows - ops.shape(pixels)[1]), (0, 0)))

    def fold(self, visit: Callable[..., tuple[Any, ...]], logits: Any, *carry: Any) -> tuple[Any, ...]:
        """Calls `visit(strip, upsampled (B, s, W, K), *carry)`, which returns the next carry, strip after strip."""
        batch, height, width, num_classes = ops.shape(logits)
        flat = ops.reshape(logits, (batch, height, width * num_classes))

        def step(index: Any, *carry: Any) -> tuple[Any, ...]:
            strip = _Strip(self, index * self.rows)
            by_row = _later(strip.by_row(), carry[-1])  # two strips at once would share the memory
            upsampled = ops.reshape(ops.matmul(by_row, flat), (batch, self.rows, width, num_classes))
            return index + 1, *visit(strip, ops.matmul(self.by_column, upsampled), *carry)

        first = ops.convert_to_tensor(0, "int32")
        return ops.while_loop(lambda index, *_: index < self.count, step, (first, *carry))[1:]


@dataclass(frozen=True)
class _Strip:
    """One of the strips."""

    strips: _Strips
    start: Any  # its first row

    def by_row(self) -> Any:
        """The matrix that resizes to its rows, (s, h)."""
        matrix = self.strips.by_row
        return ops.slice(matrix, (self.start, 0), (self.strips.rows, ops.shape(matrix)[1]))

    def cut(self, pixels: Any) -> Any:
        """Its rows of padded pixels."""
        batch, _, width = ops.shape(pixels)
        return ops.slice(pixels, (0, self.start, 0), (batch, self.strips.rows, width))

    def paste(self, pixels: Any, rows: Any) -> Any:
        """Padded pixels with its rows replaced."""
        return ops.slice_update(pixels, (0, self.start, 0), rows)

    def project(self, slope: Any) -> Any:
        """The transpose of the resize: (B, s, W, K) to (B, h, w, K)."""
        by_row, by_column = self.by_row(), self.strips.by_column
        batch, _, _, num_classes = ops.shape(slope)
        height, width = ops.shape(by_row)[1], ops.shape(by_column)[1]
        slope = ops.matmul(ops.transpose(by_column), slope)  # (B, s, w, K)
        slope = ops.reshape(slope, (batch, self.strips.rows, width * num_classes))
        return ops.reshape(ops.matmul(ops.transpose(by_row), slope), (batch, height, width, num_classes))


def _softmax(logits: Any) -> tuple[Any, Any]:
    """Logarithm of the probabilities, and the probabilities."""
    log_p = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
    return log_p, ops.exp(log_p)


def _with_gradient(logits: Any, value_and_gradient: Callable[[Any], tuple[Any, Any]]) -> Any:
    """The scalar of `value_and_gradient`, whose gradient is the tensor it computes beside it."""

    @ops.custom_gradient
    def scalar(logits: Any) -> tuple[Any, Callable[..., Any]]:
        value, slope = value_and_gradient(logits)

        def gradient(*args: Any, upstream: Any = None) -> Any:  # each backend of Keras hands it over differently
            return slope * (args[-1] if upstream is None else upstream)

        return value, gradient

    return scalar(logits)


def _later(value: Any, previous: Any) -> Any:
    """`value`, not used before `previous` is computed: a graph would otherwise hold all bands at once."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.control_dependencies([previous]):
            return tf.identity(value)
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier((value, previous))[0]
    return value


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
