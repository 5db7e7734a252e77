import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.deploy.conftest import LABELS, Exported, signatures
from tests.deploy.images import BROKEN, JPEG, PNG, encoded_image, read_png
from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
    export_saved_model,
)
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.labels import palette_for

LOGITS = {"rtol": 0, "atol": 2e-5}
IMAGES = [
    encoded_image(0, 120, 100),
    encoded_image(1, 45, 61, "PNG"),
    encoded_image(2, 64, 64, mode="L", quality=60),
    encoded_image(3, 300, 20, "PNG", mode="RGBA"),
    encoded_image(4, 1, 1, "PNG"),
]


def check_segmentation(exported: Exported, images: list[bytes]) -> None:
    """Every signature against the Python path: class maps on every pixel, logits within 2e-5."""
    loaded = signatures(exported.version)
    num_labels = exported.model.config.num_labels
    class_maps = [exported.class_map(one) for one in images]
    logits = [exported.logits(one) for one in images]
    assert len({len(np.unique(one)) for one in class_maps}) > 1 or class_maps[0].max() > 0, "the check would be empty"

    for name in ("serving_default", "serving_strict"):
        answer = loaded[name](image_bytes=tf.constant(images))
        assert answer["status"].numpy().tolist() == [b"OK"] * len(images)
        for encoded, expected in zip(answer["class_map_bytes"].numpy(), class_maps, strict=True):
            np.testing.assert_array_equal(read_png(encoded), expected)
        fractions = [np.bincount(one.ravel(), minlength=num_labels) / one.size for one in class_maps]
        np.testing.assert_allclose(answer["class_fractions"], fractions, rtol=0, atol=1e-6)

    raw = loaded["logits"](image_bytes=tf.constant(images))
    np.testing.assert_allclose(raw["logits"], logits, **LOGITS)
    assert raw["sizes"].numpy().tolist() == [list(one.shape) for one in class_maps]
    decoded = np.stack([np.asarray(open_image(one)) for one in images[:1] * 2])
    answer = loaded["class_map"](images=tf.constant(decoded))["class_map"]
    assert answer.dtype == tf.int32
    np.testing.assert_array_equal(answer, [class_maps[0]] * 2)
    check_tensor(exported, loaded["tensor"], (1, 97, 66, 3))


def check_tensor(exported: Exported, signature, shape) -> None:
    pixel_values = np.random.default_rng(0).standard_normal(shape).astype("float32")
    answer = signature(pixel_values=tf.constant(pixel_values))["logits"]
    np.testing.assert_allclose(answer, exported.model(pixel_values), **LOGITS)


def check_classification(exported: Exported, images: list[bytes]) -> None:
    loaded = signatures(exported.version)
    logits = np.stack([exported.logits(one) for one in images])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    order = np.argsort(-probabilities, axis=-1)[:, :5]
    for name in ("serving_default", "classify", "serving_strict"):
        answer = loaded[name](image_bytes=tf.constant(images))
        np.testing.assert_array_equal(answer["indices"], order)
        np.testing.assert_allclose(
            answer["probabilities"], np.take_along_axis(probabilities, order, axis=-1), rtol=0, atol=1e-5
        )
        names = [[exported.model.config.id2label[index] for index in row] for row in order]
        assert [[one.decode() for one in row] for row in answer["labels"].numpy()] == names
    np.testing.assert_allclose(loaded["logits"](image_bytes=tf.constant(images))["logits"], logits, **LOGITS)
    check_tensor(exported, loaded["tensor"], (2, 97, 66, 3))


def test_segmentation_signatures_equal_the_python_path(exported):
    check_segmentation(exported(), IMAGES)


def test_classification_signatures_equal_the_python_path(exported):
    check_classification(exported("classification"), IMAGES)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_does_not_disturb_its_neighbours(exported, name):
    broken, reason = BROKEN[name]
    served = signatures(exported().version)["serving_default"]
    answer = served(image_bytes=tf.constant([JPEG, broken, PNG]))
    good, rejected, also_good = (one.decode() for one in answer["status"].numpy())
    assert (good, also_good) == ("OK", "OK")
    assert rejected.startswith("INVALID_ARGUMENT: ") and reason in rejected
    for index, encoded in ((0, JPEG), (2, PNG)):
        class_map = read_png(answer["class_map_bytes"].numpy()[index])
        np.testing.assert_array_equal(class_map, exported().class_map(encoded))
    assert answer["class_map_bytes"].numpy()[1] == b""
    assert not np.any(answer["class_fractions"][1])


@pytest.mark.slow
def test_a_batch_of_broken_images_only_and_one_of_none(exported):
    for task in ("segmentation", "classification"):
        loaded = signatures(exported(task).version)
        for signature in ("serving_default", "logits"):
            answer = loaded[signature](image_bytes=tf.constant([b"x", b""]))
            assert all(one.startswith(b"INVALID_ARGUMENT") for one in answer["status"].numpy())
            assert loaded[signature](image_bytes=tf.zeros([0], tf.string))["status"].shape == (0,)


