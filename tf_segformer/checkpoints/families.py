"""The names that each format of SegFormer checkpoints gives to the same tensors, one table per family.

A row maps the template of a module's name in the file to the module of the Keras model, or to several where the file
stacks their rows in one tensor. In templates {i} is the stage from 0, {i+1} the stage from 1, {3-i} the stage from the
end, {j} the block of the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family of names.

    Args:
        title: What messages call it.
        modules: Module templates of the file -> modules of the Keras model.
        prefixes: What may stand before every name; the first is written before the encoder's in a model with a head.
        prefixed_under: The heads whose models are written with that prefix.
        layout: "torch" for (out, in) matrices and (out, in, h, w) kernels, "keras" for (in, out) and (h, w, in, out).
        rewrites: (pattern, replacement) pairs that bring a name into the form "module.leaf" first.
        unused: Patterns of names that are in such files and in no model.
        fields: What such files say of the configuration beyond their shapes: epsilons, activation.
    """

    title: str
    modules: Mapping[str, str | tuple[str, ...]]
    prefixes: tuple[str, ...] = ("",)
    prefixed_under: tuple[str, ...] = ("decode_head/",)
    layout: str = "torch"
    rewrites: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = (r".*\.num_batches_tracked",)
    fields: Mapping[str, Any] = field(default_factory=dict)


_BLOCK = "block_{i}_{j}"

_MMSEG_HEAD = {
    "decode_head.convs.{i}.conv": "decode_head/convolution_{i}",
    "decode_head.convs.{i}.bn": "decode_head/batch_norm_{i}",
    "decode_head.fusion_conv.conv": "decode_head/fusion",
    "decode_head.fusion_conv.bn": "decode_head/fusion_norm",
    "decode_head.conv_seg": "decode_head/classifier",
}

_HUGGING_FACE_HEAD = {
    "decode_head.linear_c.{i}.proj": "decode_head/linear_c_{i}",
    "decode_head.linear_fuse": "decode_head/linear_fuse",
    "decode_head.batch_norm": "decode_head/batch_norm",
    "decode_head.classifier": "decode_head/classifier",
    "classifier": "classifier",
}

_HUGGING_FACE_ENCODER = {
    "encoder.patch_embeddings.{i}.proj": "patch_embedding_{i}/projection",
    "encoder.patch_embeddings.{i}.layer_norm": "patch_embedding_{i}/layer_norm",
    "encoder.block.{i}.{j}.layer_norm_1": f"{_BLOCK}/layer_norm_1",
    "encoder.block.{i}.{j}.attention.self.query": f"{_BLOCK}/attention/query",
    "encoder.block.{i}.{j}.attention.self.key": f"{_BLOCK}/attention/key",
    "encoder.block.{i}.{j}.attention.self.value": f"{_BLOCK}/attention/value",
    "encoder.block.{i}.{j}.attention.self.sr": f"{_BLOCK}/attention/sequence_reduction",
    "encoder.block.{i}.{j}.attention.self.layer_norm": f"{_BLOCK}/attention/layer_norm",
    "encoder.block.{i}.{j}.attention.output.dense": f"{_BLOCK}/attention/output_dense",
    "encoder.block.{i}.{j}.layer_norm_2": f"{_BLOCK}/layer_norm_2",
    "encoder.block.{i}.{j}.mlp.dense1": f"{_BLOCK}/mlp/dense_1",
    "encoder.block.{i}.{j}.mlp.dwconv.dwconv": f"{_BLOCK}/mlp/depthwise_convolution",
    "encoder.block.{i}.{j}.mlp.dense2": f"{_BLOCK}/mlp/dense_2",
    "encoder.layer_norm.{i}": "stage_norm_{i}",
}

