"""create_optimizer: AdamW with warm-up and polynomial decay, the head at its own rate and the norms undecayed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

_HEAD = re.compile(r"(^|/)(decode_head|classifier)/")
_NORM = "norm"


@keras.saving.register_keras_serializable(package="tf_segformer")
class WarmupPolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, a plateau if wanted, then polynomial decay to zero.

    The rate of step t is `peak * (1 - max(t - decay_start, 0) / (steps - decay_start)) ** power`; with `decay_start` 0
    the decay counts from step 0, as mmsegmentation counts it. In the warm-up it is multiplied by
    `1 - (1 - t / warmup_steps) * (1 - warmup_start_factor)`.

    Args:
        peak: The highest learning rate.
        steps: Updates until the rate is zero.
        warmup_steps: Updates of the warm-up.
        warmup_start_factor: Fraction of the rate at step 0.
        power: Exponent of the decay.
        decay_start: Update before which the rate is not decayed.

    Source: Xie et al. 2021, section 4.1, and its published configuration (1,500 steps from 1e-6, power 1.0).

    Example:
        >>> round(float(WarmupPolynomialDecay(1.0, steps=10, warmup_steps=2)(5)), 4)
        0.5
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int = 1500,
        warmup_start_factor: float = 1e-6,
        power: float = 1.0,
        decay_start: int = 0,
    ) -> None:
        if steps < 1 or not 0 <= warmup_steps <= steps:
            raise ValueError(f"warmup_steps={warmup_steps} must lie between 0 and steps={steps}, steps above 0")
        if not 0 <= decay_start < steps:
            raise ValueError(f"decay_start={decay_start} must be at least 0 and below steps={steps}")
        self.peak, self.steps, self.power, self.decay_start = peak, steps, power, decay_start
        self.warmup_steps, self.warmup_start_factor = warmup_steps, warmup_start_factor

    def __call__(self, step: Any) -> Any:
        """The learning rate of one update."""
        step = ops.cast(step, "float32")
        done = ops.maximum(step - self.decay_start, 0.0) / (self.steps - self.decay_start)
        decay = ops.maximum(1.0 - done, 0.0) ** self.power
        if not self.warmup_steps:
            return self.peak * decay
        warmup = 1.0 - (1.0 - step / self.warmup_steps) * (1.0 - self.warmup_start_factor)
        return self.peak * decay * ops.minimum(warmup, 1.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras' serialization."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "warmup_start_factor": self.warmup_start_factor,
            "power": self.power,
            "decay_start": self.decay_start,
        }


@dataclass(frozen=True)
class ParameterGroup:
    """Variables that share a rate and a decay.

    Args:
        name: What the table prints.
        lr_multiplier: Multiple of the schedule's learning rate.
        weight_decay: Decoupled weight decay.
        paths: Paths of the variables.

    Example:
        >>> ParameterGroup("head", 10.0, 0.01, ("decode_head/classifier/bias",)).lr_multiplier
        10.0
    """

    name: str
    lr_multiplier: float
    weight_decay: float
    paths: tuple[str, ...]


@keras.saving.register_keras_serializable(package="tf_segformer")
class GroupedAdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay whose rate and decay are those of each variable's group.

    One optimizer rather than `keras.optimizers.MultiOptimizer`, which clips each group by its own norm and has no
    `learning_rate` to log.

    Args:
        learning_rate: Rate or schedule of the encoder.
        head_lr_multiplier: Multiple of the rate for the decode head and the classifier.
        weight_decay: Decay of every variable whose path does not contain "norm"; biases are decayed.
        **options: Arguments of `keras.optimizers.Adam`.

    Source: Loshchilov and Hutter 2019; groups of Xie et al. 2021.

    Example:
        >>> GroupedAdamW(6e-5, head_lr_multiplier=10.0).head_lr_multiplier
        10.0
    """

    def __init__(
        self,
        learning_rate: Any = 6e-5,
        head_lr_multiplier: float = 10.0,
        weight_decay: float = 0.01,
        name: str = "grouped_adamw",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.head_lr_multiplier = head_lr_multiplier
        self.decoupled_weight_decay = weight_decay

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the moments and finds each variable's group."""
        if self.built:
            return
        super().build(variables)
        self._in_head = [_is_head(variable) for variable in variables]
        self._is_decayed = [not _is_norm(variable) for variable in variables]

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        """Computes once per step what the updates share, in place of a rate: B0 needs 4,600 nodes of 13,900 less."""
        rate, step = ops.cast(learning_rate, "float32"), ops.cast(self.iterations + 1, "float32")
        beta_1_power, beta_2_power = (ops.power(ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2))

        def of_group(multiplier: float) -> tuple[Any, ...]:
            group_rate = rate * multiplier
            alpha = group_rate * ops.sqrt(1 - beta_2_power) / (1 - beta_1_power)
            return alpha, group_rate * self.decoupled_weight_decay

        constants = (1 - self.beta_1, 1 - self.beta_2, self.epsilon)
        shared = (
            of_group(1.0),
            of_group(self.head_lr_multiplier),
            tuple(ops.convert_to_tensor(each, "float32") for each in constants),
        )
        super()._backend_update_step(grads, trainable_variables, shared)

    def update_step(self, gradient: Any, variable: Any, learning_rate: tuple[tuple[Any, ...], ...]) -> None:
        """One variable's decay, then its update of Adam, with what `_backend_update_step` computed."""
        index, dtype = self._get_variable_index(variable), variable.dtype
        encoder, head, constants = learning_rate
        group = head if self._in_head[index] else encoder
        alpha, decay, rest_1, rest_2, epsilon = (ops.cast(each, dtype) for each in (*group, *constants))
        gradient = ops.cast(gradient, dtype)
        mean, variance = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - ops.convert_to_tensor(mean)) * rest_1)
        self.assign_add(variance, (ops.square(gradient) - ops.convert_to_tensor(variance)) * rest_2)
        if self.amsgrad:
            largest = self._velocity_hats[index]
            self.assign(largest, ops.maximum(largest, variance))
            variance = largest
        if self.decoupled_weight_decay and self._is_decayed[index]:
            self.assign_sub(variable, ops.convert_to_tensor(variable) * decay)
        denominator = ops.sqrt(ops.convert_to_tensor(variance)) + epsilon
        self.assign_sub(variable, ops.convert_to_tensor(mean) * alpha / denominator)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras' serialization."""
        config = super().get_config()
        config.update(head_lr_multiplier=self.head_lr_multiplier, weight_decay=self.decoupled_weight_decay)
        return config