def test_strict_fails_with_the_reason(exported):
    strict = signatures(exported().version)["serving_strict"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="neither a JPEG nor a PNG"):
        strict(image_bytes=tf.constant([JPEG, b"text"]))


def test_a_classifier_names_no_class_of_a_broken_image(exported):
    served = signatures(exported("classification").version)["serving_default"]
    answer = served(image_bytes=tf.constant([JPEG, b"text"]))
    assert set(answer["labels"].numpy()[1]) == {b""}
    assert not np.any(answer["probabilities"][1]) and np.all(answer["indices"][1] == -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "variant", "check"),
    [
        (SegformerForSemanticSegmentation, "b0", check_segmentation),
        (SegformerForImageClassification, "b0", check_classification),
        (SegformerForSemanticSegmentation, "b2", check_segmentation),
    ],
)
def test_published_variants_equal_the_python_path(model_class, variant, check, tmp_path):
    config = SegformerConfig.from_variant(variant, num_labels=19, initializer_range=0.05)
    model, processor = model_class(config), SegformerImageProcessor(size=128)
    version = export_saved_model(model, tmp_path, processor)
    check(Exported(model, processor, version), IMAGES[:2])
    if variant == "b0":
        size = sum(each.stat().st_size for each in version.rglob("*") if each.is_file())
        assert size < 17e6


