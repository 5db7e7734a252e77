"""What the models share: how they are called, loaded and saved, and the files of the programs that call them."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_segformer.checkpoints.formats.hdf5.reader import read_datasets
from tf_segformer.checkpoints.formats.hdf5.source import Source
from tf_segformer.checkpoints.loading import load_any_weights, open_checkpoint
from tf_segformer.checkpoints.mapping import MappedCheckpoint, model_variables
from tf_segformer.checkpoints.names import source_names
from tf_segformer.configuration import SegformerConfig as NativeConfig
from tf_segformer.hub import HubOptions
from tf_segformer.io import atomic_write
from tf_segformer.modeling.inputs import check_pixel_values
from tf_segformer.modeling.pretrained import PretrainedMixin
from tf_segformer.modeling.quantization import layer_filter, quantize_again, quantized_layers
from tf_segformer.ops.tracing import export_mode
from tf_segformer.transformers.processing import SegformerConfig

_CALL_OPTIONS = ("output_attentions", "output_hidden_states", "return_dict")
_IGNORED = ("from_pt", "from_tf", "use_safetensors", "force_download", "resume_download", "proxies")
SIGNATURE = "serving_default"

# The order in which Keras 2 has the weights of the port, whose `load_weights` goes by it.
_LAYERS = ("patch_embeddings", "block", "layer_norm", "linear_c", "linear_fuse", "batch_norm", "classifier")
_SUBLAYERS = (
    ".proj",
    ".layer_norm_1",
    ".query",
    ".key",
    ".value",
    ".sr",
    ".self.layer_norm",
    ".output",
    ".layer_norm_2",
    ".dense1",
    ".dwconv",
    ".dense2",
)


class PretrainedModel(PretrainedMixin, keras.Model):
    """What the models share: how they are called, loaded and saved."""

    config_class = SegformerConfig
    base_model_prefix = "segformer"
    main_input_name = "pixel_values"

    def __init__(
        self, config: NativeConfig, *, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = SegformerConfig.of(config)

    def __call__(self, pixel_values: Any = None, *args: Any, **options: Any) -> Any:
        """Runs the model on (B, C, H, W), given by position, by keyword or in a dictionary."""
        if isinstance(pixel_values, Mapping):
            options = {**pixel_values, **options}
            pixel_values = options.pop("pixel_values", None)
        known = list(inspect.signature(self.call).parameters)
        if surplus := [name for name in options if name not in known]:
            warnings.warn(f"{type(self).__name__} takes {', '.join(known)}: ignores {surplus}", stacklevel=2)
            options = {name: options[name] for name in options if name in known}
        if isinstance(pixel_values, (list, tuple)):
            pixel_values = ops.convert_to_tensor(pixel_values)
        check_pixel_values(pixel_values, self.config.num_channels, channels_first=True)
        return super().__call__(pixel_values, *args, **options)

    def build(self, input_shape: Any = None) -> None:
        """Checks a shape (B, C, H, W); the weights are there since the model was made.

        Raises:
            ValueError: For another number of channels than the configuration's.
        """
        if input_shape is not None and not isinstance(input_shape, Mapping):
            check_pixel_values(keras.KerasTensor(tuple(input_shape)), self.config.num_channels, channels_first=True)

    def build_for_images(self) -> None:
        """Has Keras know the shape of images, for exports of a model that was never called; its parts are built."""
        self.build((None, self.config.num_channels, None, None))

    @property
    def dummy_inputs(self) -> dict[str, Any]:
        """One image of zeros."""
        return {"pixel_values": ops.zeros((1, self.config.num_channels, 64, 64))}

    def num_parameters(self, only_trainable: bool = False) -> int:
        """The number of parameters, those of frozen layers and the statistics of batch norms among them.

        Args:
            only_trainable: Whether to count what training changes alone.

        Returns:
            Their number.
        """
        return sum(math.prod(each.shape) for each in (self.trainable_weights if only_trainable else self.weights))

    # === Checkpoints ===

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: NativeConfig | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """Builds the model of a checkpoint and fills in its weights.

        Args:
            name_or_path: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
            config: The configuration, where it shall not be read.
            output_loading_info: Whether to give a dictionary as well: the weights that are missing, unexpected and
                mismatched, as lists of names.
            **options: `num_labels`, `id2label`, `label2id` and other fields of the configuration,
                `output_hidden_states`, `output_attentions` and `return_dict`, `ignore_mismatched_sizes`, `revision`,
                `token`, `cache_dir` and `local_files_only`. `from_pt` and its like change nothing, since the format is
                detected, nor do `force_download`, `resume_download` and `proxies`.

        Returns:
            The model with the checkpoint's weights; with `output_loading_info`, the model and that dictionary.

        Raises:
            CheckpointError: Listing every tensor that is missing, unexpected or misshapen, or saying why the
                checkpoint cannot be found or read.

        Example:
            >>> from tf_segformer.transformers import TFSegformerForSemanticSegmentation
            >>> model = TFSegformerForSemanticSegmentation.from_pretrained("camvid-b0")
            >>> tuple(model(keras.ops.ones((1, 3, 64, 96))).logits.shape)
            (1, 11, 16, 24)
        """
        for name in _IGNORED:
            options.pop(name, None)
        flags = {name: options.pop(name) for name in _CALL_OPTIONS if name in options}
        heads = options.get("num_attention_heads")
        opened = open_checkpoint(name_or_path, HubOptions.pop_from(options), config=config, num_attention_heads=heads)
        model = super().from_pretrained(opened, **options)  # type: ignore[arg-type]
        model.config.extra.update(flags)
        return (model, _loading_info(model, opened.mapped)) if output_loading_info else model

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, by_name: bool = True, **options: Any) -> None:
        """Fills the model with the weights of a file.

        Args:
            filepath: What `save_weights` wrote, or the weights of any checkpoint that `from_pretrained` reads: those
                of transformers and Keras 2 among them, in h5 and in TensorFlow's format.
            skip_mismatch: Whether a head of another size stays as it is, which a warning says.
            by_name: Accepted as in Keras 2; the names decide in either case.
            **options: Arguments of Keras' `load_weights`, for what Keras 3 wrote.

        Raises:
            CheckpointError: For a file that cannot be read, or does not fit; the model is then unchanged.
        """
        if _is_keras_weights(filepath):
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **options)
        else:
            load_any_weights(self, filepath, ignore_mismatched_sizes=skip_mismatch)

    def save_weights(self, filepath: Any, overwrite: bool = True, **options: Any) -> None:
        """Writes the weights.

        Args:
            filepath: "x.weights.h5" or "x.weights.json" as Keras 3 writes them; "x.h5" as transformers 4 wrote
                tf_model.h5.
            overwrite: Whether a file that exists is replaced without a question.
            **options: Further arguments of Keras' `save_weights`.
        """
        if _is_keras_2_name(filepath):
            _write_tf_model(self, filepath, overwrite)
        else:
            super().save_weights(filepath, overwrite=overwrite, **options)

    def save_pretrained(
        self, folder: str | Path, saved_model: bool = False, version: int = 1, safe_serialization: bool = True
    ) -> None:
        """Writes config.json and the weights, which PyTorch and `from_pretrained` load.

        Args:
            folder: The folder to write to; made where it is missing.
            saved_model: Whether to write a SavedModel to saved_model/`version` as well.
            version: Its number.
            safe_serialization: Whether the weights are written as model.safetensors; else as tf_model.h5.
        """
        if safe_serialization:
            super().save_pretrained(folder)
        else:
            self.config.save_pretrained(folder)
            _write_tf_model(self, Path(folder) / "tf_model.h5")
        if saved_model:
            _write_saved_model(self, Path(folder) / "saved_model" / str(version))

    def save(self, filepath: Any, overwrite: bool = True, **options: Any) -> None:
        """Writes the whole model: "x.keras" and "x.h5" as Keras 3 does, a folder as a SavedModel."""
        if str(filepath).endswith((".keras", ".h5")):
            super().save(filepath, overwrite=overwrite, **options)
        else:
            _write_saved_model(self, filepath)

    @property
    def _default_save_signature(self) -> Any:
        """What `tf.saved_model.save` takes for the signature."""
        return _serving_function(self)

    def export(self, filepath: Any, format: str = "tf_saved_model", **options: Any) -> None:
        """Exports the inference pass by Keras' own exporters; see `keras.Model.export`.

        Args:
            filepath: Where to write.
            format: "tf_saved_model", "onnx", "litert" or another that Keras knows.
            **options: Further arguments of Keras' `export`.
        """
        shape = (None, self.config.num_channels, None, None)
        signature = [keras.layers.InputSpec(shape=shape, dtype="float32", name="pixel_values")]
        with contextlib.nullcontext() if format == "tf_saved_model" else export_mode():
            super().export(filepath, format, **{"input_signature": signature, **options})

    def quantize(self, mode: str | None = None, config: Any = None, filters: Any = None, **options: Any) -> None:
        """Quantizes the dense layers, in place, as the package's own models do: all but the classifier.

        Args:
            mode: "int8", "int4" or "float8".
            config: A `keras.quantizers.QuantizationConfig` instead.
            filters: Which dense layers, as for every Keras model.
            **options: Further options of Keras.
        """
        super().quantize(mode, config=config, filters=layer_filter(self, filters), **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON, and which layers are quantized where some are."""
        quantization = quantized_layers(self)
        return {
            **({"quantization": quantization} if quantization else {}),
            "config": self.config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """Builds the model that `get_config` described."""
        arguments = dict(config)
        quantization = arguments.pop("quantization", {})
        model = cls(SegformerConfig.from_dict(arguments.pop("config")), **arguments)
        quantize_again(model, quantization)
        return model


def _is_keras_weights(path: str | os.PathLike) -> bool:
    """Whether a file holds the weights of a model of this module, as Keras 3 writes them."""
    if str(path).endswith(".weights.json"):
        return True
    if not str(path).endswith(".weights.h5") or not Path(path).is_file():
        return False
    try:
        names = read_datasets(Source(Path(path)), wanted=lambda name: "optimizer" not in name)
    except (OSError, ValueError):
        return False  # who reads checkpoints says what is wrong
    return any("encoder/layers/" in name for name in names)  # the port's encoder has no `layers`


def _loading_info(model: keras.Model, mapped: MappedCheckpoint) -> dict[str, list[Any]]:
    """What `output_loading_info` gives, under the names of transformers; nothing else is not as in the checkpoint."""
    found = mapped.shapes
    names: dict[str, str] = {}
    for name, variables in source_names("huggingface", model_variables(model)).items():
        names |= dict.fromkeys(variables, name)
    shapes = {name: tuple(variable.shape) for name, variable in model_variables(model).items()}
    unexpected = [source for name, source in mapped.sources.items() if name not in shapes]
    return {
        "missing_keys": [names[name] for name in shapes if name not in found],
        "unexpected_keys": [*unexpected, *mapped.unknown, *mapped.left_out],
        "mismatched_keys": [
            (names[name], found[name], shape) for name, shape in shapes.items() if found.get(name, shape) != shape
        ],
        "error_msgs": [],
    }


def _is_keras_2_name(path: str | os.PathLike) -> bool:
    """Whether Keras 2 took a path for an h5 file, and Keras 3 does not take it for weights."""
    return str(path).endswith((".h5", ".hdf5", ".keras")) and not str(path).endswith(".weights.h5")


def _write_tf_model(model: keras.Model, path: str | os.PathLike, overwrite: bool = True) -> None:
    """Writes the weights as Keras 2 did for the port, which is the form of tf_model.h5.

    Args:
        model: A model of this module.
        path: The file.
        overwrite: Whether a file that exists is replaced.

    Raises:
        FileExistsError: Where it is there and shall not be replaced.
    """
    import h5py

    if not overwrite and Path(path).exists():
        raise FileExistsError(f"{path} exists: pass overwrite=True to replace it")
    layers: dict[str, dict[str, Any]] = {layer.name: {} for layer in model.layers}
    named = {name: variables[0] for name, variables in source_names("huggingface-tf", model_variables(model)).items()}
    for name in sorted(named, key=lambda name: _place(name, named[name])):
        module, leaf = name.rpartition(".")[0], named[name].rpartition("/")[2]
        place = module if module.split(".")[0] in layers else f"segformer.{module}"
        path_in_model = re.sub(r"\.(?!\d)", "/", place)  # "block.0.0" is the name of one layer
        layers[place.split(".")[0]][f"{model.name}/{path_in_model}/{leaf}:0"] = model_variables(model)[named[name]]
    with atomic_write(path, fsync=True) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(backend="tensorflow", keras_version="2.15.0", layer_names=list(layers))
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = list(variables)
            for name, variable in variables.items():
                group.create_dataset(name, data=keras.ops.convert_to_numpy(variable.value))
        file.create_group("top_level_model_weights").attrs["weight_names"] = []


def _place(name: str, variable: str) -> tuple[Any, ...]:
    """What sorts the names of weights as Keras 2 has them: the statistics of a batch norm come last."""
    layer = next(index for index, each in enumerate(_LAYERS) if re.search(rf"(^|\.){each}\.", name))
    sublayer = next((index for index, each in enumerate(_SUBLAYERS) if f"{each}." in name), len(_SUBLAYERS))
    return "/moving_" in variable, layer, [int(number) for number in re.findall(r"\.(\d+)", name)[:-1]], sublayer, name


def _serving_function(model: keras.Model) -> Any:
    """The inference pass as a function of `pixel_values` that gives a dictionary of the first output."""

    def serving_default(pixel_values: tf.Tensor) -> dict[str, tf.Tensor]:
        output = model(pixel_values, output_hidden_states=False, output_attentions=False, return_dict=True)
        name = next(iter(output))
        return {name: output[name]}

    images = tf.TensorSpec((None, model.config.num_channels, None, None), tf.float32, name="pixel_values")
    return tf.function(serving_default, input_signature=[images], autograph=False)


def _write_saved_model(model: keras.Model, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with the signature `serving_default`."""
    tf.saved_model.save(model, str(folder), signatures={SIGNATURE: _serving_function(model)})
