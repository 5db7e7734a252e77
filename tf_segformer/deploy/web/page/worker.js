// Loads the model, and segments images one after the other, so that the page itself never waits.

import { classMapFromLogits } from "./class-map.js";
import { openImage } from "./image.js";
import { pixelValues } from "./pixel-values.js";

const MODEL = "onnx/model.onnx";
const MOST_THREADS = 8;
const NO_MEMORY = "there is not enough memory for this image. Try a smaller one.";

const isOutOfMemory = (error) => error instanceof RangeError || /memory|allocat/i.test(error.message);

const ready = load();
ready.then(
  ({ classes, bytes }) => postMessage({ kind: "ready", classes, bytes }),
  (error) => postMessage({ kind: "failed", message: `The model could not be loaded: ${error.message}` }),
);

let previous = ready; // images wait for the one before them
self.onmessage = ({ data }) => {
  previous = previous.catch(() => {}).then(() => segment(data));
};

/** Everything that a segmentation needs; errors name the file. */
async function load() {
  if (typeof WebAssembly !== "object") throw new Error("this browser does not run WebAssembly, please update it.");
  const [processor, classes, bytes] = await Promise.all([
    fetchFile("preprocessor_config.json").then((response) => response.json()),
    fetchFile("classes.json").then((response) => response.json()),
    fetchFile(MODEL).then(readWithProgress),
  ]);
  const ort = await import("./runtime/ort.wasm.bundle.min.js").catch((error) => {
    throw new Error(`runtime/ort.wasm.bundle.min.js: ${error.message}`);
  });
  ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  // Browsers share memory between threads only in pages whose server sends the headers of cross-origin isolation.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { ort, session, processor, classes, bytes: bytes.length };
}

/** Fetches a file of this folder. */
async function fetchFile(name) {
  const response = await fetch(new URL(name, import.meta.url)).catch(() => {
    throw new Error(`${name}: the server does not answer. Is it still running?`);
  });
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}. Export the folder again.`);
  return response;
}

/** The bytes of a large file; the page shows how many have arrived. */
async function readWithProgress(response) {
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    postMessage({ kind: "progress", loaded, total: Math.max(loaded, total) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Segments one image, a file or a frame of the camera, and posts the result or what went wrong. */
async function segment({ id, source, name }) {
  try {
    const { ort, session, processor } = await ready;
    const { bitmap, image, notes } = await openImage(source, name, processor);
    const { data, width, height } = pixelValues(image, processor);
    const started = performance.now();
    const input = new ort.Tensor("float32", data, [1, 3, height, width]);
    const { logits } = await session.run({ pixel_values: input });
    const milliseconds = performance.now() - started;
    const { classMap, counts } = classMapFromLogits(logits.data, logits.dims.slice(1), image.width, image.height);
    input.dispose();
    logits.dispose();
    const result = { kind: "result", id, name, bitmap, classMap, counts, notes, milliseconds };
    postMessage(result, [bitmap, classMap.buffer]);
  } catch (error) {
    postMessage({ kind: "problem", id, message: isOutOfMemory(error) ? `${name}: ${NO_MEMORY}` : error.message });
  }
}