# transformers v5 with save_original_format=False.
_HUGGING_FACE_V5_ENCODER = {
    "stages.{i}.patch_embeddings.proj": "patch_embedding_{i}/projection",
    "stages.{i}.patch_embeddings.layer_norm": "patch_embedding_{i}/layer_norm",
    "stages.{i}.blocks.{j}.layernorm_before": f"{_BLOCK}/layer_norm_1",
    "stages.{i}.blocks.{j}.attention.q_proj": f"{_BLOCK}/attention/query",
    "stages.{i}.blocks.{j}.attention.k_proj": f"{_BLOCK}/attention/key",
    "stages.{i}.blocks.{j}.attention.v_proj": f"{_BLOCK}/attention/value",
    "stages.{i}.blocks.{j}.attention.sequence_reduction.sequence_reduction": f"{_BLOCK}/attention/sequence_reduction",
    "stages.{i}.blocks.{j}.attention.sequence_reduction.layer_norm": f"{_BLOCK}/attention/layer_norm",
    "stages.{i}.blocks.{j}.attention.o_proj": f"{_BLOCK}/attention/output_dense",
    "stages.{i}.blocks.{j}.layernorm_after": f"{_BLOCK}/layer_norm_2",
    "stages.{i}.blocks.{j}.mlp.fc1": f"{_BLOCK}/mlp/dense_1",
    "stages.{i}.blocks.{j}.mlp.dwconv.dwconv": f"{_BLOCK}/mlp/depthwise_convolution",
    "stages.{i}.blocks.{j}.mlp.fc2": f"{_BLOCK}/mlp/dense_2",
    "stages.{i}.layer_norm": "stage_norm_{i}",
}

_NVLABS_ENCODER: dict[str, str | tuple[str, ...]] = {
    "patch_embed{i+1}.proj": "patch_embedding_{i}/projection",
    "patch_embed{i+1}.norm": "patch_embedding_{i}/layer_norm",
    "block{i+1}.{j}.norm1": f"{_BLOCK}/layer_norm_1",
    "block{i+1}.{j}.attn.q": f"{_BLOCK}/attention/query",
    "block{i+1}.{j}.attn.kv": (f"{_BLOCK}/attention/key", f"{_BLOCK}/attention/value"),
    "block{i+1}.{j}.attn.sr": f"{_BLOCK}/attention/sequence_reduction",
    "block{i+1}.{j}.attn.norm": f"{_BLOCK}/attention/layer_norm",
    "block{i+1}.{j}.attn.proj": f"{_BLOCK}/attention/output_dense",
    "block{i+1}.{j}.norm2": f"{_BLOCK}/layer_norm_2",
    "block{i+1}.{j}.mlp.fc1": f"{_BLOCK}/mlp/dense_1",
    "block{i+1}.{j}.mlp.dwconv.dwconv": f"{_BLOCK}/mlp/depthwise_convolution",
    "block{i+1}.{j}.mlp.fc2": f"{_BLOCK}/mlp/dense_2",
    "norm{i+1}": "stage_norm_{i}",
}

_NVLABS_HEAD = {
    "decode_head.linear_c{i+1}.proj": "decode_head/linear_c_{i}",
    "decode_head.linear_fuse.conv": "decode_head/linear_fuse",
    "decode_head.linear_fuse.bn": "decode_head/batch_norm",
    "decode_head.linear_pred": "decode_head/classifier",
    "head": "classifier",
    # NVIDIA TAO: the head is called decoder, and in version 6 its fusion is a sequence of layers.
    "decode_head.linear_fuse.0": "decode_head/linear_fuse",
    "decode_head.linear_fuse.1": "decode_head/batch_norm",
    "decoder.linear_c{i+1}.proj": "decode_head/linear_c_{i}",
    "decoder.linear_fuse.conv": "decode_head/linear_fuse",
    "decoder.linear_fuse.bn": "decode_head/batch_norm",
    "decoder.linear_fuse.0": "decode_head/linear_fuse",
    "decoder.linear_fuse.1": "decode_head/batch_norm",
    "decoder.linear_pred": "decode_head/classifier",
}

_MMSEG_ENCODER: dict[str, str | tuple[str, ...]] = {
    "layers.{i}.0.projection": "patch_embedding_{i}/projection",
    "layers.{i}.0.norm": "patch_embedding_{i}/layer_norm",
    "layers.{i}.1.{j}.norm1": f"{_BLOCK}/layer_norm_1",
    "layers.{i}.1.{j}.attn.attn.in_proj": (
        f"{_BLOCK}/attention/query",
        f"{_BLOCK}/attention/key",
        f"{_BLOCK}/attention/value",
    ),
    "layers.{i}.1.{j}.attn.sr": f"{_BLOCK}/attention/sequence_reduction",
    "layers.{i}.1.{j}.attn.norm": f"{_BLOCK}/attention/layer_norm",
    "layers.{i}.1.{j}.attn.attn.out_proj": f"{_BLOCK}/attention/output_dense",
    "layers.{i}.1.{j}.norm2": f"{_BLOCK}/layer_norm_2",
    "layers.{i}.1.{j}.ffn.layers.0": f"{_BLOCK}/mlp/dense_1",
    "layers.{i}.1.{j}.ffn.layers.1": f"{_BLOCK}/mlp/depthwise_convolution",
    "layers.{i}.1.{j}.ffn.layers.4": f"{_BLOCK}/mlp/dense_2",
    "layers.{i}.2": "stage_norm_{i}",
}

