"""Layouts of PyTorch: Hugging Face, smp, peft, Lightning; NVlabs, mmsegmentation and TAO by `reference.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.checkpoints.layout_packing import (
    DEPTHS,
    HEAD_WIDTH,
    HEADS,
    HUGGING_FACE,
    IMAGE,
    LABELS,
    RATIOS,
    WIDTHS,
    pack,
    scratch,
    values,
)


def filled(model):
    """A PyTorch model with random values, for inference."""
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
    return model.eval()


def outputs(model, attribute: str | None = None):
    """The output for the image, or an attribute of it."""
    import torch

    with torch.no_grad():
        found = model(torch.from_numpy(IMAGE))
    return (found if attribute is None else getattr(found, attribute)).numpy()


def write_hugging_face() -> None:
    import torch
    import transformers

    config = transformers.SegformerConfig(**HUGGING_FACE)
    model = filled(transformers.SegformerForSemanticSegmentation(config))
    logits = outputs(model, "logits")
    for name, options in {
        "huggingface": {},
        "huggingface_sharded": {"max_shard_size": "20KB"},
        "huggingface_v5_names": {"save_original_format": False},
    }.items():
        folder = scratch()
        model.save_pretrained(folder, **options)
        transformers.SegformerImageProcessor().save_pretrained(folder)
        pack(name, folder, logits)
    folder = scratch()
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    pack("huggingface_bin", folder, logits)
    folder = scratch()
    compiled = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": compiled, "epoch": 3, "best": 0.5}, folder / "best.pt")
    pack("huggingface_compiled_and_distributed", folder, logits)
    for name, kind, attribute in (
        ("huggingface_classifier", transformers.SegformerForImageClassification, "logits"),
        ("huggingface_encoder", transformers.SegformerModel, "last_hidden_state"),
    ):
        folder, other = scratch(), filled(kind(config))
        other.save_pretrained(folder)
        pack(name, folder, outputs(other, attribute))


def write_peft() -> None:
    """Adapters next to the base that they name: plain LoRA, and one with all that PEFT's configuration can change."""
    import os

    import peft
    import transformers

    config = transformers.SegformerConfig(**HUGGING_FACE)
    plain = {"target_modules": ["query", "value"], "lora_alpha": 16, "modules_to_save": ["decode_head"]}
    all_kinds = {
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "sequence_reduction.sequence_reduction"],
        "lora_alpha": 6,
        "use_rslora": True,
        "rank_pattern": {"fc1": 3},
        "alpha_pattern": {"q_proj": 10},
    }
    layouts = {"peft_lora_of_all_kinds": all_kinds} if transformers.__version__ > "5" else {"peft_lora": plain}
    for name, options in layouts.items():
        folder = scratch()
        base = filled(transformers.SegformerForSemanticSegmentation(config))
        base.save_pretrained(folder / "someone" / "base")
        os.chdir(folder)
        base = transformers.SegformerForSemanticSegmentation.from_pretrained("someone/base")
        model = filled(peft.get_peft_model(base, peft.LoraConfig(r=2, **options)))
        for key, tensor in model.state_dict().items():
            if "lora_" in key:
                tensor /= 8  # adapters are small; with large ones the network is a matter of rounding
        base_state = base.state_dict()  # the base stays as it was saved
        saved = transformers.SegformerForSemanticSegmentation.from_pretrained("someone/base").state_dict()
        for key, tensor in base_state.items():
            plain = key.replace(".base_layer", "").replace(".original_module", "")
            if plain in saved and "lora_" not in key and "modules_to_save" not in key:
                tensor.copy_(saved[plain])
        model.save_pretrained(folder / "adapter")
        pack(name, folder, outputs(model.eval(), "logits"))


def small_smp():
    """segmentation_models_pytorch with a small encoder under the name of its B0."""
    import segmentation_models_pytorch as smp

    smp.encoders.encoders["mit_b0"]["params"] |= {
        "out_channels": [3, 0, *WIDTHS],
        "embed_dims": list(WIDTHS),
        "num_heads": list(HEADS),
        "mlp_ratios": list(RATIOS),
        "depths": list(DEPTHS),
    }
    return smp


def smp_logits(model):
    """The logits of smp's SegFormer before it resizes them."""
    import torch

    with torch.no_grad():
        features = model.decoder(model.encoder(torch.from_numpy(IMAGE)))
        return model.segmentation_head[0](features).numpy()


