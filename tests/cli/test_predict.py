"""`tf-segformer predict`: every kind of input, what is written, what is printed, what fails and how."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.reference import image_size
from tf_segformer.cli import outputs
from tf_segformer.cli.inputs import expand_inputs
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.imaging.visualize import mask_image
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation


def _names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_photograph_gives_a_mask_an_overlay_and_a_table(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.jpg")
    outcome = run("predict", photo, "-m", checkpoint(), "-o", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert _names(tmp_path / "out") == ["photo_mask.png", "photo_overlay.png"]
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    processor = SegformerImageProcessor.from_pretrained(checkpoint())
    (result,) = SegmentationPredictor(model, processor)(photo)
    mask = Image.open(tmp_path / "out" / "photo_mask.png")
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), result.class_map)
    assert image_size(tmp_path / "out" / "photo_overlay.png")[0] > 70
    for name, share in result.class_fractions.items():
        assert f"{100 * share:.1f} %" in next(line for line in outcome.out.splitlines() if name in line)


def test_a_processor_that_was_guessed_is_named_with_its_remedy(run, checkpoint, image, tmp_path):
    shutil.copytree(checkpoint(), tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    outcome = run("predict", image(tmp_path / "photo.png"), "-m", tmp_path / "model", "-o", tmp_path / "out")
    assert outcome.code == 0
    assert "has no preprocessor_config.json: images are resized to 512x512 and normalized with ImageNet" in outcome.err
    assert "put the file next to them" in outcome.err


def test_save_and_json_say_what_is_written_and_printed(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "json,logits", "--json")
    assert outcome.code == 0
    assert _names(tmp_path / "out") == ["photo.json", "photo_logits.npy"]
    printed = json.loads(outcome.out)
    written = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert {name: printed[name] for name in written} == written
    assert printed["files"] == [str(tmp_path / "out" / name) for name in _names(tmp_path / "out")]
    assert sum(printed["class_fractions"].values()) == pytest.approx(1, abs=1e-5)
    assert np.load(tmp_path / "out" / "photo_logits.npy").shape == (16, 16, 3)


def test_files_folders_patterns_and_a_list_on_stdin(run, checkpoint, image, tmp_path, monkeypatch):
    image(tmp_path / "folder" / "a.png")
    image(tmp_path / "folder" / "b.JPG")
    (tmp_path / "folder" / "notes.txt").write_text("not an image")
    image(tmp_path / "c1.png")
    image(tmp_path / "c2.png")
    listed = image(tmp_path / "listed" / "d.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{listed}\n\n"))
    inputs = [tmp_path / "folder", tmp_path / "c?.png", tmp_path / "c1.png", "-"]
    outcome = run("predict", *inputs, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask")
    assert outcome.code == 0
    assert _names(tmp_path / "out") == [f"{stem}_mask.png" for stem in ("a", "b", "c1", "c2", "d")]
    assert len(outcome.out.splitlines()) == 6
    assert outcome.out.splitlines()[-1] == f"wrote 5 files to {tmp_path / 'out'}"


def test_a_folder_gives_its_images_rasters_and_videos(tmp_path):
    names = ["a.png", "b.tif", "c.TIFF", "d.vrt", "e.j2k", "f.jp2", "g.mp4", "h.MKV"]
    for name in [*names, "notes.txt", "d.vrt.ovr", "classes.tif.aux.xml"]:
        (tmp_path / name).touch()
    (tmp_path / "below.png").mkdir()
    files, problems = expand_inputs([str(tmp_path)])
    assert ([path.name for path in files], problems) == (names, [])


def test_images_of_equal_names_do_not_overwrite_each_other(run, checkpoint, image, tmp_path):
    photos = [image(tmp_path / f"{index}" / "x.png", size=(40 + index, 30)) for index in range(3)]
    run("predict", *photos, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask")
    assert _names(tmp_path / "out") == ["x_2_mask.png", "x_3_mask.png", "x_mask.png"]
    assert image_size(tmp_path / "out" / "x_3_mask.png")[0] == 42


def test_an_image_is_never_overwritten_by_an_output(run, checkpoint, image, tmp_path):
    photos = [image(tmp_path / "x.png"), image(tmp_path / "x_mask.png", seed=1)]
    before = photos[1].read_bytes()
    assert run("predict", *photos, "-m", checkpoint(), "-o", tmp_path, "--save", "mask").code == 0
    assert photos[1].read_bytes() == before
    assert "x_2_mask.png" in _names(tmp_path)


def test_modes_reach_the_predictor(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png", size=(130, 90))
    options = ("--mode", "slide", "--window", "48,64", "--stride", "32", "--batch-size", "2", "--save", "mask")
    assert run("predict", photo, "-m", checkpoint(), "-o", tmp_path / "out", *options).code == 0
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    processor = SegformerImageProcessor.from_pretrained(checkpoint())
    (result,) = SegmentationPredictor(model, processor, "slide", window=(48, 64), stride=32, batch_size=2)(photo)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "photo_mask.png")), result.class_map)


def test_bfloat16_is_how_the_model_computes(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png")
    logits = []
    for folder, *options in (("exact",), ("rounded", "--precision", "bfloat16")):
        outcome = run("predict", photo, "-m", checkpoint(), "-o", tmp_path / folder, "--save", "logits", *options)
        assert outcome.code == 0, outcome.err
        (written,) = (tmp_path / folder).iterdir()
        logits.append(np.load(written))
    error = np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max()
    assert 1e-4 < error < 0.1  # bfloat16 has eight bits


def test_unreadable_images_are_reported_and_the_others_finish(run, checkpoint, image, tmp_path):
    good = image(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    photos = [tmp_path / "empty.png", good, tmp_path / "text.jpg", tmp_path / "missing.png"]
    outcome = run("predict", *photos, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask")
    assert outcome.code == 1
    assert _names(tmp_path / "out") == ["good_mask.png"]
    lines = outcome.err.splitlines()
    assert len(lines) == 3
    for name, line in zip(("empty.png", "text.jpg", "missing.png"), lines, strict=True):
        assert line.startswith("tf-segformer: ")
        assert name in line


@pytest.mark.parametrize("photo", ["missing.png", "empty_folder", "no*.png"])
def test_nothing_usable_is_exit_code_2_in_one_line(run, checkpoint, tmp_path, photo):
    (tmp_path / "empty_folder").mkdir()
    outcome = run("predict", tmp_path / photo, "-m", checkpoint(), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert photo in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unknown_model_is_exit_code_2_in_one_line(run, image, tmp_path):
    outcome = run("predict", image(tmp_path / "photo.png"), "-m", "no-such-model")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "no-such-model" in outcome.err


def test_damaged_checkpoint_is_exit_code_2_in_one_line(run, checkpoint, image, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint() / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes((checkpoint() / "model.safetensors").read_bytes()[:1000])
    outcome = run("predict", image(tmp_path / "photo.png"), "-m", folder)
    assert outcome.code == 2
    assert "model.safetensors" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--save", "masks"), "choose from overlay, mask, json, logits"),
        (("--mode", "slide", "--window", "32", "--stride", "40"), "left out"),
        (("--window", "32"), "belongs to mode='slide'"),
        (("--mode", "multiscale", "--scales", "1,a"), "numbers parted by commas"),
        (("--mode", "slide", "--save", "logits"), "return_logits"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_usage_errors(run, checkpoint, image, tmp_path, options, message):
    outcome = run("predict", image(tmp_path / "photo.png"), "-m", checkpoint(), "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_output_that_is_a_file_is_rejected(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, "-m", checkpoint(), "-o", photo)
    assert outcome.code == 2
    assert "photo.png" in outcome.err


def test_classification_checkpoint_prints_its_best_classes(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, tmp_path / "missing.png", "-m", checkpoint("classification"), "--json")
    assert outcome.code == 1
    probabilities = json.loads(outcome.out)["probabilities"]
    assert sorted(probabilities) == ["house", "meadow", "sky"]
    assert sum(probabilities.values()) == pytest.approx(1)
    assert "missing.png" in outcome.err


def test_encoder_is_rejected(run, checkpoint, image, tmp_path):
    outcome = run("predict", image(tmp_path / "photo.png"), "-m", checkpoint("encoder"))
    assert outcome.code == 2
    assert "decode head" in outcome.err


def test_checkpoint_without_processor_takes_the_usual_one_and_says_so(run, checkpoint, image, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint() / name).read_bytes())
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, "-m", folder, "-o", tmp_path / "out", "--save", "mask")
    assert outcome.code == 0
    assert "preprocessor_config.json" in outcome.err


def test_overlay_of_a_huge_image_is_reduced(run, checkpoint, image, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_MOST_OVERLAY_PIXELS", 601 * 800 / 4)
    photo = image(tmp_path / "photo.png", size=(601, 800))
    run("predict", photo, "-m", checkpoint(), "-o", tmp_path)
    assert image_size(tmp_path / "photo_mask.png") == (601, 800)
    assert image_size(tmp_path / "photo_overlay.png")[1] == 400


def test_more_than_256_classes_need_16_bits():
    class_map = np.array([[0, 299]], np.int32)
    image = mask_image(class_map, [f"class {index}" for index in range(300)])
    np.testing.assert_array_equal(np.asarray(image), class_map)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(encoded)), class_map)


def test_help_needs_no_framework():
    """Importing TensorFlow takes seconds: `--help` of no command must."""
    code = (
        "import sys; from importlib import import_module; from tf_segformer.cli import COMMANDS\n"
        "for place, _ in COMMANDS.values():\n"
        "    import_module(place.partition(':')[0])\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules), place"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=900).returncode == 0


def test_installed_program_prints_nothing_of_tensorflow(checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.png")
    arguments = ["predict", photo, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask"]
    completed = subprocess.run(
        [sys.executable, "-m", "tf_segformer", *map(str, arguments)], capture_output=True, text=True, timeout=900
    )
    assert completed.returncode == 0
    assert completed.stderr == ""


def test_colors_of_the_checkpoint_are_those_of_overlay_and_mask(run, checkpoint, image, tmp_path):
    colors = [[250, 0, 0], [0, 250, 0], [0, 0, 250]]
    folder = tmp_path / "model"
    shutil.copytree(checkpoint(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "palette": colors}))
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, "-m", folder, "-o", tmp_path / "out", "--alpha", "1")
    assert outcome.code == 0, outcome.err
    mask = Image.open(tmp_path / "out" / "photo_mask.png")
    assert mask.getpalette()[:9] == [value for color in colors for value in color]
    classes = np.asarray(mask)
    overlay = np.asarray(Image.open(tmp_path / "out" / "photo_overlay.png").convert("RGB"))
    factor = overlay.shape[0] // classes.shape[0]
    np.testing.assert_array_equal(overlay[0, 0 : 5 * factor : factor], np.array(colors)[classes[0, :5]])
