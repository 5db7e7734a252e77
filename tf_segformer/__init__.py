"""SegFormer in Keras 3: the public names, each imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_segformer import data as data
    from tf_segformer.batch.run import predict_dataset as predict_dataset
    from tf_segformer.configuration import SegformerConfig as SegformerConfig
    from tf_segformer.deploy.litert import export_litert as export_litert
    from tf_segformer.deploy.onnx.export import export_onnx as export_onnx
    from tf_segformer.deploy.openvino import export_openvino as export_openvino
    from tf_segformer.deploy.saved_model import export_saved_model as export_saved_model
    from tf_segformer.deploy.tf_serving.client import Client as Client
    from tf_segformer.deploy.web.export import export_web as export_web
    from tf_segformer.evaluation import metrics as metrics
    from tf_segformer.evaluation.evaluate import evaluate as evaluate
    from tf_segformer.imaging import visualize as visualize
    from tf_segformer.imaging.processor import SegformerImageProcessor as SegformerImageProcessor
    from tf_segformer.inference.predictor import SegmentationPredictor as SegmentationPredictor
    from tf_segformer.loading import describe_model as describe_model
    from tf_segformer.loading import load_model as load_model
    from tf_segformer.modeling.decode_head import SegformerDecodeHead as SegformerDecodeHead
    from tf_segformer.modeling.models import SegformerForImageClassification as SegformerForImageClassification
    from tf_segformer.modeling.models import SegformerForSemanticSegmentation as SegformerForSemanticSegmentation
    from tf_segformer.modeling.models import SegformerModel as SegformerModel
    from tf_segformer.training import losses as losses
    from tf_segformer.training import optimization as optimization
    from tf_segformer.training.trainer import train as train

__version__ = "0.1.0"

_MODULES = {
    "data": "tf_segformer.data",
    "losses": "tf_segformer.training.losses",
    "metrics": "tf_segformer.evaluation.metrics",
    "optimization": "tf_segformer.training.optimization",
    "visualize": "tf_segformer.imaging.visualize",
}
_OBJECTS = {
    "SegformerConfig": "tf_segformer.configuration",
    "SegformerModel": "tf_segformer.modeling.models",
    "SegformerForImageClassification": "tf_segformer.modeling.models",
    "SegformerForSemanticSegmentation": "tf_segformer.modeling.models",
    "SegformerDecodeHead": "tf_segformer.modeling.decode_head",
    "SegformerImageProcessor": "tf_segformer.imaging.processor",
    "SegmentationPredictor": "tf_segformer.inference.predictor",
    "evaluate": "tf_segformer.evaluation.evaluate",
    "predict_dataset": "tf_segformer.batch.run",
    "export_litert": "tf_segformer.deploy.litert",
    "export_onnx": "tf_segformer.deploy.onnx.export",
    "export_openvino": "tf_segformer.deploy.openvino",
    "export_saved_model": "tf_segformer.deploy.saved_model",
    "export_web": "tf_segformer.deploy.web.export",
    "load_model": "tf_segformer.loading",
    "describe_model": "tf_segformer.loading",
    "train": "tf_segformer.training.trainer",
    "Client": "tf_segformer.deploy.tf_serving.client",
}

__all__ = sorted({*_MODULES, *_OBJECTS})


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that `import tf_segformer` stays quick and silent."""
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _OBJECTS:
        value = getattr(import_module(_OBJECTS[name]), name)
    else:
        raise AttributeError(f"module 'tf_segformer' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