def write_smp() -> None:
    import torch

    smp = small_smp()
    model = filled(smp.Segformer("mit_b0", encoder_weights=None, classes=LABELS, decoder_segmentation_channels=8))
    folder = scratch()
    model.save_pretrained(folder)
    pack("smp_hub", folder, smp_logits(model))
    folder = scratch()
    torch.save(model.state_dict(), folder / "best_model.pth")
    pack("smp_state_dict", folder, smp_logits(model))
    for kind, options in (("Unet", {"decoder_channels": (8, 8, 4, 4, 4)}), ("FPN", {"decoder_pyramid_channels": 8})):
        folder = scratch()
        if kind == "FPN":
            options |= {"decoder_segmentation_channels": 32}
        model = filled(getattr(smp, kind)("mit_b0", encoder_weights=None, classes=2, **options))
        if kind == "Unet":
            torch.save(model.state_dict(), folder / "unet.pth")
        else:
            model.save_pretrained(folder)
        with torch.no_grad():
            last = model.encoder(torch.from_numpy(IMAGE))[-1].numpy()
        pack(f"smp_{kind.lower()}", folder, last)


def write_lightning() -> None:
    import copy

    import lightning
    import omegaconf
    import torch
    import torchmetrics
    import transformers

    class Around(lightning.LightningModule):
        """What a training script wraps around a network."""

        def __init__(self, network, averaged, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.net = network
            self.criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(LABELS))
            self.val_metrics = torchmetrics.MetricCollection([torchmetrics.MeanMetric(), torchmetrics.SumMetric()])
            for metric in self.val_metrics.values():
                metric.persistent(True)
            if averaged:
                self.ema_net = filled(copy.deepcopy(network))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return sum(parameter.sum() for parameter in self.net.parameters()) * 0

        def configure_optimizers(self):
            return torch.optim.AdamW(self.net.parameters(), lr=0.0, weight_decay=0.0)

        def train_dataloader(self):
            return torch.utils.data.DataLoader([torch.zeros(1)])

    def save(module, path):
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.fit(module)
        module.load_state_dict(state)
        trainer.save_checkpoint(path)
        return module.eval()

    config = transformers.SegformerConfig(**HUGGING_FACE)
    network = filled(transformers.SegformerForSemanticSegmentation(config))
    folder = scratch()
    hparams = {"lr": 1e-3, "classes": ["a", "b"], "data": Path("somewhere"), "seen": {1, 2}}
    save(Around(network, False, hparams), folder / "epoch=3.ckpt")
    pack("lightning_huggingface", folder, outputs(network.eval(), "logits"))
    network = filled(small_smp().Segformer("mit_b0", encoder_weights=None, classes=5, decoder_segmentation_channels=8))
    folder = scratch()
    hparams = omegaconf.OmegaConf.create({"model": {"name": "segformer", "sizes": [1, 2]}, "lr": 0.1})
    save(Around(network, True, hparams), folder / "last.ckpt")
    pack("lightning_smp_with_ema_and_omegaconf", folder, smp_logits(network.eval()))


