"""Datasets: their files, what is wrong with them, and the batches made from them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_segformer.data.augmentation import Augmentation as Augmentation
    from tf_segformer.data.check import check_dataset as check_dataset
    from tf_segformer.data.check import check_splits as check_splits
    from tf_segformer.data.datasets import SegmentationDataset as SegmentationDataset
    from tf_segformer.data.datasets import find_dataset as find_dataset
    from tf_segformer.data.pipeline import training_dataset as training_dataset
    from tf_segformer.data.pipeline import validation_dataset as validation_dataset
    from tf_segformer.data.reports import DatasetReport as DatasetReport
    from tf_segformer.data.reports import FolderReport as FolderReport
    from tf_segformer.data.splits import find_dataset_of_model as find_dataset_of_model
    from tf_segformer.data.splits import open_splits as open_splits
    from tf_segformer.data.statistics import BandStatistics as BandStatistics
    from tf_segformer.data.statistics import dataset_statistics as dataset_statistics
    from tf_segformer.data.tfrecords import open_tfrecords as open_tfrecords
    from tf_segformer.data.tfrecords import write_tfrecords as write_tfrecords

_LAZY_IMPORTS = {
    "open_splits": "splits",
    "Augmentation": "augmentation",
    "BandStatistics": "statistics",
    "DatasetReport": "reports",
    "FolderReport": "reports",
    "SegmentationDataset": "datasets",
    "check_dataset": "check",
    "check_splits": "check",
    "dataset_statistics": "statistics",
    "find_dataset": "datasets",
    "find_dataset_of_model": "splits",
    "open_tfrecords": "tfrecords",
    "training_dataset": "pipeline",
    "validation_dataset": "pipeline",
    "write_tfrecords": "tfrecords",
}

__all__ = sorted(_LAZY_IMPORTS)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that finding and checking files does not wait for TensorFlow."""
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'tf_segformer.data' has no attribute '{name}'")
    value = getattr(import_module(f"tf_segformer.data.{_LAZY_IMPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_IMPORTS})
