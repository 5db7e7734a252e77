"""The ways of a model to and from checkpoints, which users look for in the model: from_pretrained and its like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_segformer.modeling.lora import ATTENTION, enable_lora
from tf_segformer.ops.initialization import skip_initialization


class PretrainedMixin:
    """Methods that load, save and upload a model.

    The package `checkpoints` knows the models, not the other way round: its functions are imported when a method is
    called.
    """

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Any:
        """Builds the model of a checkpoint and fills in its weights.

        Args:
            name_or_path: A folder, a checkpoint file, the name of an embedded model ("camvid-b0") or a Hub id
                "owner/name".
            **options: `num_labels`, `id2label` and other fields of the configuration to change; with
                `ignore_mismatched_sizes=True` a head of another size is reinitialized and a first kernel of other
                `num_channels` spread over them (`new_channels="zero"`: 0 for further ones, "random": reinitialized),
                which a warning says; `revision`, `token`, `cache_dir` and `local_files_only` for the Hub; the
                constructor's `output_hidden_states`, `output_attentions`, `dtype`, `name` and `rematerialize`.

        Returns:
            The model with the checkpoint's weights.

        Raises:
            CheckpointError: Listing every tensor that is missing, unexpected or misshapen, or saying why the
                checkpoint cannot be found or read. Nothing is loaded in part.

        Example:
            >>> from tf_segformer import SegformerForSemanticSegmentation
            >>> model = SegformerForSemanticSegmentation.from_pretrained("camvid-b0")
            >>> model.config.num_labels
            11
        """
        from tf_segformer.checkpoints.loading import load_pretrained

        def build(*arguments: Any, **options: Any) -> Any:
            with skip_initialization():  # the checkpoint's weights follow
                return cls(*arguments, **options)

        return load_pretrained(build, name_or_path, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors under Hugging Face's names: PyTorch loads them back.

        Args:
            folder: The folder to write to; made where it is missing. A run that is killed leaves what was there.
        """
        from tf_segformer.checkpoints.saving import save_pretrained

        save_pretrained(self, folder)

    def enable_lora(
        self,
        rank: int,
        layers: Sequence[str] = ATTENTION,
        alpha: float | None = None,
        also_train: Sequence[str] = ("classifier",),
    ) -> None:
        """Adds low-rank adapters to dense layers and freezes all else, before `compile`.

        `save_pretrained` and `save` merge them into the kernels, `save_lora` keeps them alone.

        Args:
            rank: Rank of the adapters, such as 8.
            layers: Regular expressions for the places of the layers, such as "block_3_0/attention/query"; by default
                all four of every attention.
            alpha: The adapters are multiplied by `alpha / rank`; by default 1.
            also_train: Regular expressions for the places of layers that are trained as a whole; the classifier by
                default.

        Raises:
            ValueError: Where no dense layer matches, and after the first training step.

        Example:
            >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
            >>> model = SegformerForSemanticSegmentation(SegformerConfig.from_variant("b0", num_labels=11))
            >>> model.enable_lora(8)
            >>> sum(int(variable.value.shape.num_elements()) for variable in model.trainable_variables)
            68363
        """
        enable_lora(self, rank, layers, alpha, also_train)

    def save_lora(self, folder: str | Path, base_model: str | None = None) -> None:
        """Writes the adapters and what else was trained, without the pretrained weights, as PEFT does.

        Args:
            folder: The folder to write to; made where it is missing.
            base_model: What they belong to, such as a Hub id: noted in adapter_config.json.

        Raises:
            CheckpointError: For a model without adapters, or a folder that cannot be written.
        """
        from tf_segformer.checkpoints.adapters import save_lora

        save_lora(self, folder, base_model)

    def load_lora(self, folder: str | Path) -> None:
        """Adds the adapters of a folder to the model that they were trained on, ready to predict or to train on.

        Args:
            folder: What `save_lora` or PEFT wrote.

        Raises:
            CheckpointError: Where they do not fit; the model is then unchanged.
        """
        from tf_segformer.checkpoints.adapters import load_lora

        load_lora(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads weights, configuration and a model card to the Hugging Face Hub.

        Args:
            repo_id: "owner/name" of the repository, made where it is missing.
            **options: `processor`, `token`, `private`, `commit_message` and the fields of the model card.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: Where the Hub rejects or cannot be reached.
        """
        from tf_segformer.checkpoints.hub_upload import push_to_hub

        return push_to_hub(self, repo_id, **options)
