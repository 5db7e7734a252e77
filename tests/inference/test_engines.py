"""Every engine gives Keras' results in every mode, fails with the same errors, and opens what `export` wrote alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from tests.modeling.test_models import TWO_STAGES
from tf_segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
    evaluate,
    export_litert,
    export_onnx,
    export_openvino,
    export_saved_model,
)
from tf_segformer.data import find_dataset
from tf_segformer.errors import CheckpointError, ImageError
from tf_segformer.inference import engines
from tf_segformer.inference.classifier import classify
from tf_segformer.inference.engines import Engine, open_engine

LABELS = {0: "sky", 1: "road", 2: "tree"}
CONFIG = TWO_STAGES.replace(
    id2label=LABELS, initializer_range=0.3, extra={"palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
)
PROCESSOR = SegformerImageProcessor(size={"height": 32, "width": 48})
# Form -> the module that it needs, how it is exported, the engine that runs it.
FORMS = {
    "keras": ("keras", None, "auto"),
    "saved_model": ("tensorflow", export_saved_model, "tensorflow"),
    "onnxruntime": ("onnxruntime", export_onnx, "onnxruntime"),
    "openvino-onnx": ("openvino", export_onnx, "openvino"),
    "openvino": ("openvino", export_openvino, "openvino"),
    "litert": ("ai_edge_litert", lambda *given: export_litert(*given, size=None), "litert"),
}
SLOW = ("litert",)
ATOL = 2e-5  # of logits of a few units: engines add in another order


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return SegformerForSemanticSegmentation(CONFIG)


@pytest.fixture(scope="module")
def expected_of(model):
    """What the Keras model gives; computed once for all engines."""
    engine, found = open_engine(model), {}

    def expected(images, **options):
        key = str(options)
        if key not in found:
            found[key] = list(SegmentationPredictor(engine, PROCESSOR, return_confidence=True, **options)(images))
        return found[key]

    return expected


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FORMS]
)
def engine(request, model, tmp_path_factory):
    """The model in one engine."""
    module, export, name = FORMS[request.param]
    pytest.importorskip(module)
    if export is None:
        return open_engine(model)
    folder = tmp_path_factory.mktemp(request.param)
    export(model, folder, PROCESSOR)
    return open_engine(folder, name)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def pixel_values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((*shape, 3)).astype("float32")


@pytest.mark.parametrize("shape", [(1, 32, 48), (2, 32, 48), (1, 33, 70)], ids=str)
def test_logits_are_those_of_keras_at_any_size(engine, model, shape):
    x = pixel_values(*shape)
    logits = engine(x)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, model(x), atol=ATOL, rtol=0)


def test_logits_stay_as_they_are_while_somebody_holds_them(engine):
    images = [PROCESSOR(image(32, 48, seed))["pixel_values"] for seed in range(3)]
    expected = [engine(x).copy() for x in images]
    assert min(np.abs(expected[i] - expected[i - 1]).max() for i in range(3)) > 0.1, "each must be recognized"
    held = [engine(x) for x in images]
    first_rows = engine(images[0])[:, :2]  # a view of some is enough to hold them all
    engine(images[1])
    np.testing.assert_allclose(held, expected, atol=ATOL, rtol=0)
    np.testing.assert_allclose(first_rows, expected[0][:, :2], atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "resize", "batch_size": 2},
        {"mode": "whole", "flip": True},
        {"mode": "slide", "window": 32, "stride": 24, "batch_size": 3},
        {"mode": "multiscale", "scales": (0.5, 1.0)},
    ],
    ids=lambda options: options["mode"],
)
def test_every_mode_gives_the_classes_of_keras(engine, expected_of, options):
    images = [image(40, 64), image(40, 64, seed=1), image(72, 48)]
    given = None if engine.path else PROCESSOR  # an exported folder has it
    results = list(SegmentationPredictor(engine, given, return_confidence=True, **options)(images))
    for result, other in zip(results, expected_of(images, **options), strict=True):
        assert (result.class_map != other.class_map).mean() < 2e-3  # ties, which rounding decides
        np.testing.assert_allclose(result.confidence, other.confidence, atol=1e-4)
        assert result.labels == LABELS
        assert result.palette.tolist() == CONFIG.extra["palette"]


def test_many_images_at_once_give_the_results_of_one_after_the_other(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engines.sessions, "cores", lambda: 2)
    images = [image(40, 64), image(72, 48, seed=1), tmp_path / "missing.png", image(40, 64, seed=2), image(33, 70)]
    predictor = SegmentationPredictor(engine, PROCESSOR, return_confidence=True)
    at_once = predictor(images, on_error="skip")
    one_by_one = predictor(iter(images), on_error="skip")
    for result, other in zip(at_once, one_by_one, strict=True):
        assert result.index == other.index
        np.testing.assert_array_equal(result.class_map, other.class_map)
        # Engines that run on fewer cores add in another order
        np.testing.assert_allclose(result.confidence, other.confidence, atol=1e-5)
    assert [each.index for each in at_once.failures] == [2]
    results = predictor(images)
    assert [next(results).index, next(results).index] == [0, 1]
    with pytest.raises(ImageError, match=r"missing\.png"):
        next(results)


def test_only_lists_of_images_of_moderate_size_run_at_once(model, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines.sessions, "cores", lambda: 2)
    export_openvino(model, tmp_path, PROCESSOR)
    engine = open_engine(tmp_path)
    assert engine.for_many.session.at_once == 2
    large = SegformerImageProcessor(size={"height": 2048, "width": 1024})
    cases = [
        (SegmentationPredictor(engine), 2, True),
        (SegmentationPredictor(engine), 1, False),
        (SegmentationPredictor(engine), None, False),  # a generator may wait for results
        (SegmentationPredictor(engine, batch_size=2), 2, False),
        (SegmentationPredictor(engine, large), 2, False),
        (SegmentationPredictor(engine, mode="whole"), 2, False),
        (SegmentationPredictor(model, PROCESSOR), 2, False),
    ]
    assert [predictor._gains_by_threads(total) for predictor, total, _ in cases] == [expected for *_, expected in cases]


@pytest.mark.parametrize("form", [pytest.param(name, marks=pytest.mark.slow) for name in FORMS if name != "keras"])
def test_token_merging_is_that_of_keras(form, model, tmp_path):
    module, export, name = FORMS[form]
    pytest.importorskip(module)
    merging = SegformerForSemanticSegmentation(CONFIG.replace(token_merging=0.65))
    merging.set_weights(model.get_weights())
    export(merging, tmp_path, PROCESSOR)
    engine = open_engine(tmp_path, name)
    for shape in ((1, 32, 48), (2, 33, 70)):
        x = pixel_values(*shape)
        np.testing.assert_allclose(engine(x), merging(x), atol=ATOL, rtol=0)


def test_errors_are_the_same(engine, tmp_path):
    predictor = SegmentationPredictor(engine, PROCESSOR)
    (tmp_path / "broken.png").write_bytes(b"no image")
    results = predictor([tmp_path / "broken.png", image(40, 40)], on_error="skip")
    assert [result.index for result in results] == [1]
    assert results.failures[0].source == str(tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8, 5\), the model takes \(B, H, W, 3\)"):
        engine(np.zeros((1, 8, 8, 5), np.float32))
    with pytest.raises(ValueError, match="choose one of resize, whole"):
        SegmentationPredictor(engine, PROCESSOR, "tiles")
    with pytest.raises(ValueError, match="there are 2 labels for the 3 classes"):
        list(SegmentationPredictor(engine, PROCESSOR, labels={0: "a", 1: "b"})(image(40, 40)))


def test_an_engine_is_described(engine):
    assert (engine.device, engine.num_channels, engine.fixed_size) == ("CPU", 3, None)
    assert engine.task == "segmentation"
    assert engine.config.id2label == LABELS


@pytest.mark.parametrize("form", ["onnxruntime", "openvino"])
def test_a_classifier_is_classified_and_not_segmented(form, tmp_path):
    module, export, name = FORMS[form]
    pytest.importorskip(module)
    classifier = SegformerForImageClassification(CONFIG)
    export(classifier, tmp_path, PROCESSOR)
    engine = open_engine(tmp_path, name)
    assert engine.task == "classification"
    np.testing.assert_allclose(engine(pixel_values(2, 32, 48)), classifier(pixel_values(2, 32, 48)), atol=ATOL)
    (one,), (other,) = (list(classify(each, PROCESSOR, image(40, 40))) for each in (engine, classifier))
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    with pytest.raises(ValueError, match="not logits"):
        list(SegmentationPredictor(engine)(image(40, 40)))


def test_files_of_hugging_face_s_layout_are_run(model, tmp_path):
    pytest.importorskip("onnxruntime")
    path = export_onnx(model, tmp_path, data_format="channels_first")
    for name in ("onnxruntime", "openvino") if engines.is_installed("openvino") else ("onnxruntime",):
        engine = open_engine(path, name)
        np.testing.assert_allclose(engine(pixel_values(2, 32, 48)), model(pixel_values(2, 32, 48)), atol=ATOL)
    with pytest.raises(ValueError, match="has no preprocessor_config"):
        SegmentationPredictor(engine)
    (tmp_path / "config.json").unlink()
    (result,) = SegmentationPredictor(path, PROCESSOR)(image(40, 40))
    assert result.labels == {0: "class 0", 1: "class 1", 2: "class 2"}


def test_a_fixed_size_is_named_where_it_does_not_fit(model, tmp_path):
    pytest.importorskip("openvino")
    export_openvino(model, tmp_path, PROCESSOR, size=(32, 48))
    engine = open_engine(tmp_path)
    assert engine.fixed_size == (32, 48)
    images = [image(40, 64), image(72, 48)]
    for mode in ("resize", "slide"):
        results = SegmentationPredictor(engine, mode=mode, batch_size=2)(images)
        for result, other in zip(results, SegmentationPredictor(model, PROCESSOR, mode)(images), strict=True):
            assert (result.class_map != other.class_map).mean() < 2e-3
    with pytest.raises(ValueError, match="takes images of 32x48 pixels only, not 64x64"):
        list(SegmentationPredictor(engine, mode="whole")(images))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.filterwarnings("ignore:this CPU does not compute in bfloat16")
def test_openvino_in_lower_precision_is_half_as_large_and_close(model, tmp_path, precision):
    pytest.importorskip("openvino")
    x = pixel_values(1, 64, 96)
    export_openvino(model, tmp_path / "full", PROCESSOR)
    export_openvino(model, tmp_path / "half", PROCESSOR, precision=precision)
    weights = [(tmp_path / name / "model.bin").stat().st_size for name in ("half", "full")]
    assert weights[0] < 0.6 * weights[1]
    for engine in (open_engine(tmp_path / "half"), open_engine(tmp_path / "full", precision="bfloat16")):
        agreement = (engine(x).argmax(-1) == np.asarray(model(x)).argmax(-1)).mean()
        assert agreement > 0.95


def test_the_newest_version_of_a_folder_is_opened(tmp_path):
    for version in ("9", "10", "old"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    assert open_engine(tmp_path).path == tmp_path / "10" / "saved_model.pb"
    assert open_engine(tmp_path / "9").path == tmp_path / "9" / "saved_model.pb"


def test_what_is_not_there_or_not_installed_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no exported model in it.*load_model"):
        open_engine(tmp_path)
    with pytest.raises(CheckpointError, match="no such exported model"):
        SegmentationPredictor(tmp_path / "model.onnx", PROCESSOR)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"litert does not read model\.onnx, openvino or onnxruntime does"):
        open_engine(tmp_path, "litert")
    with pytest.raises(ValueError, match="engine='tensorrt' is unknown: choose one of auto, openvino"):
        open_engine(tmp_path, "tensorrt")
    monkeypatch.setattr(engines, "is_installed", lambda name: name == "onnxruntime")
    assert open_engine(tmp_path).name == "onnxruntime"
    with pytest.raises(ValueError, match="precision='bfloat16' is for OpenVINO"):
        open_engine(tmp_path, precision="bfloat16")
    with pytest.raises(ImportError, match=r"openvino is not installed: pip install 'tf_segformer\[openvino\]'"):
        open_engine(tmp_path, "openvino")


@pytest.mark.parametrize(
    ("engine", "file"),
    [("openvino", "model.onnx"), ("openvino", "model.xml"), ("onnxruntime", "model.onnx"), ("litert", "model.tflite")],
)
def test_a_damaged_file_is_one_line(tmp_path, engine, file):
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine))
    (tmp_path / file).write_bytes(b"damaged" * 100)
    message = rf"{file}: {engine} cannot load it \(.*\w.*\); remove it and export again$"
    with pytest.raises(CheckpointError, match=message):
        SegmentationPredictor(open_engine(tmp_path, engine), PROCESSOR)(image(40, 40))


def test_auto_takes_the_fastest_that_is_installed(monkeypatch):
    monkeypatch.setattr(engines, "_sees_gpu", lambda: False)
    monkeypatch.setattr(engines, "is_installed", lambda name: True)
    assert engines.fastest_engine() == "openvino"
    monkeypatch.setattr(engines, "is_installed", lambda name: name != "openvino")
    assert engines.fastest_engine() == "tensorflow"
    monkeypatch.setattr(engines, "_sees_gpu", lambda: True)
    monkeypatch.setattr(engines, "is_installed", lambda name: True)
    assert engines.fastest_engine() == "tensorflow"


def test_an_engine_of_one_s_own_is_run():
    def start():
        return engines.sessions.Session(lambda x: x[:, ::4, ::4, :2], (None, None, None, 3), "CPU")

    (result,) = SegmentationPredictor(Engine("mine", start), PROCESSOR)(image(40, 40))
    assert result.class_map.shape == (40, 40)


def test_evaluate_takes_an_exported_folder(model, tmp_path):
    pytest.importorskip("onnxruntime")
    for folder, array in (("images", image(32, 48)), ("labels", np.ones((32, 48), np.uint8))):
        (tmp_path / "val" / folder).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "val" / folder / "0.png")
    dataset = find_dataset("folder", tmp_path, "val", class_names=list(LABELS.values()))
    export_onnx(model, tmp_path / "onnx", PROCESSOR)
    found = evaluate(tmp_path / "onnx", dataset)
    expected = evaluate(SegmentationPredictor(model, PROCESSOR), dataset)
    assert found["aAcc"] == pytest.approx(expected["aAcc"], abs=2e-3)
