"""Loops and sequences that run one iteration after the other."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_segformer.ops.sequential import run_after


def ancestors(operation):
    """All operations that run before this one."""
    found, waiting = set(), [operation]
    while waiting:
        current = waiting.pop()
        for each in (*(source.op for source in current.inputs), *current.control_inputs):
            if each not in found:
                found.add(each)
                waiting.append(each)
    return found


def total_and_slope(x):
    """A sum of three sines that are taken in turn, and its gradient."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(x)
        for factor in (2.0, 3.0, 4.0):
            total, again = run_after(total, x)
            total += tf.reduce_sum(tf.sin(factor * again))
    return total, tape.gradient(total, x)


def test_run_after_changes_no_value_and_no_gradient():
    x = np.linspace(0.1, 1, 5, dtype="float32")
    total, slope = total_and_slope(tf.constant(x))
    np.testing.assert_allclose(total, sum(x) + sum(np.sin(factor * x).sum() for factor in (2, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(slope, 1 + sum(factor * np.cos(factor * x) for factor in (2, 3, 4)), rtol=1e-5)


def test_each_waits_for_the_one_before_and_gradients_for_the_one_after():
    graph = tf.function(total_and_slope).get_concrete_function(tf.TensorSpec([5])).graph
    sines, cosines = ([each for each in graph.get_operations() if each.type == kind] for kind in ("Sin", "Cos"))
    assert len(sines) == len(cosines) == 3
    for operations in (sines, cosines):  # cosines, of the gradient, are drawn last first
        first, second, third = map(ancestors, operations)
        assert operations[0] in second - first
        assert operations[1] in third - second
    # TensorFlow takes apart what merely stands together: six times something is told to wait
    assert sum(each.type == "Identity" and bool(each.control_inputs) for each in graph.get_operations()) == 6
