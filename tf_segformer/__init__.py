"""SegFormer in Keras 3: the public names, each imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_segformer.configuration import SegformerConfig as SegformerConfig
    from tf_segformer.deploy.saved_model import export_saved_model as export_saved_model
    from tf_segformer.evaluation import metrics as metrics
    from tf_segformer.imaging.processor import SegformerImageProcessor as SegformerImageProcessor
    from tf_segformer.inference.predictor import SegmentationPredictor as SegmentationPredictor
    from tf_segformer.modeling.decode_head import SegformerDecodeHead as SegformerDecodeHead
    from tf_segformer.modeling.models import SegformerForImageClassification as SegformerForImageClassification
    from tf_segformer.modeling.models import SegformerForSemanticSegmentation as SegformerForSemanticSegmentation
    from tf_segformer.modeling.models import SegformerModel as SegformerModel
    from tf_segformer.training import losses as losses
    from tf_segformer.training import optimization as optimization

__version__ = "0.1.0"

_LAZY_IMPORTS = {
    "SegformerConfig": "tf_segformer.configuration",
    "SegformerModel": "tf_segformer.modeling.models",
    "SegformerForImageClassification": "tf_segformer.modeling.models",
    "SegformerForSemanticSegmentation": "tf_segformer.modeling.models",
    "SegformerDecodeHead": "tf_segformer.modeling.decode_head",
    "SegformerImageProcessor": "tf_segformer.imaging.processor",
    "SegmentationPredictor": "tf_segformer.inference.predictor",
    "export_saved_model": "tf_segformer.deploy.saved_model",
    "losses": "tf_segformer.training.losses",
    "metrics": "tf_segformer.evaluation.metrics",
    "optimization": "tf_segformer.training.optimization",
}

__all__ = sorted(_LAZY_IMPORTS)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that `import tf_segformer` stays quick and silent."""
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'tf_segformer' has no attribute '{name}'")
    module = import_module(_LAZY_IMPORTS[name])
    value = module if _LAZY_IMPORTS[name].rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_IMPORTS})
