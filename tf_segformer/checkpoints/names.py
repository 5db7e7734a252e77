"""From the names of a checkpoint to those of the Keras model and back: pure functions over the tables of families."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby

from tf_segformer.checkpoints.families import FAMILIES, LEFT_OUT
from tf_segformer.errors import CheckpointError

HEADS = ("decode_head/", "classifier/")

_PLACEHOLDER = re.compile(r"\{(i|i\+1|3-i|j)\}")
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|teacher|swa|averaged?)(?:[._]|$)")
_TIMM_PVT = re.compile(r"stages\.\d+\.blocks\.\d+\.attn\.kv\..*")
# Of keras-hub and of this project.
_KERAS_BLOCK = re.compile(r"(|.*\.)(?:hierarchical_transformer_encoder|transformer_block)(?:_(\d{1,4}))?\.(.*)")
_KERAS_BLOCK_KERNEL = re.compile(
    r".*(?:hierarchical_transformer_encoder|transformer_block)(?:_(\d{1,4}))?\."
    r"((?:layer_)?norm_?1|attention\.sequence_reduction|attn\.sr|mlp\.(?:dense_|fc)1)\.0"
)
_KERAS_STAGE_NORM = re.compile(
    r".*(?:overlapping_patching_and_embedding|overlap_patch_embedding)(?:_(\d{1,4}))?\.(?:layer_)?norm\.0"
)
_LINEAR_LEAVES = {"weight": "kernel", "bias": "bias"}
_NORM_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def is_norm(module: str) -> bool:
    """Whether a module of the Keras model is a normalization.

    Example:
        >>> is_norm("stage_norm_0"), is_norm("decode_head/classifier")
        (True, False)
    """
    return "norm" in module.rpartition("/")[2]


def keras_names(family: str, name: str) -> tuple[str, ...] | None:
    """The variables of the Keras model that a tensor of a checkpoint holds.

    Args:
        family: A key of `FAMILIES`.
        name: The tensor's name in the file.

    Returns:
        One variable, or several whose rows the file stacks in this order; none for a tensor that no model uses;
        None for a name that the family does not know.

    Example:
        >>> keras_names("nvlabs", "block1.0.attn.kv.bias")
        ('block_0_0/attention/key/bias', 'block_0_0/attention/value/bias')
    """
    table = FAMILIES[family]
    for pattern, replacement in table.rewrites:
        name = re.sub(rf"^{pattern}$", replacement, name)
    if any(re.fullmatch(pattern, name) for pattern in table.unused):
        return ()
    module, _, leaf = name.rpartition(".")
    for prefix in table.prefixes:
        if module.startswith(prefix):
            for template, targets in _patterns(family):
                match = template.fullmatch(module, len(prefix))
                if match:
                    found = [_keras_leaf(each, leaf, table.layout) for each in _expand(targets, match.groupdict())]
                    return tuple(each for each in found if each) if all(found) else None
    return None


def source_names(family: str, variables: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names that a family gives to the variables of a Keras model.

    Args:
        family: A key of `FAMILIES` that is written: "huggingface", "nvlabs" or "keras".
        variables: Names of the model's variables.

    Returns:
        Name in the file, before any rewriting -> the variables that it holds, several where the family stacks them.

    Raises:
        CheckpointError: Where the family has no name for a variable.

    Example:
        >>> source_names("nvlabs", ["stage_norm_0/gamma"])
        {'norm1.weight': ('stage_norm_0/gamma',)}
    """
    table, variables = FAMILIES[family], list(variables)
    encoder_prefix = table.prefixes[0] if any(name.startswith(table.prefixed_under) for name in variables) else ""
    names: dict[str, tuple[str, ...]] = {}
    for variable in variables:
        module, _, leaf = variable.rpartition("/")
        row = next(((template, targets) for template, targets in table.modules.items() if _fits(targets, module)), None)
        if row is None:
            raise CheckpointError(f"{table.title} has no name for {variable}: this decode head cannot be written so")
        template, targets = row
        stage_and_block = _template_pattern(_as_tuple(targets)[0]).fullmatch(module)
        if stage_and_block is None:
            continue  # a later part of a stacked tensor, named by its first
        prefix = "" if variable.startswith(HEADS) else encoder_prefix
        parts = _expand(targets, stage_and_block.groupdict())
        names[f"{prefix}{_fill(template, stage_and_block.groupdict())}.{_file_leaf(variable, table.layout)}"] = tuple(
            f"{part}/{leaf}" for part in parts
        )
    return names


