"""from_pretrained and save_pretrained: exact, strict, and safe when they are interrupted."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints.test_hdf5 import randomize
from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from tf_segformer.checkpoints.architecture import TASK_CLASSES, infer_config, infer_task, variable_shapes
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.saving import model_tensors, write_pretrained
from tf_segformer.errors import CheckpointError

CLASSES = (SegformerModel, SegformerForImageClassification, SegformerForSemanticSegmentation)


@pytest.fixture
def saved(tmp_path, small_config):
    """A saved segmentation model and its folder."""
    model = SegformerForSemanticSegmentation(small_config)
    randomize(model)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def weights(model):
    return {name: tensor.read() for name, tensor in model_tensors(model).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("family", ["huggingface", "nvlabs"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, small_config, model_class, family):
    model = model_class(small_config.replace(block_norm_eps=3e-6))
    randomize(model)
    write_pretrained(tmp_path, model.config, model_tensors(model), family=family)
    loaded = model_class.from_pretrained(tmp_path)
    assert_same(weights(loaded), weights(model))
    assert (loaded.config.embedding_norm_eps, loaded.config.block_norm_eps) == (1e-5, 3e-6)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [model_class.__name__]


def test_the_head_of_mmsegmentation_is_written_and_read(tmp_path, small_config):
    model = SegformerForSemanticSegmentation(small_config.replace(decode_head_type="mmseg"))
    randomize(model)
    model.save_pretrained(tmp_path)
    assert_same(weights(SegformerForSemanticSegmentation.from_pretrained(tmp_path)), weights(model))


def test_the_schema_is_that_of_the_models(small_config):
    for config in (small_config, small_config.replace(decode_head_type="mmseg")):
        for model_class in CLASSES:
            model = model_class(config)
            shapes = {name: tensor.shape for name, tensor in model_tensors(model).items()}
            task = next(task for task, name in TASK_CLASSES.items() if name == model_class.__name__)
            assert variable_shapes(config, task) == shapes
            assert infer_task(shapes) == task


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4", "b5"])
@pytest.mark.parametrize("head", ["segformer", "mmseg"])
def test_every_variant_is_told_from_its_shapes(variant, head):
    from pathlib import Path

    from tf_segformer.checkpoints.mapping import MappedCheckpoint
    from tf_segformer.checkpoints.tensors import LazyTensor

    config = SegformerConfig.from_variant(variant, num_labels=19, num_channels=4, decode_head_type=head)
    shapes = variable_shapes(config, "segmentation")
    tensors = {name: LazyTensor.of(np.broadcast_to(np.float32(0), shape)) for name, shape in shapes.items()}
    assert infer_config(MappedCheckpoint(Path("x"), "huggingface", tensors, {}, ())) == config


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_of_numbers_are_cast_to_the_models(saved, dtype):
    import ml_dtypes

    model, folder = saved
    numpy_dtype = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    cast = {name: values.astype(numpy_dtype) for name, values in load_file(folder / "model.safetensors").items()}
    save_file(cast, folder / "model.safetensors")
    for name, values in weights(SegformerForSemanticSegmentation.from_pretrained(folder)).items():
        expected = weights(model)[name].astype(numpy_dtype).astype("float32")
        np.testing.assert_array_equal(values, expected)


def test_all_that_is_wrong_is_listed_and_nothing_is_loaded(saved):
    from tf_segformer.checkpoints.loading import load_weights_into
    from tf_segformer.checkpoints.mapping import map_names

    model, folder = saved
    tensors = load_file(folder / "model.safetensors")
    del tensors["decode_head.linear_fuse.weight"], tensors["segformer.encoder.layer_norm.2.bias"]
    tensors["segformer.encoder.patch_embeddings.0.proj.weight"] = np.zeros((8, 3, 5, 5), "float32")
    tensors["segformer.encoder.block.9.9.layer_norm_1.weight"] = np.zeros(8, "float32")
    tensors["something.else"] = np.zeros(8, "float32")
    save_file(tensors, folder / "model.safetensors")
    other = SegformerForSemanticSegmentation(model.config)
    before = weights(other)
    with pytest.raises(CheckpointError) as error:
        load_weights_into(other, map_names(read_checkpoint(folder / "model.safetensors")), ignore_mismatched_sizes=True)
    for part in (
        "missing: decode_head/linear_fuse/kernel (96, 24)",
        "missing: stage_norm_2/beta (24,)",
        "unexpected: segformer.encoder.block.9.9.layer_norm_1.weight",
        "unexpected: something.else",
        "misshapen: segformer.encoder.patch_embeddings.0.proj.weight gives patch_embedding_0/projection/kernel",
    ):
        assert part in str(error.value)
    assert "ignore_mismatched_sizes" not in str(error.value)  # it would not help
    assert_same(weights(other), before)


def test_another_number_of_classes_needs_to_be_asked_for(saved):
    model, folder = saved
    with pytest.raises(CheckpointError, match="ignore_mismatched_sizes=True"):
        SegformerForSemanticSegmentation.from_pretrained(folder, num_labels=3)
    with pytest.warns(UserWarning, match=r"decode_head/classifier/kernel, decode_head/classifier/bias") as caught:
        loaded = SegformerForSemanticSegmentation.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert caught[0].filename == __file__
    new, old = weights(loaded), weights(model)
    assert new["decode_head/classifier/kernel"].shape == (24, 3)
    same = {name for name in old if not name.startswith("decode_head/classifier")}
    assert_same({name: new[name] for name in same}, {name: old[name] for name in same})


def test_a_misshapen_encoder_is_never_ignored(saved):
    _, folder = saved
    with pytest.raises(CheckpointError, match="patch_embedding_0/projection/kernel"):
        SegformerForSemanticSegmentation.from_pretrained(folder, patch_sizes=(3, 3, 3, 3), ignore_mismatched_sizes=True)


@pytest.mark.parametrize("source", [SegformerModel, SegformerForImageClassification])
def test_a_segmenter_grows_on_an_encoder_with_a_new_head(tmp_path, small_config, source):
    encoder = source(small_config)
    encoder.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="has no decode_head.*newly initialized"):
        model = SegformerForSemanticSegmentation.from_pretrained(tmp_path, num_labels=4)
    old, new = weights(encoder), weights(model)
    names = [name for name in old if not name.startswith("classifier")]
    assert_same({name: new[name] for name in names}, {name: old[name] for name in names})


def test_an_encoder_taken_from_a_segmenter_says_nothing(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SegformerModel.from_pretrained(saved[1])


def test_fields_of_the_configuration_and_of_the_model_can_be_set(saved):
    model = SegformerForSemanticSegmentation.from_pretrained(
        saved[1], drop_path_rate=0.3, id2label=dict(enumerate("vwxyz")), output_hidden_states=True, name="mine"
    )
    assert (model.config.drop_path_rate, model.config.id2label[4], model.name) == (0.3, "z", "mine")
    assert set(model(np.zeros((1, 32, 32, 3)))) == {"logits", "hidden_states"}


@pytest.mark.parametrize("cut_before", range(4))
def test_a_save_that_is_cut_off_leaves_the_old_model_or_the_new_one(saved, small_config, monkeypatch, cut_before):
    """Cut before each rename: of config.json in the temporary folder, of that folder, of the two files."""
    old, folder = saved
    replace, calls = os.replace, []

    def interrupted(*arguments):
        if len(calls) == cut_before:
            raise KeyboardInterrupt
        calls.append(arguments)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", interrupted)
    new = SegformerForSemanticSegmentation(small_config.replace(block_norm_eps=1e-6))
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(folder)
    monkeypatch.undo()
    loaded = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert_same(weights(loaded), weights(old if cut_before < 2 else new))
    assert loaded.config.block_norm_eps == (1e-5 if cut_before < 2 else 1e-6)
    new.save_pretrained(folder)
    assert_same(weights(SegformerForSemanticSegmentation.from_pretrained(folder)), weights(new))
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_a_save_that_cannot_be_written_is_one_error(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file.*cannot be written"):
        saved[0].save_pretrained(tmp_path / "file" / "folder")


@pytest.mark.parity
@pytest.mark.parametrize("family", ["huggingface", "nvlabs"])
def test_the_way_over_transformers_and_back_keeps_every_bit(tmp_path, saved, family):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, _ = saved
    write_pretrained(tmp_path / "first", model.config, model_tensors(model), family=family)
    first = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "first")
    first.save_pretrained(tmp_path / "ours")
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    back = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "theirs")
    assert_same(weights(back), weights(model))
    image = np.random.default_rng(0).standard_normal((1, 45, 70, 3)).astype("float32")
    np.testing.assert_array_equal(back(image), model(image))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2))).logits.numpy().transpose(0, 2, 3, 1)
    assert np.abs(logits - np.asarray(back(image))).max() < 2e-5 * np.abs(logits).max()


@pytest.mark.parity
def test_names_of_transformers_5_are_read(tmp_path, saved):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(saved[1])
    theirs.save_pretrained(tmp_path / "v5", save_original_format=False)
    assert any(".stages." in name for name in load_file(tmp_path / "v5" / "model.safetensors"))
    assert_same(weights(SegformerForSemanticSegmentation.from_pretrained(tmp_path / "v5")), weights(saved[0]))


def test_files_are_on_the_disk_before_the_old_ones_are_replaced(small_config, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    SegformerModel(small_config).save_pretrained(tmp_path / "model")
    assert len(synced) >= 2  # the weights and config.json


def test_a_model_of_other_sizes_is_not_filled_unless_asked(saved):
    from tf_segformer.checkpoints.loading import load_weights_into
    from tf_segformer.checkpoints.mapping import map_names

    model, folder = saved
    other = SegformerForSemanticSegmentation(model.config.replace(num_labels=model.config.num_labels + 1))
    with pytest.raises(CheckpointError, match="misshapen"):
        load_weights_into(other, map_names(read_checkpoint(folder / "model.safetensors")))