def create_optimizer(
    learning_rate: float = 6e-5,
    steps: int = 160_000,
    *,
    warmup_steps: int | None = None,
    warmup_start_factor: float = 1e-6,
    power: float = 1.0,
    decay_start: int = 0,
    weight_decay: float = 0.01,
    head_lr_multiplier: float = 10.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    clip_norm: float | None = None,
    accumulation_steps: int | None = None,
    ema_momentum: float | None = None,
    schedule: str | None = "polynomial",
) -> GroupedAdamW:
    """The paper's optimizer, ready for `model.compile`.

    Args:
        learning_rate: Highest rate of the encoder.
        steps: Updates until the rate is zero.
        warmup_steps: Updates of the linear warm-up; None takes the paper's 1,500, or a tenth of a run below 15,000.
        warmup_start_factor: Fraction of the rate at the first step.
        power: Exponent of the polynomial decay.
        decay_start: Update before which the rate is not decayed.
        weight_decay: Decoupled weight decay; none for variables whose path contains "norm".
        head_lr_multiplier: Multiple of the rate for the decode head (or the image classifier).
        betas: Decay of Adam's two moments.
        epsilon: Adam's epsilon.
        clip_norm: Largest norm of all gradients together, over all groups; None does not clip.
        accumulation_steps: Batches whose gradients are averaged for one update, at least 2; None for every batch.
        ema_momentum: Keeps an exponential moving average of the weights (see `keras.callbacks.SwapEMAWeights`).
        schedule: "polynomial", the paper's warm-up and decay over `steps`; or None for a constant rate that
            `keras.callbacks.ReduceLROnPlateau` and `LearningRateScheduler` can set.

    Returns:
        The optimizer.

    Raises:
        ValueError: For arguments out of range, and for those of the schedule where there is none.

    Source: Xie et al. 2021, section 4.1.

    Example:
        >>> optimizer = create_optimizer(6e-5, steps=160_000)
        >>> # model.compile(optimizer, loss=tf_segformer.losses.SegmentationLoss())
    """
    if schedule == "polynomial":
        warmup_steps = min(1500, steps // 10) if warmup_steps is None else warmup_steps
        rate: Any = WarmupPolynomialDecay(learning_rate, steps, warmup_steps, warmup_start_factor, power, decay_start)
    elif schedule is None and (warmup_steps or 0, power, decay_start) == (0, 1.0, 0):
        rate = learning_rate
    else:
        raise ValueError(
            f"schedule={schedule!r} must be 'polynomial', or None without warmup_steps, power and decay_start"
        )
    return GroupedAdamW(
        rate,
        head_lr_multiplier=head_lr_multiplier,
        weight_decay=weight_decay,
        beta_1=betas[0],
        beta_2=betas[1],
        epsilon=epsilon,
        global_clipnorm=clip_norm,
        gradient_accumulation_steps=accumulation_steps,
        use_ema=ema_momentum is not None,
        ema_momentum=0.99 if ema_momentum is None else ema_momentum,
    )


def parameter_groups(
    variables: Sequence[Any], head_lr_multiplier: float = 10.0, weight_decay: float = 0.01
) -> list[ParameterGroup]:
    """The groups of variables that `create_optimizer` treats alike.

    Args:
        variables: Such as `model.trainable_variables`.
        head_lr_multiplier: As given to `create_optimizer`.
        weight_decay: As given to `create_optimizer`.

    Returns:
        Four groups at most: encoder and head, decayed and not.

    Example:
        >>> parameter_groups([])
        []
    """
    groups = []
    for part, is_part, multiplier in (("encoder", False, 1.0), ("head", True, head_lr_multiplier)):
        for label, is_norm in (("", False), (", norms", True)):
            paths = tuple(v.path for v in variables if _is_head(v) is is_part and _is_norm(v) is is_norm)
            if paths:
                groups.append(ParameterGroup(f"{part}{label}", multiplier, 0.0 if is_norm else weight_decay, paths))
    return groups


def format_groups(groups: Sequence[ParameterGroup], variables: Sequence[Any]) -> str:
    """The groups as a table: name, rate, decay, number of tensors and of parameters.

    Args:
        groups: From `parameter_groups`.
        variables: The same variables.

    Returns:
        Text of several lines.

    Example:
        >>> format_groups([], [])
        'group             rate  decay  tensors  parameters'
    """
    sizes = {variable.path: int(ops.size(variable)) for variable in variables}
    lines = ["group             rate  decay  tensors  parameters"]
    for group in groups:
        count = sum(sizes[path] for path in group.paths)
        lines.append(
            f"{group.name:<16}{group.lr_multiplier:>5g}x {group.weight_decay:>6g}{len(group.paths):>9}{count:>12,}"
        )
    return "\n".join(lines)


def _is_head(variable: Any) -> bool:
    return _HEAD.search(variable.path) is not None


def _is_norm(variable: Any) -> bool:
    return _NORM in variable.path