def graph_of(version):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved_model = SavedModel()
    saved_model.ParseFromString((version / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0].graph_def


def test_weights_are_stored_once(exported):
    model, _, version = exported()
    shapes = dict(tf.train.list_variables(str(version / "variables" / "variables")))
    stored = sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    config = model.config
    folded_head = (sum(config.hidden_sizes) + 1) * config.decoder_hidden_size
    classifier = (config.decoder_hidden_size + 1) * config.num_labels
    assert stored == model.segformer.count_params() + folded_head + classifier
    constants = [
        node.attr["value"].ByteSize()
        for function in graph_of(version).library.function
        for node in function.node_def
        if node.op == "Const"
    ]
    assert max(constants) < 5000  # no weight hides in the graph


def test_no_python_and_no_custom_operations(exported):
    known = set(dir(tf.raw_ops))
    for task in ("segmentation", "classification"):
        graph = graph_of(exported(task).version)
        used = {node.op for each in graph.library.function for node in each.node_def} | {n.op for n in graph.node}
        functions = {each.signature.name for each in graph.library.function}
        assert not {"PyFunc", "PyFuncStateless", "EagerPyFunc"} & used
        assert used - functions <= known | {"_Arg", "_Retval"}


@pytest.mark.slow
def test_it_loads_where_this_package_is_not(exported, tmp_path):
    (tmp_path / "image.jpg").write_bytes(IMAGES[0])
    code = (
        "import sys; sys.modules['tf_segformer'] = None\n"
        "import tensorflow as tf\n"
        f"served = tf.saved_model.load({str(exported().version)!r}).signatures['serving_default']\n"
        f"answer = served(image_bytes=[tf.io.read_file({str(tmp_path / 'image.jpg')!r})])\n"
        f"tf.io.write_file({str(tmp_path / 'map.png')!r}, answer['class_map_bytes'][0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(read_png((tmp_path / "map.png").read_bytes()), exported().class_map(IMAGES[0]))


@pytest.fixture
def tiny_export(tmp_path):
    """Exports of one tiny model, written for a device; of one channel, so that it has few signatures to trace."""
    config = SegformerConfig(num_labels=3, num_channels=1, depths=(1, 1, 1, 1), initializer_range=0.1)
    model = SegformerForSemanticSegmentation(config)
    return lambda device: export_saved_model(model, tmp_path / str(device), device=device)


def test_labels_and_colors_travel_along(exported):
    version = exported().version
    entries = json.loads((version / "assets" / "labels.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in entries] == list(LABELS.values())
    answer = signatures(version)["serving_default"](image_bytes=tf.constant(IMAGES[:2]))
    assert [one.decode() for one in answer["labels"].numpy()[1]] == list(LABELS.values())
    np.testing.assert_array_equal(answer["colors"][1], palette_for(list(LABELS.values())))
    assert [each["color"] for each in entries] == answer["colors"][0].numpy().tolist()


@pytest.mark.slow
def test_colors_of_the_checkpoint_travel_along(small_config, tmp_path):
    colors = [[9, 8, 7], [255, 0, 1], [2, 3, 4], [5, 6, 7], [0, 0, 0]]
    small_config.extra["palette"] = colors
    with pytest.warns(UserWarning, match="no processor is given: images are resized to 512x512.*pass `processor`"):
        version = export_saved_model(SegformerForSemanticSegmentation(small_config), tmp_path)
    entries = json.loads((version / "assets" / "labels.json").read_text(encoding="utf-8"))
    assert [each["color"] for each in entries] == colors
    answer = signatures(version)["serving_default"](image_bytes=tf.constant(IMAGES[:1]))
    np.testing.assert_array_equal(answer["colors"][0], colors)


@pytest.mark.parametrize("device", [None, "GPU", pytest.param("CPU", marks=pytest.mark.slow)])
def test_the_export_says_for_which_device_it_was_written(tiny_export, device):
    version = tiny_export(device)
    written = json.loads((version / "assets" / "export.json").read_text(encoding="utf-8"))
    assert written == {"device": device or ("GPU" if tf.config.list_logical_devices("GPU") else "CPU")}


@pytest.mark.slow
def test_graphs_of_both_devices_differ_in_form_and_agree_in_their_logits(tiny_export):
    pixel_values = tf.constant(np.random.default_rng(0).standard_normal((1, 64, 96, 1)).astype("float32"))
    networks = [signatures(tiny_export(device))["tensor"] for device in ("CPU", "GPU")]
    assert _kernels(networks[0].graph) != _kernels(networks[1].graph)
    on_cpu, on_gpu = (one(pixel_values=pixel_values)["logits"].numpy() for one in networks)
    np.testing.assert_allclose(on_cpu, on_gpu, **LOGITS)


def test_an_unknown_device_is_rejected_before_anything_is_written(tiny_export, tmp_path):
    with pytest.raises(ValueError, match="TPU"):
        tiny_export("TPU")
    assert not list(tmp_path.iterdir())


def _kernels(graph) -> list[str]:
    """Names of all operations of a graph and of the functions that it calls."""
    definition = graph.as_graph_def()
    functions = definition.library.function
    return sorted(node.op for part in (definition.node, *(each.node_def for each in functions)) for node in part)


@pytest.mark.slow
def test_tfsmlayer_runs_and_trains_the_tensor_signature(exported):
    model, _, version = exported()
    layer = keras.layers.TFSMLayer(str(version), call_endpoint="tensor")
    pixel_values = np.random.default_rng(0).standard_normal((2, 65, 97, 3)).astype("float32")
    np.testing.assert_allclose(layer(pixel_values)["logits"], model(pixel_values), **LOGITS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(layer(pixel_values)["logits"] ** 2)
    gradients = tape.gradient(loss, layer.trainable_weights)
    assert gradients and all(np.abs(each).max() > 0 or "key" in each.name for each in gradients if each is not None)
    assert all(each is not None for each in gradients)


@pytest.mark.slow
def test_half_precision_weights_halve_the_size(small_config, tmp_path):
    model = SegformerForSemanticSegmentation(small_config.replace(num_channels=1))
    sizes = {}
    for version, dtype in enumerate(("float32", "float16", "bfloat16"), 1):
        folder = export_saved_model(model, tmp_path, version=version, weights_dtype=dtype)
        shapes = tf.train.list_variables(str(folder / "variables" / "variables"))
        assert len(shapes) > 100
        sizes[dtype] = next(folder.glob("variables/*.data*")).stat().st_size
    assert sizes["float16"] == sizes["bfloat16"] < 0.55 * sizes["float32"]


@pytest.mark.slow
def test_a_model_of_other_channels_has_the_tensor_signature_only(small_config, tmp_path):
    model = SegformerForSemanticSegmentation(small_config.replace(num_channels=5, initializer_range=0.2))
    loaded = signatures(export_saved_model(model, tmp_path, version=7))
    assert set(loaded) == {"tensor", "serving_default"}
    check_tensor(Exported(model, None, tmp_path / "7"), loaded["serving_default"], (1, 65, 97, 5))


def test_an_existing_version_is_kept(exported):
    model, processor, version = exported()
    before = (version / "saved_model.pb").read_bytes()
    with pytest.raises(FileExistsError, match="choose another version"):
        export_saved_model(model, version.parent, processor)
    assert (version / "saved_model.pb").read_bytes() == before
    assert [each.name for each in version.parent.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 0}, "version must be"),
        ({"max_pixels": 0.5}, "max_pixels must be"),
        ({"weights_dtype": "int4"}, "choose one of float32"),
        ({"processor": SegformerImageProcessor(do_resize=False)}, "do_resize"),
        ({"processor": SegformerImageProcessor(apply_exif_orientation=True)}, "apply_exif_orientation"),
    ],
)
def test_what_cannot_be_exported_is_rejected_before_anything_is_written(small_config, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(SegformerForSemanticSegmentation(small_config), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_encoder_alone_is_rejected(small_config, tmp_path):
    with pytest.raises(ValueError, match="SegformerModel cannot be exported"):
        export_saved_model(SegformerModel(small_config), tmp_path)