# segmentation_models_pytorch; its first projection is that of the last stage.
_SMP_HEAD = {
    "decoder.mlp_stage.{3-i}.linear": "decode_head/linear_c_{i}",
    "decoder.fuse_stage.0": "decode_head/linear_fuse",
    "decoder.fuse_stage.1": "decode_head/batch_norm",
    "segmentation_head.0": "decode_head/classifier",
}

# keras-hub; its blocks, numbered through all stages in the file, are numbered a stage each by the reader.
_KERAS_HUB = {
    "overlapping_patching_and_embedding_{i}.proj": "patch_embedding_{i}/projection",
    "overlapping_patching_and_embedding_{i}.norm": "patch_embedding_{i}/layer_norm",
    "block_{i}_{j}.norm1": f"{_BLOCK}/layer_norm_1",
    "block_{i}_{j}.attn.q": f"{_BLOCK}/attention/query",
    "block_{i}_{j}.attn.k": f"{_BLOCK}/attention/key",
    "block_{i}_{j}.attn.v": f"{_BLOCK}/attention/value",
    "block_{i}_{j}.attn.sr": f"{_BLOCK}/attention/sequence_reduction",
    "block_{i}_{j}.attn.norm": f"{_BLOCK}/attention/layer_norm",
    "block_{i}_{j}.attn.proj": f"{_BLOCK}/attention/output_dense",
    "block_{i}_{j}.norm2": f"{_BLOCK}/layer_norm_2",
    "block_{i}_{j}.mlp.fc1": f"{_BLOCK}/mlp/dense_1",
    "block_{i}_{j}.mlp.dwconv": f"{_BLOCK}/mlp/depthwise_convolution",
    "block_{i}_{j}.mlp.fc2": f"{_BLOCK}/mlp/dense_2",
    "layer_normalization_{i}": "stage_norm_{i}",
    "dense_{3-i}": "decode_head/linear_c_{i}",
    "sequential.conv2d": "decode_head/linear_fuse",
    "sequential.batch_normalization": "decode_head/batch_norm",
    "conv2d": "decode_head/classifier",
}

# This project's own files, by the classes and attributes of its layers; blocks are numbered a stage each, as above.
_KERAS = {
    "overlap_patch_embedding_{i}.projection": "patch_embedding_{i}/projection",
    "overlap_patch_embedding_{i}.layer_norm": "patch_embedding_{i}/layer_norm",
    **{module.replace("/", "."): module for module in _HUGGING_FACE_ENCODER.values() if module.startswith("block_")},
    "layer_normalization_{i}": "stage_norm_{i}",
    "decode_head.linear_c.linear_weights_{i}": "decode_head/linear_c_{i}",
    "decode_head.linear_fuse": "decode_head/linear_fuse",
    "decode_head.batch_norm": "decode_head/batch_norm",
    "decode_head.convolutions.dense_{i}": "decode_head/convolution_{i}",
    "decode_head.batch_norms.batch_normalization_{i}": "decode_head/batch_norm_{i}",
    "decode_head.fusion": "decode_head/fusion",
    "decode_head.fusion_norm": "decode_head/fusion_norm",
    "decode_head.classifier": "decode_head/classifier",
    "dense": "classifier",
}
_FIRST_OF_KERAS = (
    r"((?:segformer_model\.)?(?:overlap_patch_embedding|layer_normalization)"
    r"|.*\.(?:linear_weights|dense|batch_normalization))(\..*)"
)

_HUGGING_FACE_EPSILONS = {"embedding_norm_eps": 1e-5, "block_norm_eps": 1e-5}
_NVLABS_EPSILONS = {"embedding_norm_eps": 1e-5, "block_norm_eps": 1e-6}

