"""Repositories as they lie on the Hub and on disks, by the packages that write them: all give those packages' outputs.

`make_layouts.py` wrote them; each is a small random network with the package's own output for an image.
"""

from __future__ import annotations

import io
import tarfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.layout_packing import DEPTHS, FOLDER, HEADS, WIDTHS
from tf_segformer import SegformerForImageClassification, SegformerForSemanticSegmentation, SegformerModel
from tf_segformer.checkpoints.loading import load_pretrained

CLASSES = "its 5 classes are named LABEL_0"


@dataclass(frozen=True)
class Layout:
    """What is loaded of a repository: the path in it, with which model, and what the warnings say."""

    path: str = ""
    model: type = SegformerForSemanticSegmentation
    heads: bool = False  # no file says them, so they are passed
    said: tuple[str, ...] = ()


def bare(path: str, *said: str, model: type = SegformerForSemanticSegmentation) -> Layout:
    """A file of weights alone: no configuration, so no names of classes either."""
    names = () if model is SegformerModel else (CLASSES,)
    return Layout(path, model, True, (*said, *names))


LAYOUTS = {
    "huggingface": Layout(),
    "huggingface_bin": Layout(),
    "huggingface_classifier": Layout(model=SegformerForImageClassification),
    "huggingface_compiled_and_distributed": bare("best.pt"),
    "huggingface_encoder": Layout(model=SegformerModel),
    "huggingface_sharded": Layout(),
    "huggingface_v5_names": Layout(),
    "keras_hub_archive": Layout("best.keras", said=(CLASSES,)),
    "keras_hub_preset": Layout(said=(CLASSES,)),
    "keras_hub_weights": bare("segformer.weights.h5"),
    "lightning_huggingface": bare("epoch=3.ckpt", "criterion.weight, val_metrics"),
    "lightning_smp_with_ema_and_omegaconf": bare("last.ckpt", r"criterion\.weight.*ema_net"),
    "mmseg_with_another_decoder": bare(
        "upernet.pth", r"auxiliary_head.*decode_head\.lateral_convs", model=SegformerModel
    ),
    "mmseg_with_auxiliary_head": Layout("iter_160000.pth", heads=True, said=("auxiliary_head",)),
    "nvlabs": bare("nvlabs.pth"),
    "nvlabs_imagenet": bare("mit_b0.pth", model=SegformerForImageClassification),
    "peft_lora": Layout("adapter"),
    "peft_lora_of_all_kinds": Layout("adapter"),
    "smp_fpn": Layout(model=SegformerModel, heads=True, said=(r"decoder\.p5",)),
    "smp_hub": bare(""),
    "smp_state_dict": bare("best_model.pth"),
    "smp_unet": bare("unet.pth", r"left out: decoder\.blocks", model=SegformerModel),
    "tao_5": bare("tao_5.pth"),
    "tao_5_decoder": bare("tao_5_decoder.pth"),
    "tao_6": bare("tao_6.pth", r"criterion\.weight"),
    "tao_6_omegaconf": bare("tao_6_omegaconf.pth"),
    "tf_checkpoint": bare(""),
    "tf_checkpoint_with_slots": bare("epoch_7"),
    "tf_save_pretrained": Layout(),
    "tf_save_weights_h5": bare("best.h5"),
    "tf_saved_model": bare(""),
    "tf_whole_model_h5": bare("model_fullmodel.h5"),
}


def unpack(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes the files of a layout into a folder; gives the image and the package's output."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(folder)
    with np.load(io.BytesIO((folder / "expected.npz").read_bytes())) as expected:
        return expected["image"], expected["output"]


MODELS: dict[str, object] = {}


def built(model_class, config):
    """A model of a configuration, built once for all layouts: `from_pretrained` fills it with weights."""
    key = f"{model_class.__name__} {config.replace(id2label={0: ''}, extra={}).to_dict()} {config.num_labels}"
    if key not in MODELS:
        MODELS[key] = model_class(config)
    return MODELS[key]


def test_every_layout_is_tested():
    assert {path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz")} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_repository_gives_the_outputs_of_the_package_that_wrote_it(name, tmp_path, monkeypatch):
    image, expected = unpack(name, tmp_path)
    monkeypatch.chdir(tmp_path / "files")  # where the base of an adapter is found as on the Hub
    layout = LAYOUTS[name]
    options = {"num_attention_heads": HEADS} if layout.heads else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_pretrained(partial(built, layout.model), tmp_path / "files" / layout.path, **options)
    outputs = np.asarray(model(image))
    assert outputs.shape == expected.shape
    assert np.abs(outputs - expected).max() < 2e-5 * max(np.abs(expected).max(), 1)
    assert (model.config.hidden_sizes, model.config.depths) == (WIDTHS, DEPTHS)
    messages = [str(each.message) for each in caught]
    assert len(messages) == len(layout.said), messages
    for message, said in zip(messages, layout.said, strict=True):
        with pytest.raises(UserWarning, match=said):
            raise UserWarning(message)
