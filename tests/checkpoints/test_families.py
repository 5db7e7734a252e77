"""Every family of PyTorch names: a checkpoint of a known network gives that network's outputs."""

from __future__ import annotations

import argparse
import collections
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference networks are PyTorch's (extra 'parity')")

from tests.checkpoints import reference  # noqa: E402
from tf_segformer import (  # noqa: E402
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

# Files without a configuration and without names of classes, which a warning says.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*are named LABEL_0")]

DEPTHS = (1, 2, 1, 1)
WIDTH, LABELS = 24, 5

EPSILONS = {"nvlabs": (1e-5, 1e-6), "smp": (1e-5, 1e-6), "mmseg": (1e-6, 1e-6)}

NVLABS_HEAD = {
    **{f"stage{stage}": f"decode_head.linear_c{stage + 1}.proj" for stage in range(4)},
    "fuse": "decode_head.linear_fuse.conv",
    "norm": "decode_head.linear_fuse.bn",
    "classifier": "decode_head.linear_pred",
}
SMP_HEAD = {
    **{f"stage{stage}": f"decoder.mlp_stage.{3 - stage}.linear" for stage in range(4)},
    "fuse": "decoder.fuse_stage.0",
    "norm": "decoder.fuse_stage.1",
    "classifier": "segmentation_head.0",
}


def paper_head_shapes(names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """The tensors of the paper's head under the names of a family."""
    shapes = {}
    for stage, width in enumerate(reference.WIDTHS):
        shapes |= {f"{names[f'stage{stage}']}.weight": (WIDTH, width), f"{names[f'stage{stage}']}.bias": (WIDTH,)}
    shapes[f"{names['fuse']}.weight"] = (WIDTH, 4 * WIDTH, 1, 1)
    return shapes | batch_norm(names["norm"]) | classifier(names["classifier"])


def mmseg_head_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of mmsegmentation's head."""
    shapes = {}
    for stage, width in enumerate(reference.WIDTHS):
        shapes[f"decode_head.convs.{stage}.conv.weight"] = (WIDTH, width, 1, 1)
        shapes |= batch_norm(f"decode_head.convs.{stage}.bn")
    shapes["decode_head.fusion_conv.conv.weight"] = (WIDTH, 4 * WIDTH, 1, 1)
    return shapes | batch_norm("decode_head.fusion_conv.bn") | classifier("decode_head.conv_seg")


def batch_norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (WIDTH,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def classifier(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (LABELS, WIDTH, 1, 1), f"{name}.bias": (LABELS,)}


def make(encoder, head_shapes, prefix, head):
    """A checkpoint's tensors, an image, and the logits of the reference network for it."""
    generator = torch.Generator().manual_seed(0)
    encoder_state = reference.random_state({k: tuple(v.shape) for k, v in encoder.state_dict().items()}, generator)
    encoder.load_state_dict(encoder_state)
    head_state = reference.random_state(head_shapes, generator)
    image = torch.randn((1, 3, 97, 131), generator=generator)
    with torch.no_grad():
        logits = head(head_state, encoder.eval()(image))
    state = {f"{prefix}{name}": tensor for name, tensor in encoder_state.items()} | head_state
    return state, image.permute(0, 2, 3, 1).numpy(), logits.permute(0, 2, 3, 1).numpy()


def segmentation(family):
    """The case of a family: tensors, image, logits."""
    if family == "mmseg":
        return make(reference.MmsegEncoder(DEPTHS), mmseg_head_shapes(), "backbone.", reference.mmseg_head)
    names, prefix = (NVLABS_HEAD, "backbone.") if family == "nvlabs" else (SMP_HEAD, "encoder.")
    head = lambda state, maps: reference.paper_head(state, maps, names)  # noqa: E731
    return make(reference.NVlabsEncoder(DEPTHS), paper_head_shapes(names), prefix, head)


def relative_difference(outputs, expected) -> float:
    assert outputs.shape == expected.shape
    return float(np.abs(np.asarray(outputs) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("family", ["nvlabs", "smp", "mmseg"])
def test_a_segmentation_checkpoint_gives_the_outputs_of_its_network(tmp_path, family, legacy):
    state, image, expected = segmentation(family)
    saved = {"meta": {"CLASSES": tuple("abcde")}, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(saved, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.pth")
    assert relative_difference(model(image), expected) < 2e-5
    assert model.config.id2label == dict(enumerate("abcde"))
    assert (model.config.depths, model.config.decoder_hidden_size) == (DEPTHS, WIDTH)
    assert model.config.decode_head_type == ("mmseg" if family == "mmseg" else "segformer")
    assert (model.config.embedding_norm_eps, model.config.block_norm_eps) == EPSILONS[family]


SWAPS = {
    "nvlabs": ("backbone.block2.1.attn.kv.weight", 2),
    "mmseg": ("backbone.layers.1.1.1.attn.attn.in_proj_weight", 3),
    "fuse of nvlabs": ("decode_head.linear_fuse.conv.weight", 4),
    "fuse of mmseg": ("decode_head.fusion_conv.conv.weight", 4),
}


@pytest.mark.parametrize("name", SWAPS)
def test_another_order_of_stacked_parts_would_be_seen(tmp_path, name):
    """The measure of the test above is not blind: with the parts reversed the outputs are far off."""
    family = name.rpartition(" ")[2]
    state, image, expected = segmentation(family)
    tensor, parts = SWAPS[name]
    dim = 1 if name.startswith("fuse") else 0
    state[tensor] = torch.cat(state[tensor].chunk(parts, dim)[::-1], dim)
    torch.save(state, tmp_path / "model.pth")
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.pth")
    assert relative_difference(model(image), expected) > 1e-3


def test_reversed_projections_of_smp_would_not_fit(tmp_path):
    state, _, _ = segmentation("smp")
    for leaf in ("weight", "bias"):
        first, last = (f"decoder.mlp_stage.{stage}.linear.{leaf}" for stage in (0, 3))
        state[first], state[last] = state[last], state[first]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"mlp_stage\.0\.linear\.weight gives decode_head/linear_c_3/kernel"):
        SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.pth")


@pytest.mark.parametrize("family", ["nvlabs", "mmseg"])
def test_an_encoder_of_imagenet_gives_its_last_map(tmp_path, family):
    encoder = {"nvlabs": reference.NVlabsEncoder, "mmseg": reference.MmsegEncoder}[family](DEPTHS)
    state, image, expected = make(encoder, {}, "", lambda _, maps: maps[-1])
    torch.save(state, tmp_path / "mit.pth")
    assert relative_difference(SegformerModel.from_pretrained(tmp_path / "mit.pth")(image), expected) < 2e-5


def test_a_classifier_of_nvlabs_gives_its_class_logits(tmp_path):
    head = lambda state, maps: (maps[-1].mean((2, 3)) @ state["head.weight"].T + state["head.bias"])[..., None, None]  # noqa: E731
    shapes = {"head.weight": (LABELS, reference.WIDTHS[-1]), "head.bias": (LABELS,)}
    state, image, expected = make(reference.NVlabsEncoder(DEPTHS), shapes, "", head)
    torch.save(state, tmp_path / "mit_b0.pth")
    model = SegformerForImageClassification.from_pretrained(tmp_path / "mit_b0.pth")
    assert relative_difference(model(image), expected[:, 0, 0]) < 2e-5
    with pytest.warns(UserWarning, match="has no decode_head"):
        segmenter = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "mit_b0.pth", num_labels=3)
    assert segmenter(image).shape == (1, 25, 33, 3)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_what_training_runs_save_beside_the_weights_is_read_past(tmp_path, legacy):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    saved = {
        "model": torch.nn.DataParallel(reference.NVlabsEncoder(DEPTHS)).state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(
            lr=0.1, output=pathlib.Path("runs"), device=torch.device("cpu"), dtype=torch.float32
        ),
        "history": {
            "loss": np.float64(0.5),
            "curve": np.arange(3.0),
            "seen": {1, 2},
            "by": collections.defaultdict(list),
        },
        "epoch": 7,
    }
    torch.save(saved, tmp_path / "run.pth", _use_new_zipfile_serialization=not legacy)
    model = SegformerModel.from_pretrained(tmp_path / "run.pth")
    expected = saved["model"]["module.norm4.weight"].numpy()
    np.testing.assert_array_equal(model.get_layer("stage_norm_3").gamma.numpy(), expected)
