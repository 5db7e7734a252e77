// Draws the image, and the colors of its classes above it; opacity is left to the style sheet.

import { element } from "./elements.js";

const LONGEST_SIDE = 2048; // of what is shown: phones have no larger canvas, and no larger screen

/** Draws the image at the size at which it is shown. */
export function drawPhoto(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const photo = element("photo");
  photo.width = Math.max(1, Math.round(bitmap.width * scale));
  photo.height = Math.max(1, Math.round(bitmap.height * scale));
  element("result").style.setProperty("--aspect", bitmap.width / bitmap.height);
  photo.getContext("2d").drawImage(bitmap, 0, 0, photo.width, photo.height);
}

/** Paints the shown classes; the pixels of others stay clear. */
export function paintOverlay({ classMap, width, height }, classes, shown) {
  const overlay = element("overlay");
  ({ width: overlay.width, height: overlay.height } = element("photo"));
  const context = overlay.getContext("2d");
  const pixels = context.createImageData(overlay.width, overlay.height);
  const painted = new Uint32Array(pixels.data.buffer);
  const colors = wordOfClass(classes, shown);
  const nearest = (size, target) => Uint32Array.from({ length: target }, (_, i) => ((i + 0.5) * size) / target);
  const columns = nearest(width, overlay.width);
  let at = 0;
  for (const row of nearest(height, overlay.height)) {
    for (const column of columns) painted[at++] = colors[classMap[row * width + column]];
  }
  context.putImageData(pixels, 0, 0);
}

/** Red, green, blue and alpha of each class in one word, in the order of this machine's bytes. */
function wordOfClass(classes, shown) {
  const bytes = classes.flatMap(({ color }, label) => [...color, shown.has(label) ? 255 : 0]);
  return new Uint32Array(Uint8Array.from(bytes).buffer);
}
