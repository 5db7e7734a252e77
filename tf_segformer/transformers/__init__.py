"""The names of transformers 4's TensorFlow port over this project's own network: one import changed, programs run."""

from tf_segformer.transformers.models import (
    TFSegformerDecodeHead,
    TFSegformerForImageClassification,
    TFSegformerForSemanticSegmentation,
    TFSegformerModel,
)
from tf_segformer.transformers.processing import SegformerConfig, SegformerFeatureExtractor, SegformerImageProcessor

__all__ = [
    "SegformerConfig",
    "SegformerFeatureExtractor",
    "SegformerImageProcessor",
    "TFSegformerDecodeHead",
    "TFSegformerForImageClassification",
    "TFSegformerForSemanticSegmentation",
    "TFSegformerModel",
]