def write_reference() -> None:
    """NVlabs, mmsegmentation and NVIDIA TAO, from the networks of `reference.py`."""
    import dataclasses

    import omegaconf
    import torch

    from tests.checkpoints import reference

    reference.WIDTHS, reference.HEADS, reference.EXPANSION = WIDTHS, HEADS, 2
    image = torch.from_numpy(IMAGE)

    def norm(name):
        return {f"{name}.{leaf}": (HEAD_WIDTH,) for leaf in ("weight", "bias", "running_mean", "running_var")}

    def paper(names, bias=False):
        shapes = {}
        for stage, width in enumerate(WIDTHS):
            shapes |= {f"{names[f'stage{stage}']}.weight": (8, width), f"{names[f'stage{stage}']}.bias": (8,)}
        shapes[f"{names['fuse']}.weight"] = (8, 32, 1, 1)
        if bias:
            shapes[f"{names['fuse']}.bias"] = (8,)
        shapes |= norm(names["norm"])
        return shapes | {f"{names['classifier']}.weight": (5, 8, 1, 1), f"{names['classifier']}.bias": (5,)}

    def state_of(shapes):
        return {
            name: torch.from_numpy(values(name.replace("bn.weight", "gamma"), shape)) for name, shape in shapes.items()
        }

    def names_of(head, fuse, batch_norm):
        stages = {f"stage{stage}": f"{head}.linear_c{stage + 1}.proj" for stage in range(4)}
        return {**stages, "fuse": f"{head}.{fuse}", "norm": f"{head}.{batch_norm}", "classifier": f"{head}.linear_pred"}

    encoder = filled(reference.NVlabsEncoder(DEPTHS))
    with torch.no_grad():
        maps = encoder(image)
    trunk = {f"backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}

    @dataclasses.dataclass
    class ExperimentConfig:
        """Stands for the schema that TAO's OmegaConf names."""

        epochs: int = 3

    ExperimentConfig.__module__ = "nvidia_tao_core.config.segformer.default_config"
    ExperimentConfig.__qualname__ = "ExperimentConfig"
    layouts = {
        "nvlabs": (names_of("decode_head", "linear_fuse.conv", "linear_fuse.bn"), "", False, {}),
        "tao_5": (names_of("decode_head", "linear_fuse.conv", "linear_fuse.bn"), "model.", False, {}),
        "tao_5_decoder": (names_of("decoder", "linear_fuse.conv", "linear_fuse.bn"), "model.", False, {}),
        "tao_6": (names_of("decoder", "linear_fuse.0", "linear_fuse.1"), "model.", True, {}),
        "tao_6_omegaconf": (names_of("decoder", "linear_fuse.0", "linear_fuse.1"), "model.", True, {"hparams": 1}),
    }
    for name, (names, prefix, bias, extra) in layouts.items():
        head = state_of(paper(names, bias))
        with torch.no_grad():
            logits = reference.paper_head(head, maps, names)
        unused = state_of({f"{names['classifier'].split('.')[0]}.conv_seg.weight": (5, 8, 1, 1)})
        state = {f"{prefix}{key}": tensor for key, tensor in {**trunk, **head, **unused}.items()}
        saved = {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.2.0"}
        if name == "tao_6":
            saved["state_dict"]["criterion.weight"] = torch.ones(5)
        folder = scratch()
        if extra:
            module = type(sys)("nvidia_tao_core.config.segformer.default_config")
            module.ExperimentConfig = ExperimentConfig
            for package in ("nvidia_tao_core", "nvidia_tao_core.config", "nvidia_tao_core.config.segformer"):
                sys.modules[package] = type(sys)(package)
            sys.modules[module.__name__] = module
            saved["hyper_parameters"] = omegaconf.OmegaConf.structured(ExperimentConfig)
        torch.save(saved, folder / f"{name}.pth")
        pack(name, folder, logits)

    folder = scratch()
    head = {"head.weight": torch.from_numpy(values("head", (5, 16))), "head.bias": torch.from_numpy(values("b", (5,)))}
    torch.save({**encoder.state_dict(), **head}, folder / "mit_b0.pth")
    pack("nvlabs_imagenet", folder, (maps[-1].mean((2, 3)) @ head["head.weight"].T + head["head.bias"]).detach())

    encoder = filled(reference.MmsegEncoder(DEPTHS))
    with torch.no_grad():
        maps = encoder(image)
    shapes = {"decode_head.fusion_conv.conv.weight": (8, 32, 1, 1), **norm("decode_head.fusion_conv.bn")}
    for stage, width in enumerate(WIDTHS):
        shapes |= {f"decode_head.convs.{stage}.conv.weight": (8, width, 1, 1), **norm(f"decode_head.convs.{stage}.bn")}
    shapes |= {"decode_head.conv_seg.weight": (5, 8, 1, 1), "decode_head.conv_seg.bias": (5,)}
    head = state_of(shapes)
    auxiliary = state_of({"auxiliary_head.convs.0.conv.weight": (8, 12, 3, 3), "auxiliary_head.conv_seg.bias": (5,)})
    trunk = {f"backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        logits = reference.mmseg_head(head, maps)
    folder = scratch()
    meta = {"dataset_meta": {"classes": tuple("abcde"), "palette": [[i, i, i] for i in range(5)]}}
    torch.save({"meta": meta, "state_dict": {**trunk, **head, **auxiliary}}, folder / "iter_160000.pth")
    pack("mmseg_with_auxiliary_head", folder, logits)
    lateral = state_of({"decode_head.lateral_convs.0.conv.weight": (8, 4, 1, 1), "decode_head.conv_seg.bias": (5,)})
    folder = scratch()
    torch.save({"state_dict": {**trunk, **lateral, **auxiliary}}, folder / "upernet.pth")
    pack("mmseg_with_another_decoder", folder, maps[-1])
