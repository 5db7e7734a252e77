// Segments images with transformers.js: node transformers_js.mjs PACKAGES MODEL_FOLDER OUTPUT_FOLDER IMAGE...
// Writes the class map of each image as bytes, one per pixel.

import { writeFileSync } from "node:fs";
import { basename, dirname, join, sep } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, model, output, ...images] = process.argv.slice(2);
const library = join(packages, "node_modules/@huggingface/transformers/dist/transformers.node.mjs");
const { env, pipeline } = await import(pathToFileURL(library));
env.allowRemoteModels = false;
env.localModelPath = dirname(model) + sep;
const segment = await pipeline("image-segmentation", basename(model), { dtype: "fp32" });
const labels = Object.values(segment.model.config.id2label);
for (const image of images) {
  const masks = await segment(image);
  const classMap = new Uint8Array(masks[0].mask.data.length).fill(255);
  for (const { label, mask } of masks) {
    mask.data.forEach((inside, pixel) => inside && (classMap[pixel] = labels.indexOf(label)));
  }
  writeFileSync(join(output, `${basename(image)}.bin`), classMap);
}
