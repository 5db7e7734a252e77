"""Every layer is rebuilt from its description with all of its arguments."""

from __future__ import annotations

import inspect

import keras
import pytest

from tf_segformer.modeling.attention import EfficientSelfAttention
from tf_segformer.modeling.decode_head import LinearWeights, MmsegDecodeHead, SegformerDecodeHead
from tf_segformer.modeling.layers import DropPath, MixFeedForward, OverlapPatchEmbedding, TransformerBlock

# Values of the arguments that are no fractions.
VALUES = {
    "activation": "relu", "hidden_size": 12, "mlp_ratio": 2, "num_heads": 3, "num_labels": 5, "patch_size": 3,
    "rate": 0.3, "rematerialize": False, "sequence_reduction": 2, "stride": 2, "units": 7, "use_bias": False,
}  # fmt: skip
LAYERS = (
    DropPath, EfficientSelfAttention, LinearWeights, MixFeedForward, MmsegDecodeHead, OverlapPatchEmbedding,
    SegformerDecodeHead, TransformerBlock,
)  # fmt: skip


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_layer_is_rebuilt_with_all_of_its_arguments(layer_class):
    names = [name for name in inspect.signature(layer_class.__init__).parameters if name not in ("self", "kwargs")]
    arguments = {name: VALUES.get(name, 0.1 + 0.05 * place) for place, name in enumerate(names)}
    layer = layer_class(**arguments)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    for described in (layer.get_config(), again.get_config()):
        assert {name: described[name] for name in names} == arguments
