"""The mistakes that newcomers make, and what they read then: the thing that is wrong and the remedy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tf_segformer import (
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
    cli,
    losses,
    metrics,
)
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.errors import CheckpointError, DatasetError, ImageError
from tf_segformer.requirements import check_keras


@pytest.fixture
def model(small_config):
    return SegformerForSemanticSegmentation(small_config)


@pytest.fixture
def processor():
    return SegformerImageProcessor(size=64)


def write_pair(root, labels):
    """A dataset of kind "folder" with one image."""
    for kind, pixels in (("images", np.zeros((32, 32, 3), np.uint8)), ("labels", labels)):
        (root / "train" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "train" / kind / "0.png")
    return root


class TestImages:
    def test_channels_first(self, model):
        with pytest.raises(ValueError, match=r"channels first: transpose them to \(0, 2, 3, 1\)"):
            model(np.zeros((1, 3, 64, 96), np.float32))

    def test_an_image_without_batch(self, model):
        with pytest.raises(ValueError, match=r"pixel_values\[None\]"):
            model(np.zeros((64, 96, 3), np.float32))

    @pytest.mark.parametrize("call", ["__call__", "predict"])
    def test_pixels_that_nobody_normalized(self, model, call):
        with pytest.raises(ValueError, match="uint8: the model takes normalized floats"):
            getattr(model, call)(np.zeros((1, 64, 96, 3), np.uint8))

    def test_pixels_that_were_rescaled_already(self, processor):
        with pytest.warns(UserWarning, match="do_rescale=False"):
            processor(np.full((64, 64, 3), 0.5))

    def test_a_pillow_image_instead_of_pixel_values(self, model):
        with pytest.raises(ValueError, match="SegformerImageProcessor makes them"):
            model(Image.new("RGB", (64, 64)))

    def test_a_path_for_the_processor(self, processor):
        with pytest.raises(ValueError, match="open_image"):
            processor("photo.jpg")

    def test_a_path_that_does_not_exist(self, model, processor):
        with pytest.raises(ImageError, match=r"photo\.jpg: there is no such file"):
            list(SegmentationPredictor(model, processor)("photo.jpg"))

    def test_model_and_processor_swapped(self, model, processor):
        with pytest.raises(TypeError, match="processor must be a SegformerImageProcessor"):
            SegmentationPredictor(processor, model)


class TestLabels:
    def test_labels_that_count_from_one(self, tmp_path):
        root = write_pair(tmp_path, np.repeat(np.arange(1, 5, dtype=np.uint8), 256).reshape(32, 32))
        with pytest.raises(DatasetError, match=r"class 4 is beyond(?s:.*)do these labels count from 1\?"):
            check_dataset(find_dataset("folder", root, "train", "abcd"))

    def test_label_files_with_colors(self, tmp_path):
        root = write_pair(tmp_path, np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(DatasetError, match=r"mode RGB\. Save the class indices as an 8-bit or palette PNG"):
            check_dataset(find_dataset("folder", root, "train", "abcd"))

    def test_colors_for_the_processor(self, processor):
        pixels = np.zeros((64, 96, 3), np.uint8)
        with pytest.raises(ValueError, match="Turn RGB colors into class indices"):
            processor(pixels, pixels)

    @pytest.mark.parametrize("measure", [losses.SegmentationLoss(), metrics.MeanIoU(5)])
    def test_one_hot_labels(self, measure):
        with pytest.raises(ValueError, match="one-hot labels take the argmax"):
            measure(np.zeros((1, 64, 64, 5)), np.zeros((1, 16, 16, 5), np.float32))

    def test_more_classes_in_the_labels_than_in_the_model(self):
        with pytest.raises(DatasetError, match=r"neither a class \(0 to 4\) nor ignore_index=255"):
            losses.SegmentationLoss()(np.full((1, 64, 64), 7), np.zeros((1, 16, 16, 5), np.float32))

    def test_a_folder_of_another_layout(self, tmp_path):
        with pytest.raises(DatasetError, match=r"\{train,val\}/images/"):
            find_dataset("folder", tmp_path, "train", ["road"])


class TestModels:
    def test_a_folder_without_weights(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"looked for model\.safetensors"):
            SegformerForSemanticSegmentation.from_pretrained(tmp_path)

    def test_a_name_that_nothing_has(self):
        with pytest.raises(CheckpointError, match="no such file or folder, no embedded model"):
            SegformerForSemanticSegmentation.from_pretrained("segformer-b0")

    def test_another_number_of_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="Pass ignore_mismatched_sizes=True"):
            SegformerForSemanticSegmentation.from_pretrained(tmp_path, num_labels=7)

    def test_an_argument_that_does_not_exist(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(TypeError, match="num_classes"):
            SegformerForSemanticSegmentation.from_pretrained(tmp_path, num_classes=5)

    def test_the_name_of_a_variant_for_a_configuration(self):
        with pytest.raises(TypeError, match=r"SegformerConfig\.from_variant\('b0'\)"):
            SegformerForSemanticSegmentation("b0")

    def test_outputs_without_logits(self, processor):
        with pytest.raises(ValueError, match="no logits: is it a segmentation model"):
            processor.post_process_semantic_segmentation({"last_hidden_state": np.zeros((1, 2, 2, 8))})

    def test_no_network(self, tmp_path):
        environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
        finished = run("from tf_segformer.cli import main; main()", "info", "nvidia/mit-b0", env=environment)
        assert finished.returncode == 2
        assert finished.stderr.startswith("tf-segformer: nvidia/mit-b0: the Hub is out of reach")
        assert "Traceback" not in finished.stderr


class TestInstallation:
    @pytest.mark.parametrize("version", ["2.15.0", "3.4.1"])
    def test_a_keras_that_is_too_old(self, version):
        with pytest.raises(ImportError, match=f"needs Keras 3.12 or newer, but finds {version}: pip install"):
            check_keras(version)

    def test_keras_2_behind_tf_keras_is_a_warning_where_keras_is_needed(self):
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
        code = "import tf_segformer; print('imported', flush=True); tf_segformer.SegformerModel"
        finished = run(code, env=environment)
        assert finished.returncode == 0
        assert finished.stderr.count("TF_USE_LEGACY_KERAS is set: tf.keras is Keras 2 then") == 1
        assert "TF_USE_LEGACY_KERAS" not in run("import tf_segformer", env=environment).stderr

    @pytest.mark.parametrize("error", ["ResourceExhaustedError", "MemoryError", "XlaRuntimeError"])
    def test_out_of_memory_is_one_line_with_remedies(self, error, monkeypatch, capsys):
        def fail(**_):
            raise type(error, (Exception,), {})("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 GB")

        monkeypatch.setattr(cli, "cli", fail)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 2
        assert capsys.readouterr().err == f"tf-segformer: {cli.OUT_OF_MEMORY}\n"

    def test_an_error_of_ours_keeps_its_traceback(self, monkeypatch):
        def fail(**_):
            raise RuntimeError("a bug")

        monkeypatch.setattr(cli, "cli", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            cli.main()


def run(code: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)
