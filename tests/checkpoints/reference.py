"""SegFormer in PyTorch under the names of other projects, written for these tests from the public description.

The names and the results of `segmentation_models_pytorch` 0.6.0 and of `keras_hub` 0.32.0 were compared with the real
packages when this was written: their own networks agree with ours to 2e-6. Those of NVlabs and of mmsegmentation follow
the tables of their published checkpoints; none of NVIDIA's code was used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

WIDTHS, HEADS, REDUCTIONS = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1)
EXPANSION = 4


def tokens(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, H, W) as sequences (B, H*W, C)."""
    return maps.flatten(2).mT


def maps_of(sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sequences (B, H*W, C) as maps of the size of others (B, ?, H, W)."""
    return sequence.mT.unflatten(2, like.shape[2:])


class FusedAttention(nn.Module):
    """Attention whose one matrix gives keys and values, under NVlabs' names."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        source = self.norm(tokens(self.sr(maps_of(sequence, like)))) if self.reduction > 1 else sequence
        key, value = self.kv(source).chunk(2, dim=-1)
        parts = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (self.q(sequence), key, value))
        return self.proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class DepthwiseConvolution(nn.Module):
    """The 3x3 convolution, nested as it is named."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class FeedForward(nn.Module):
    """The mixed feed-forward network under NVlabs' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.dwconv = DepthwiseConvolution(EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        mixed = self.dwconv.dwconv(maps_of(self.fc1(sequence), like))
        return self.fc2(tokens(functional.gelu(mixed)))


class Block(nn.Module):
    """One transformer block under NVlabs' names."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = FusedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        sequence = sequence + self.attn(self.norm1(sequence), like)
        return sequence + self.mlp(self.norm2(sequence), like)


class PatchEmbedding(nn.Module):
    """The strided convolution and its norm under the names of a family."""

    def __init__(self, channels: int, width: int, patch: int, projection: str, eps: float) -> None:
        super().__init__()
        self.projection_name = projection
        self.add_module(projection, nn.Conv2d(channels, width, patch, (patch + 1) // 2, patch // 2))
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = getattr(self, self.projection_name)(maps)
        return maps_of(self.norm(tokens(maps)), maps)


class NVlabsEncoder(nn.Module):
    """The encoder under NVlabs' names, numbered from 1."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        channels = 3
        for stage, width in enumerate(WIDTHS):
            patch = 7 if stage == 0 else 3
            blocks = [Block(width, HEADS[stage], REDUCTIONS[stage]) for _ in range(depths[stage])]
            self.add_module(f"patch_embed{stage + 1}", PatchEmbedding(channels, width, patch, "proj", 1e-5))
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
            channels = width

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        stages = []
        for number in range(1, 5):
            maps = getattr(self, f"patch_embed{number}")(maps)
            sequence = tokens(maps)
            for block in getattr(self, f"block{number}"):
                sequence = block(sequence, maps)
            maps = maps_of(getattr(self, f"norm{number}")(sequence), maps)
            stages.append(maps)
        return stages


class MmsegBlock(nn.Module):
    """One transformer block under mmsegmentation's names: PyTorch's own attention, 1x1 convolutions."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        if reduction > 1:
            self.attn.sr = nn.Conv2d(width, width, reduction, reduction)
            self.attn.norm = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(
            nn.Conv2d(width, EXPANSION * width, 1),
            nn.Conv2d(EXPANSION * width, EXPANSION * width, 3, padding=1, groups=EXPANSION * width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Conv2d(EXPANSION * width, width, 1),
        )

    def forward(self, sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        query = source = self.norm1(sequence)
        if hasattr(self.attn, "sr"):
            source = self.attn.norm(tokens(self.attn.sr(maps_of(query, like))))
        sequence = sequence + self.attn.attn(query, source, source, need_weights=False)[0]
        return sequence + tokens(self.ffn.layers(maps_of(self.norm2(sequence), like)))


class MmsegEncoder(nn.Module):
    """The encoder under mmsegmentation's names."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        stages, channels = [], 3
        for stage, width in enumerate(WIDTHS):
            embedding = PatchEmbedding(channels, width, 7 if stage == 0 else 3, "projection", 1e-6)
            blocks = [MmsegBlock(width, HEADS[stage], REDUCTIONS[stage]) for _ in range(depths[stage])]
            stages.append(nn.ModuleList([embedding, nn.ModuleList(blocks), nn.LayerNorm(width, eps=1e-6)]))
            channels = width
        self.layers = nn.ModuleList(stages)

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        stages = []
        for embedding, blocks, norm in self.layers:
            maps = embedding(maps)
            sequence = tokens(maps)
            for block in blocks:
                sequence = block(sequence, maps)
            maps = maps_of(norm(sequence), maps)
            stages.append(maps)
        return stages


def upsampled(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Maps at the size of the first."""
    return [functional.interpolate(each, maps[0].shape[2:], mode="bilinear") for each in maps]


def linear(state: dict[str, torch.Tensor], name: str, maps: torch.Tensor) -> torch.Tensor:
    """A matrix (out, in) or (out, in, 1, 1), with its bias where it has one, at every position of maps."""
    weight = state[f"{name}.weight"]
    return functional.conv2d(maps, weight.reshape(*weight.shape[:2], 1, 1), state.get(f"{name}.bias"))


def norm_relu(state: dict[str, torch.Tensor], name: str, maps: torch.Tensor) -> torch.Tensor:
    """Batch norm at inference, then ReLU."""
    leaves = ("running_mean", "running_var", "weight", "bias")
    return torch.relu(functional.batch_norm(maps, *(state[f"{name}.{leaf}"] for leaf in leaves)))


def paper_head(state: dict[str, torch.Tensor], maps: list[torch.Tensor], names: dict[str, str]) -> torch.Tensor:
    """Project, upsample, concatenate from the last stage to the first, fuse, classify; `names` has {} for the stage."""
    projected = [linear(state, names[f"stage{stage}"], each) for stage, each in enumerate(maps)]
    fused = linear(state, names["fuse"], torch.cat(upsampled(projected)[::-1], 1))
    return linear(state, names["classifier"], norm_relu(state, names["norm"], fused))


def mmseg_head(state: dict[str, torch.Tensor], maps: list[torch.Tensor]) -> torch.Tensor:
    """A head whose projections are each normalized and activated, the first stage first, then fused and classified."""
    projected = []
    for stage, features in enumerate(maps):
        name = f"decode_head.convs.{stage}"
        projected.append(norm_relu(state, f"{name}.bn", functional.conv2d(features, state[f"{name}.conv.weight"])))
    together = torch.cat(upsampled(projected), dim=1)
    fused = functional.conv2d(together, state["decode_head.fusion_conv.conv.weight"])
    activated = norm_relu(state, "decode_head.fusion_conv.bn", fused)
    classifier = "decode_head.conv_seg"
    return functional.conv2d(activated, state[f"{classifier}.weight"], state[f"{classifier}.bias"])


def random_state(shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tensors of given shapes: scales and variances around 1, the rest around 0, none trivial."""
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (("norm" in name or ".bn." in name) and name.endswith("weight")):
            state[name] = 1 + 0.3 * values.abs()
        else:
            state[name] = values * (2 / max(values[0].numel(), 4)) ** 0.5 if len(shape) > 1 else 0.3 * values
    return state
