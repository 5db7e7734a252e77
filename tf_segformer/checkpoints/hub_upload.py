"""Uploads a model to the Hugging Face Hub, with a model card that says what it is and how to use it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_segformer.configuration import SegformerConfig
from tf_segformer.errors import CheckpointError, short_message
from tf_segformer.hub import hub_errors, hub_failure

if TYPE_CHECKING:
    import keras

CARD_NAME = "README.md"
PIPELINE_TAGS = {
    "SegformerForSemanticSegmentation": "image-segmentation",
    "SegformerForImageClassification": "image-classification",
    "SegformerModel": "image-feature-extraction",
}

_CARD = """
# {title}

A SegFormer in the format of Hugging Face, written by [tf_segformer](https://pypi.org/project/tf-segformer/).

```python
from tf_segformer import {class_name}

model = {class_name}.from_pretrained("{repo_id}")
```

`transformers` loads it too: the names of the tensors and the fields of `config.json` are its own.

Architecture: stages of {depths} blocks and {hidden_sizes} channels, {num_labels} classes.
{classes}{results}"""


def push_to_hub(
    model: keras.Model,
    repo_id: str,
    *,
    processor: Any = None,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str = "Upload a SegFormer",
    license: str | None = None,
    dataset: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Uploads weights, configuration, the processor's configuration and a model card to the Hub, in one commit.

    Args:
        model: One of the SegFormer models.
        repo_id: "owner/name" of the repository, made where it is missing.
        processor: An image processor, whose preprocessor_config.json is uploaded with the model.
        token: Access token of the Hub; None and True take the stored one.
        private: Whether a new repository is private; None is the owner's default.
        commit_message: First line of the commit.
        license: Identifier of the weights' licence, such as "apache-2.0". Weights that were fine-tuned from
            NVIDIA's are under NVIDIA's non-commercial licence: "other".
        dataset: Name of the dataset that the metrics were measured on.
        metrics: Metric -> value for the card, such as {"mean_iou": 0.764}; needs `dataset`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: For metrics without a dataset.
        CheckpointError: Where the Hub rejects the upload or cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_url

    from tf_segformer.checkpoints.saving import save_pretrained

    card = model_card(model.config, type(model).__name__, repo_id, license=license, dataset=dataset, metrics=metrics)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        if processor is not None:
            processor.save_pretrained(folder)
        Path(folder, CARD_NAME).write_text(card, encoding="utf-8")
        try:
            failure = hub_failure(hf_hub_url(repo_id, CARD_NAME))
            if failure is not None:
                raise failure
            hub = HfApi(token=token)
            hub.create_repo(repo_id, private=private, exist_ok=True)
            commit = hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
        except hub_errors() as error:
            raise CheckpointError(f"{repo_id}: the Hub did not take the upload: {short_message(error)}") from error
    return commit.commit_url


def model_card(
    config: SegformerConfig,
    class_name: str,
    repo_id: str,
    *,
    license: str | None = None,
    dataset: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """The README.md of a model on the Hub, with the fields that the Hub reads at its top.

    Args:
        config: The model's configuration.
        class_name: Name of the model's class.
        repo_id: "owner/name" of the repository.
        license: Identifier of the weights' licence.
        dataset: Name of the dataset of the metrics.
        metrics: Metric -> value.

    Returns:
        Markdown that begins with a YAML header.

    Raises:
        ValueError: For metrics without a dataset.

    Example:
        >>> "license: mit" in model_card(SegformerConfig(), "SegformerModel", "me/tiny", license="mit")
        True
    """
    from huggingface_hub import EvalResult, ModelCardData

    if metrics and not dataset:
        raise ValueError(f"metrics={dict(metrics)!r} need dataset=, the dataset they were measured on")
    title = repo_id.rpartition("/")[2]
    results = [
        EvalResult(
            task_type=PIPELINE_TAGS[class_name],
            dataset_type=str(dataset).lower().replace(" ", "-"),
            dataset_name=str(dataset),
            metric_type=name,
            metric_value=value,
        )
        for name, value in (metrics or {}).items()
    ]
    header = ModelCardData(
        license=license,
        library_name="keras",
        pipeline_tag=PIPELINE_TAGS[class_name],
        tags=["segformer", "tf-segformer", "vision"],
        datasets=[dataset] if dataset else None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    lines = "".join(f"| {name} | {value} |\n" for name, value in (metrics or {}).items())
    body = _CARD.format(
        title=title,
        class_name=class_name,
        repo_id=repo_id,
        depths=", ".join(map(str, config.depths)),
        hidden_sizes=", ".join(map(str, config.hidden_sizes)),
        num_labels=config.num_labels,
        classes=f"\nClasses: {', '.join((config.id2label or {}).values())}.\n",
        results=f"\n| Metric ({dataset}) | Value |\n|---|---|\n{lines}" if lines else "",
    )
    return f"---\n{header.to_yaml()}\n---\n{body}"
