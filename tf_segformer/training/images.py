"""The processor that a training run needs for the images of its dataset: the checkpoint's, or by their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tf_segformer.data.examples import LabelledDataset
from tf_segformer.data.statistics import dataset_statistics, fits, with_statistics
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.bands import ImageType
from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor
from tf_segformer.training.distributed import on_first_process


def image_type_of_splits(train_data: LabelledDataset, val_data: LabelledDataset) -> ImageType:
    """Bands and type of the images of both splits.

    Raises:
        DatasetError: They differ.
    """
    if train_data.image_type != val_data.image_type:
        raise DatasetError(
            f"{train_data.name} has images of {train_data.image_type}, {val_data.name} of {val_data.image_type}: save "
            "both with the same bands and type"
        )
    return train_data.image_type


def fit_processor(
    processor: SegformerImageProcessor | None, train_data: LabelledDataset, *, given: bool, saved: Path | None = None
) -> SegformerImageProcessor:
    """The processor for a dataset: itself where it fits, else with the statistics of the training images.

    Args:
        processor: The checkpoint's or the caller's; None is ImageNet's mean and std, without resizing.
        train_data: The training split.
        given: Whether the caller chose it, so that nothing else may take its place.
        saved: Folder of a run to resume, whose processor is taken.

    Returns:
        The processor.

    Raises:
        ValueError: The caller's does not fit.
    """
    processor, kind = processor or SegformerImageProcessor(do_resize=False), train_data.image_type
    if fits(processor, kind):
        return processor
    if given:
        raise ValueError(
            f"{train_data.name} has images of {kind}, the processor is for {_described(processor)}: leave it out, or "
            "make it by tf_segformer.data.dataset_statistics (tf-segformer check DATA --statistics)"
        )
    if saved is not None and (saved / CONFIG_NAME).is_file():
        return SegformerImageProcessor.from_pretrained(saved)
    foreign = _described(processor)

    def count() -> dict[str, Any]:
        print(
            f"{train_data.name}: images of {kind}: prepared by the range, mean and std of each band over the training "
            f"images, since the checkpoint's are for {foreign}"
        )
        return with_statistics(processor, dataset_statistics(train_data)).to_dict()

    return SegformerImageProcessor.from_dict(on_first_process(count))


def check_channels(model: Any, dataset: LabelledDataset) -> None:
    """Rejects a model for images of other bands.

    Args:
        model: Keras model.
        dataset: What it shall be trained on.

    Raises:
        ValueError: Naming both numbers.
    """
    channels = model.input_shape[-1]
    if channels != dataset.image_type.channels:
        raise ValueError(
            f"the model takes images of {channels} channels, {dataset.name} has images of {dataset.image_type}: "
            f"from_pretrained(..., num_channels={dataset.image_type.channels}) makes one that fits of any checkpoint"
        )


def _described(processor: SegformerImageProcessor) -> str:
    """The images that a processor is for."""
    bands = f"{processor.num_bands} bands" if processor.num_bands else "any bands"
    return f"{bands} of {processor.value_type or ('any type' if processor.keeps_values else 'uint8')}"