def detect_family(names: Iterable[str]) -> str:
    """The family that a set of names belongs to.

    Args:
        names: The names of a checkpoint's tensors.

    Returns:
        A key of `FAMILIES`.

    Raises:
        CheckpointError: For names of no family, with the first of them and the families that exist.

    Example:
        >>> detect_family(["backbone.patch_embed1.proj.weight", "backbone.patch_embed1.proj.bias"])
        'nvlabs'
    """
    names = sorted(names)
    if any(_TIMM_PVT.fullmatch(name) for name in names):
        raise CheckpointError("this is a PVTv2 of timm, a relative of SegFormer's encoder with other layers")
    known = {family: sum(bool(keras_names(family, name)) for name in names) for family in FAMILIES}
    best = max(known, key=known.__getitem__)
    # A network with another decoder is known by its encoder.
    if 2 * known[best] <= len(names) and not any(anchor.fullmatch(name) for anchor in _anchors() for name in names):
        first = ", ".join(name[:80] for name in names[:5]) or "no tensor at all"
        families = ", ".join(table.title for table in FAMILIES.values())
        raise CheckpointError(f"not the names of a SegFormer ({first} ...); known families: {families}")
    return best


def is_left_out(name: str) -> bool:
    """Whether a tensor is of what training keeps next to a network: a loss, a metric, an auxiliary head.

    Example:
        >>> is_left_out("criterion.weight"), is_left_out("decode_head.classifier.weight")
        (True, False)
    """
    return any(re.fullmatch(pattern, name) for pattern in LEFT_OUT)


def network_prefix(names: Iterable[str]) -> str:
    """What stands before every name of the network where a larger object of PyTorch holds it.

    Args:
        names: The names of a checkpoint's tensors.

    Returns:
        The prefix with its dot, empty where there is none. An average of the weights is taken only where there is no
        other network.

    Raises:
        CheckpointError: Where several networks are in it.

    Example:
        >>> network_prefix(["net.backbone.patch_embed1.proj.weight", "loss.weight"])
        'net.'
    """
    prefixes = dict.fromkeys(
        found
        for name in names
        if (found := next((m[1] for a in _anchors() if (m := a.fullmatch(name))), None)) is not None
    )
    trained = [prefix for prefix in prefixes if not _AVERAGED.search(prefix)] or list(prefixes)[:1]
    if len(trained) > 1:
        raise CheckpointError(
            f"several SegFormers are in it, under {', '.join(trained)}: save the one that you want alone"
        )
    return trained[0] if trained else ""


@cache
def _anchors() -> tuple[re.Pattern[str], ...]:
    """Patterns of the first tensor of each family of PyTorch, what is before it as a group; the longest first."""
    names = {
        f"{prefix}{_fill(template, {'i': '0'})}.weight"
        for table in FAMILIES.values()
        if table.layout == "torch"
        for template, targets in table.modules.items()
        if targets == "patch_embedding_{i}/projection"
        for prefix in table.prefixes
    }
    longest_first = sorted(names, key=len, reverse=True)
    return tuple(re.compile(rf"((?:.*\.)?){re.escape(name)}") for name in longest_first)


