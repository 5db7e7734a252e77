"""Recipe: everything that decides a training run, and the recipes by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tf_segformer.data.augmentation import Augmentation
from tf_segformer.errors import DatasetError

_MODULES = ("ade20k", "camvid", "cityscapes", "finetune")


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one crop size and batch.

    Args:
        steps: Batches.
        batch_size: Images a batch, over all devices.
        augmentation: What is drawn for each image.

    Example:
        >>> Phase(160_000, 16, Augmentation((512, 512))).batch_size
        16
    """

    steps: int
    batch_size: int
    augmentation: Augmentation


@dataclass(frozen=True)
class Recipe:
    """One training run, but for the place of the data and the machine.

    Args:
        name: Name on the command line.
        variant: Model variant, "b0" to "b5".
        dataset: Kind of dataset, a key of `datasets.KINDS`.
        phases: Stretches of the run, in order; the learning rate runs over all of them.
        learning_rate: Highest rate of the encoder.
        warmup_steps: Batches of linear warm-up.
        power: Exponent of the polynomial decay.
        decay_start: Batches before the decay begins.
        weight_decay: Decoupled decay; norms are never decayed.
        head_lr_multiplier: Multiple of the rate for the decode head.
        clip_norm: Largest norm of all gradients together, or None.
        accumulation_steps: Batches whose gradients make one update, or None.
        ema_momentum: Momentum of the averaged weights that are validated and saved, or None.
        loss: Arguments of `SegmentationLoss`.
        model: Fields of `SegformerConfig` beside the variant's.
        validate_every: Batches between validations (and checkpoints).
        initial_weights: Checkpoint the run starts from (name or folder), or None for random weights.
        seed: Decides initial weights, data order, augmentation and dropout.

    Example:
        >>> load_recipe("camvid-b0").variant
        'b0'
    """

    name: str
    variant: str
    dataset: str
    phases: tuple[Phase, ...]
    learning_rate: float = 6e-5
    warmup_steps: int = 1500
    power: float = 1.0
    decay_start: int = 0
    weight_decay: float = 0.01
    head_lr_multiplier: float = 10.0
    clip_norm: float | None = None
    accumulation_steps: int | None = None
    ema_momentum: float | None = None
    loss: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    validate_every: int = 4000
    initial_weights: str | None = None
    seed: int = 0

    @property
    def steps(self) -> int:
        """Batches of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for `recipe.json`."""
        return asdict(self)

    def with_steps(self, steps: int) -> Recipe:
        """The recipe shortened or lengthened: every phase and the warm-up in proportion.

        Args:
            steps: Batches of the new run, at least one a phase.

        Returns:
            A new recipe.

        Raises:
            ValueError: Fewer steps than phases.

        Example:
            >>> load_recipe("ade20k-b0").with_steps(1600).warmup_steps
            15
        """
        if steps < len(self.phases):
            raise ValueError(f"steps={steps} must be at least {len(self.phases)}, one for each phase of {self.name}")
        ends: list[int] = []
        for index in range(len(self.phases)):
            wanted = round(steps * sum(phase.steps for phase in self.phases[: index + 1]) / self.steps)
            later = len(self.phases) - 1 - index  # each of them gets a step, too
            ends.append(min(max(wanted, index + 1), steps - later))
        starts = [0, *ends[:-1]]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        phases = [replace(phase, steps=length) for phase, length in zip(self.phases, lengths, strict=True)]
        return replace(
            self,
            phases=tuple(phases),
            warmup_steps=self.warmup_steps * steps // self.steps,
            decay_start=self.decay_start * steps // self.steps,
            validate_every=min(self.validate_every, steps),
        )


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe by name, or `RECIPE` of a Python file.

    Args:
        name_or_path: Such as "ade20k-b2", "cityscapes-b0", "camvid-b0", or the path of a file ending in ".py", which is
            run as a Python module.

    Returns:
        The recipe.

    Raises:
        DatasetError: No such recipe or file, or the file defines no `RECIPE`.

    Example:
        >>> load_recipe("cityscapes-b0").steps
        160000
    """
    if str(name_or_path).endswith(".py"):
        return _recipe_of_file(Path(name_or_path))
    recipes = known_recipes()
    if name_or_path not in recipes:
        raise DatasetError(f"There is no recipe {str(name_or_path)!r}, only {', '.join(recipes)} (or a .py file).")
    return recipes[str(name_or_path)]


def known_recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by name.

    Returns:
        A new dictionary.

    Example:
        >>> "ade20k-b5" in known_recipes()
        True
    """
    modules = [import_module(f"{__name__}.{module}") for module in _MODULES]
    return {recipe.name: recipe for module in modules for recipe in module.RECIPES}


def _recipe_of_file(path: Path) -> Recipe:
    """Runs a recipe file and takes its RECIPE."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such recipe file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise DatasetError(f"{path}: defines no RECIPE of type tf_segformer.training.recipes.Recipe")
    return recipe