# What training keeps next to a network: weights of losses, counters of metrics, heads for a second loss.
LEFT_OUT = (
    r"(?:.*\.)?(?:criterion|criterions|loss|losses|loss_fn|loss_function|loss_func)(?:\..*|_.*)?",
    r"(?:.*\.)?\w*(?:metrics?|accuracy|iou|miou|jaccard|confmat|confusion_matrix)\..*",
    r"(?:.*\.)?auxiliary_head\..*",
)

# In the order in which names are tried; where two families know equally many names, the first is meant.
FAMILIES: Mapping[str, Family] = {
    "huggingface": Family(
        "Hugging Face (PyTorch)",
        {**_HUGGING_FACE_ENCODER, **_HUGGING_FACE_HEAD, **_MMSEG_HEAD},
        prefixes=("segformer.", ""),
        prefixed_under=("decode_head/", "classifier/"),
        fields=_HUGGING_FACE_EPSILONS,
    ),
    "huggingface-v5": Family(
        "Hugging Face (v5 names)",
        {
            **_HUGGING_FACE_V5_ENCODER,
            **_HUGGING_FACE_HEAD,
            "decode_head.linear_projections.{i}.proj": "decode_head/linear_c_{i}",
        },
        prefixes=("segformer.", ""),
        fields=_HUGGING_FACE_EPSILONS,
    ),
    "huggingface-tf": Family(
        "Hugging Face (TensorFlow)",
        {**_HUGGING_FACE_ENCODER, **_HUGGING_FACE_HEAD},
        layout="keras",
        # The layers around a weight come first, once or twice: "segformer.tf_segformer_model.segformer.encoder...".
        rewrites=(
            (r"(?:.*?\.)??(encoder\.(?:block|layer_norm|patch_embeddings)\..*)", r"\1"),
            (r"(?:.*?\.)??(decode_head\.(?:linear_|batch_norm|classifier).*)", r"\1"),
            (r"classifier\.(?:.*\.)?classifier\.(kernel|bias)", r"classifier.\1"),
        ),
        fields=_HUGGING_FACE_EPSILONS,
    ),
    "nvlabs": Family(
        "NVlabs",
        {**_NVLABS_ENCODER, **_NVLABS_HEAD},
        prefixes=("backbone.", ""),
        unused=(r".*\.num_batches_tracked", r"(?:decode_head|decoder)\.conv_seg\..*"),
        fields=_NVLABS_EPSILONS,
    ),
    "mmseg": Family(
        "mmsegmentation 1.x",
        {**_MMSEG_ENCODER, **_MMSEG_HEAD},
        prefixes=("backbone.", ""),
        rewrites=((r"(.*\.in_proj)_(weight|bias)", r"\1.\2"),),
        fields={"embedding_norm_eps": 1e-6, "block_norm_eps": 1e-6},
    ),
    "smp": Family(
        "segmentation_models_pytorch",
        {**{f"encoder.{name}": module for name, module in _NVLABS_ENCODER.items()}, **_SMP_HEAD},
        fields=_NVLABS_EPSILONS,
    ),
    "keras": Family(
        "Keras (tf_segformer)",
        # A SavedModel has the names of the variables themselves, an h5 file of `model.save` those under a layer's.
        {**_KERAS, **{module.replace("/", "."): module for module in _KERAS.values()}},
        prefixes=("segformer_model.", "segformer.", ""),
        prefixed_under=("decode_head/", "classifier/"),
        layout="keras",
        rewrites=(
            (r"(\w+)\.(\1\..*)", r"\2"),
            (r"(?:segformer|mmseg)_(decode_head\..*)", r"\1"),
            (_FIRST_OF_KERAS, r"\1_0\2"),
        ),
    ),
    "keras-hub": Family(
        "keras-hub",
        _KERAS_HUB,
        layout="keras",
        rewrites=(
            (r"(?:mi_t_backbone\.|seg_former_backbone\.)?(?:functional\.)?(.*)", r"\1"),
            (r"(overlapping_patching_and_embedding|layer_normalization|dense)(\..*)", r"\1_0\2"),
        ),
        fields={**_NVLABS_EPSILONS, "stage_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh"},
    ),
}