def number_blocks_by_stage(
    shapes: Mapping[str, tuple[int, ...]], depths: Sequence[int] | None = None
) -> dict[str, str]:
    """Renames the blocks of Keras' files, numbered through all stages, to "block_{stage}_{block}".

    Args:
        shapes: Name of each tensor in the file -> its shape.
        depths: Blocks of each stage; by default the stage of a block is the one whose patch embedding has its width.

    Returns:
        Name in the file -> name with the stage; other names stay as they are.

    Raises:
        CheckpointError: Where `depths` are needed, since two stages have the same width.

    Example:
        >>> list(number_blocks_by_stage({"transformer_block_2.mlp.dense_1.0": (8, 32)}, (1, 2)).values())
        ['block_1_1.mlp.dense_1.0']
    """
    if depths is None:
        depths = _depths_by_width(shapes)
    blocks = [f"block_{stage}_{block}" for stage, depth in enumerate(depths) for block in range(depth)]

    def renamed(name: str) -> str:
        match = _KERAS_BLOCK.fullmatch(name)
        number = int(match[2] or 0) if match else len(blocks)
        return f"{match[1]}{blocks[number]}.{match[3]}" if match and number < len(blocks) else name

    return {name: renamed(name) for name in shapes}


def _depths_by_width(shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """How many blocks each stage has: those of its width, next to each other, with the same reduction and expansion."""
    stages: set[tuple[int, tuple[int, ...]]] = set()
    blocks: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := _KERAS_STAGE_NORM.fullmatch(name):
            stages.add((int(match[1] or 0), shape))
        if match := _KERAS_BLOCK_KERNEL.fullmatch(name):
            blocks.setdefault(int(match[1] or 0), {})[match[2]] = shape
    forms = [sorted(blocks[number].items()) for number in sorted(blocks)]
    depths = [len(list(group)) for _, group in groupby(forms)]
    if blocks and len(depths) != len(stages):
        raise CheckpointError(
            "two stages of one form: which blocks belong to which stage is in its config.json only: put it next to it, "
            "or pass config="
        )
    return depths


@cache
def _patterns(family: str) -> tuple[tuple[re.Pattern[str], str | tuple[str, ...]], ...]:
    """The table of a family with its templates compiled."""
    return tuple((_template_pattern(template), targets) for template, targets in FAMILIES[family].modules.items())


@cache
def _template_pattern(template: str) -> re.Pattern[str]:
    """A regular expression with the stage and block as groups named i, i1, r and j."""
    pieces = _PLACEHOLDER.split(template)
    groups = {"i": r"(?P<i>\d{1,3})", "i+1": r"(?P<i1>\d{1,3})", "3-i": r"(?P<r>[0-3])", "j": r"(?P<j>\d{1,3})"}
    return re.compile("".join(groups[piece] if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces)))


def _fill(template: str, groups: Mapping[str, str]) -> str:
    """A template with the stage and block that a pattern found."""
    if "i1" in groups:
        stage = int(groups["i1"]) - 1
    else:
        stage = 3 - int(groups["r"]) if "r" in groups else int(groups.get("i", 0))
    values = {"i": stage, "i+1": stage + 1, "3-i": 3 - stage, "j": groups.get("j")}
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)


def _expand(targets: str | tuple[str, ...], groups: Mapping[str, str]) -> list[str]:
    return [_fill(target, groups) for target in _as_tuple(targets)]


def _fits(targets: str | tuple[str, ...], module: str) -> bool:
    return any(_template_pattern(target).fullmatch(module) for target in _as_tuple(targets))


def _as_tuple(targets: str | tuple[str, ...]) -> tuple[str, ...]:
    return (targets,) if isinstance(targets, str) else targets


def _keras_leaf(module: str, leaf: str, layout: str) -> str | None:
    """The variable of a module that a leaf of the file is, by its name or by Keras' number; None for an unknown one."""
    leaves = _NORM_LEAVES if is_norm(module) else _LINEAR_LEAVES
    if layout == "torch":
        found = leaves.get(leaf)
    else:
        names = list(leaves.values())
        found = names[int(leaf)] if leaf.isdecimal() and int(leaf) < len(names) else leaf if leaf in names else None
    return f"{module}/{found}" if found else None


def _file_leaf(variable: str, layout: str) -> str:
    """What a file calls the leaf of a variable: PyTorch's name or Keras' number of it."""
    module, _, leaf = variable.rpartition("/")
    leaves = _NORM_LEAVES if is_norm(module) else _LINEAR_LEAVES
    number = list(leaves.values()).index(leaf)
    return list(leaves)[number] if layout == "torch" else str(number)
