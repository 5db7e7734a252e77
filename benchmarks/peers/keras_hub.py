"""keras-hub's SegFormer with the weights of a case, copied from this project's model layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.harness.case import Case, Engine
from benchmarks.peers.ours import keras_training, load_model, set_tensorflow_threads

IMPORTS = ("tensorflow", "keras_hub")
# The layers of one keras-hub block, by this project's names.
_BLOCK = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention/query": "attn.q",
    "attention/key": "attn.k",
    "attention/value": "attn.v",
    "attention/output_dense": "attn.proj",
    "attention/sequence_reduction": "attn.sr",
    "attention/layer_norm": "attn.norm",
    "mlp/dense_1": "mlp.fc1",
    "mlp/depthwise_convolution": "mlp.dwconv",
    "mlp/dense_2": "mlp.fc2",
}


def _segmenter(case: Case) -> Any:
    """`keras_hub.models.SegFormerImageSegmenter` of the case's architecture, size and weights."""
    import keras
    import keras_hub

    from tf_segformer.checkpoints.mapping import model_variables

    ours = load_model(case)
    config = ours.config
    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=config.depths,
        num_layers=len(config.depths),
        layerwise_num_heads=config.num_attention_heads,
        layerwise_sr_ratios=config.sr_ratios,
        max_drop_path_rate=config.drop_path_rate,
        layerwise_patch_sizes=config.patch_sizes,
        layerwise_strides=config.strides,
        image_shape=(case.height, case.width, 3),
        hidden_dims=config.hidden_sizes,
    )
    backbone = keras_hub.models.SegFormerBackbone(encoder, config.decoder_hidden_size)
    segmenter = keras_hub.models.SegFormerImageSegmenter(backbone, config.num_labels)

    norms = [layer for layer in encoder.layers if isinstance(layer, keras.layers.LayerNormalization)]
    fuse, batch_norm, _ = backbone.linear_fuse.layers
    layers = {
        "decode_head/linear_fuse": fuse,
        "decode_head/batch_norm": batch_norm,
        "decode_head/classifier": segmenter.output_segmentation_head,
    }
    for stage, depth in enumerate(config.depths):
        patch_embedding = encoder.get_layer(f"patch_and_embed_{stage}")
        layers[f"patch_embedding_{stage}/projection"] = patch_embedding.proj
        layers[f"patch_embedding_{stage}/layer_norm"] = patch_embedding.norm
        layers[f"stage_norm_{stage}"] = norms[stage]
        layers[f"decode_head/linear_c_{stage}"] = backbone.mlp_blocks[stage]
        for index in range(depth):
            block = encoder.get_layer(f"hierarchical_encoder_{stage}_{index}")
            for name, path in _BLOCK.items():
                layers[f"block_{stage}_{index}/{name}"] = _attribute(block, path)

    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, variable in model_variables(ours).items():
        layer, _, name = path.rpartition("/")
        values[layer][name] = variable.numpy()
    for name, weights in values.items():
        for variable in layers[name].weights:
            variable.assign(weights.pop(variable.name).reshape(variable.shape))
        assert not weights, f"{name}: {list(weights)} have no place in keras-hub's layer"
    return segmenter


def _attribute(layer: Any, path: str) -> Any:
    """A layer inside another; None where there is none, as for `sr` with a ratio of 1."""
    for part in path.split("."):
        layer = getattr(layer, part, None)
    return layer


def inference(whole: bool) -> Callable[[Case], Engine]:
    """The segmenter as it is, which resizes the logits to the image, or up to the logits."""

    def load(case: Case) -> Engine:
        import keras
        import tensorflow as tf

        set_tensorflow_threads(case.threads)
        model = _segmenter(case)
        to_logits = keras.Model(model.input, model.output_segmentation_head.output)
        measured = model if whole else to_logits
        run = tf.function(lambda pixel_values: measured(pixel_values, training=False))
        pixel_values = case.pixel_values()
        return Engine(
            run=lambda: run(pixel_values).numpy(), output=lambda: to_logits(pixel_values, training=False).numpy()
        )

    return load


def training(case: Case) -> Engine:
    """Keras' own training step; keras-hub's model resizes its logits to the image by itself."""
    import keras

    model = _segmenter(case)
    to_logits = keras.Model(model.input, model.output_segmentation_head.output)
    model = keras.Model(model.input, model.output)  # the same layers without its `compile`, which adds a metric
    return keras_training(case, model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), to_logits)
