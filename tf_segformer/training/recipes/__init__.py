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
    """A part of a run with one augmentation and batch size.

    Args:
        steps: Batches.
        batch_size: Images per batch, over all devices.
        augmentation: The random changes of each image.

    Example:
        >>> Phase(160_000, 16, Augmentation((512, 512))).batch_size
        16
    """

    steps: int
    batch_size: int
    augmentation: Augmentation


@dataclass(frozen=True)
class Recipe:
    """One training run, except where the data is and which machine trains.

    Args:
        name: Name on the command line.
        variant: Model variant, "b0" to "b5".
        dataset: Kind of dataset, a key of `datasets.KINDS`.
        phases: Parts of the run, in order; the learning rate runs over all of them.
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
        model: Fields of `SegformerConfig` that differ from the variant's.
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

    def images_before(self, step: int) -> int:
        """Images of the batches before one, over all phases.

        Args:
            step: Number of a batch, from 0 to `steps`.

        Returns:
            Their number.

        Example:
            >>> load_recipe("ade20k-b0").images_before(10)
            160
        """
        images = 0
        for phase in self.phases:
            images += min(step, phase.steps) * phase.batch_size
            step = max(step - phase.steps, 0)
        return images

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for `recipe.json`."""
        return asdict(self)

    def with_steps(self, steps: int) -> Recipe:
        """The recipe shortened or lengthened: every phase and the warm-up in proportion.

        Args:
            steps: Batches of the new run, at least one per phase.

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

    def with_options(
        self,
        *,
        train_size: int,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        seed: int | None = None,
    ) -> Recipe:
        """The recipe with what is given here in place of its own.

        Args:
            train_size: Number of training examples, which `epochs` counts.
            epochs: Passes over the training examples, instead of `steps`.
            steps: Batches of the run; see `with_steps`.
            batch_size: Images per batch, in every phase.
            learning_rate: Highest rate of the encoder.
            seed: Decides initial weights, data order, augmentation and dropout.

        Returns:
            A new recipe.

        Raises:
            ValueError: Both `epochs` and `steps`, or fewer steps than phases.

        Example:
            >>> load_recipe("ade20k-b0").with_options(train_size=160, epochs=3).steps
            30
        """
        if epochs is not None and steps is not None:
            raise ValueError("epochs and steps exclude each other")
        given = {"learning_rate": learning_rate, "seed": seed}
        recipe = replace(self, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        if batch_size is not None:
            recipe = replace(recipe, phases=tuple(replace(phase, batch_size=batch_size) for phase in recipe.phases))
        if epochs is not None:
            images_per_step = recipe.images_before(recipe.steps) / recipe.steps
            steps = max(round(epochs * train_size / images_per_step), len(recipe.phases))
        return recipe if steps is None else recipe.with_steps(steps)


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
