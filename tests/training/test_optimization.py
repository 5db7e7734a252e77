"""create_optimizer: rates, decays, clipping, accumulation and averages of the recipe."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.training.optimization import (
    GroupedAdamW,
    WarmupPolynomialDecay,
    create_optimizer,
    format_groups,
    parameter_groups,
)

CONSTANT = {"warmup_steps": 0, "power": 0.0, "steps": 100}


def make_variables():
    """Four variables, one in each group, with paths as a model's."""
    rng = np.random.default_rng(0)
    variables = []
    for outer, inner, name in (
        ("block_0_0", "mlp", "kernel"),
        ("block_0_0", "layer_norm_1", "gamma"),
        ("decode_head", "classifier", "bias"),
        ("decode_head", "batch_norm", "gamma"),
    ):
        with keras.name_scope(outer), keras.name_scope(inner):
            variables.append(keras.Variable(rng.normal(size=(3, 2)).astype("float32"), name=name))
    return variables


def gradients(step, scale=1.0):
    rng = np.random.default_rng(100 + step)
    return [keras.ops.convert_to_tensor(scale * rng.normal(size=(3, 2)).astype("float32")) for _ in range(4)]


def values(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def test_updates_are_those_of_torch_adamw_with_the_recipes_groups():
    torch = pytest.importorskip("torch")
    ours = make_variables()
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values(ours)]
    optimizer = create_optimizer(1e-2, weight_decay=0.1, clip_norm=1.0, **CONSTANT)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs[0]], "lr": 1e-2, "weight_decay": 0.1},
            {"params": [theirs[1]], "lr": 1e-2, "weight_decay": 0.0},
            {"params": [theirs[2]], "lr": 1e-1, "weight_decay": 0.1},
            {"params": [theirs[3]], "lr": 1e-1, "weight_decay": 0.0},
        ],
        eps=1e-8,
    )
    for step in range(5):
        optimizer.apply(gradients(step), ours)
        for parameter, gradient in zip(theirs, gradients(step), strict=True):
            parameter.grad = torch.tensor(keras.ops.convert_to_numpy(gradient))
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)  # over all groups
        reference.step()
    for variable, parameter in zip(values(ours), theirs, strict=True):
        # Keras takes the powers of beta in float32: 1e-5 of the five updates of 0.1
        np.testing.assert_allclose(variable, parameter.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_without_groups_and_decay_the_updates_are_those_of_keras_adam(amsgrad):
    ours, theirs = make_variables(), make_variables()
    options = {"amsgrad": amsgrad, "epsilon": 1e-8}
    optimizer = GroupedAdamW(1e-2, head_lr_multiplier=1.0, weight_decay=0.0, **options)
    reference = keras.optimizers.Adam(1e-2, **options)
    for step in range(5):
        optimizer.apply(gradients(step), ours)
        reference.apply(gradients(step), theirs)
    for a, b in zip(values(ours), values(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_updates_share_is_computed_once():
    """Tracing time: Keras' Adam adds 44 operations per variable, which is two thirds of a training step's graph."""
    variables, optimizer = make_variables(), create_optimizer(1e-2, **CONSTANT)
    optimizer.build(variables)
    step = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    operations = step.get_concrete_function([tf.TensorSpec((3, 2))] * 4).graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert kinds.count("Pow") <= 3  # two betas, the schedule
    assert kinds.count("Sqrt") == 4 + 2  # per variable, per group


def test_clipping_is_by_the_norm_of_all_groups_together():
    clipped, scaled = make_variables(), make_variables()
    norm = np.sqrt(sum(float(keras.ops.sum(gradient**2)) for gradient in gradients(0)))
    one = create_optimizer(1e-2, clip_norm=0.5, epsilon=1.0, **CONSTANT)
    other = create_optimizer(1e-2, epsilon=1.0, **CONSTANT)  # a large epsilon lets the size of a gradient show
    one.apply(gradients(0), clipped)
    other.apply(gradients(0, scale=0.5 / norm), scaled)
    for a, b in zip(values(clipped), values(scaled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_accumulation_over_two_batches_is_one_update_by_their_mean():
    accumulated, direct = make_variables(), make_variables()
    optimizer = create_optimizer(1e-2, accumulation_steps=2, **CONSTANT)
    before = values(accumulated)
    optimizer.apply(gradients(0), accumulated)
    assert all((a == b).all() for a, b in zip(before, values(accumulated), strict=True))
    optimizer.apply(gradients(1), accumulated)
    mean = [(a + b) / 2 for a, b in zip(gradients(0), gradients(1), strict=True)]
    create_optimizer(1e-2, **CONSTANT).apply(mean, direct)
    for a, b in zip(values(accumulated), values(direct), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_average_follows_the_weights():
    variables = make_variables()
    optimizer = create_optimizer(1e-2, ema_momentum=0.9, **CONSTANT)
    expected = None
    for step in range(3):
        optimizer.apply(gradients(step), variables)
        current = values(variables)[0]
        expected = current if expected is None else 0.9 * expected + 0.1 * current
    optimizer.finalize_variable_values(variables)
    np.testing.assert_allclose(values(variables)[0], expected, rtol=1e-5)


def test_schedule_is_that_of_the_paper():
    schedule = WarmupPolynomialDecay(6e-5, steps=160_000, warmup_steps=1500)
    assert float(schedule(0)) == pytest.approx(6e-11)
    assert float(schedule(750)) == pytest.approx(6e-5 * (1 - 750 / 160_000) * 0.5, rel=1e-4)
    assert float(schedule(1500)) == pytest.approx(6e-5 * (1 - 1500 / 160_000), rel=1e-5)
    assert float(schedule(80_000)) == pytest.approx(3e-5, rel=1e-5)
    assert float(schedule(160_000)) == 0 == float(schedule(170_000))


def test_schedule_with_a_plateau_decays_only_after_it():
    schedule = WarmupPolynomialDecay(1.0, steps=100, warmup_steps=10, decay_start=60)
    assert [round(float(schedule(step)), 4) for step in (5, 10, 60, 80, 100)] == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_schedule_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupPolynomialDecay(1.0, steps=10, warmup_steps=11)
    with pytest.raises(ValueError, match="decay_start"):
        WarmupPolynomialDecay(1.0, steps=10, warmup_steps=0, decay_start=10)


def test_groups_of_a_model_part_head_and_norms_and_decay_biases(small_config):
    model = SegformerForSemanticSegmentation(small_config)
    groups = {group.name: group for group in parameter_groups(model.trainable_variables)}
    assert {name: (group.lr_multiplier, group.weight_decay) for name, group in groups.items()} == {
        "encoder": (1.0, 0.01),
        "encoder, norms": (1.0, 0.0),
        "head": (10.0, 0.01),
        "head, norms": (10.0, 0.0),
    }
    assert sum(len(group.paths) for group in groups.values()) == len(model.trainable_variables)
    ends = {name: {path.split("/", 1)[1] for path in group.paths} for name, group in groups.items()}
    assert any(path.endswith("query/bias") for path in ends["encoder"])
    assert any(path.endswith("sequence_reduction/kernel") for path in ends["encoder"])
    assert all("norm" in path for name in ("encoder, norms", "head, norms") for path in groups[name].paths)
    assert all("decode_head" in path for name in ("head", "head, norms") for path in groups[name].paths)
    table = format_groups(list(groups.values()), model.trainable_variables)
    assert "head               10x   0.01" in table


def test_survives_serialization():
    optimizer = create_optimizer(1e-3, 500, weight_decay=0.05, head_lr_multiplier=3.0, clip_norm=1.0, ema_momentum=0.99)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.head_lr_multiplier == 3.0
    assert copy.decoupled_weight_decay == 0.05
