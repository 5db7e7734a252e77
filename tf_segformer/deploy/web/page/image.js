// From a file or a frame of the camera to the RGB values that Python reads from the same file.

const MAX_PIXELS = 50_000_000; // three bytes each, and as much again for what is shown
const ROWS = 256; // read at once: some browsers have no canvas of the size of a photo

/**
 * Decodes an image.
 * @param {Blob | ImageBitmap} source
 * @param {string} name What messages call it.
 * @param {object} processor Says whether the EXIF tag turns the image; by default it does not, as in Python.
 * @returns {Promise<{bitmap: ImageBitmap, image: {data: Uint8Array, width: number, height: number}, notes: string[]}>}
 */
export async function openImage(source, name, processor) {
  const bitmap = source instanceof ImageBitmap ? source : await decode(source, name, processor);
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    bitmap.close();
    const [millions, most] = [width * height, MAX_PIXELS].map((pixels) => Math.round(pixels / 1e6));
    throw new Error(`${name} has ${millions} million pixels, the page takes up to ${most} million. Try a smaller one.`);
  }
  const { image, transparent } = readPixels(bitmap);
  const notes = transparent ? ["Its transparent parts count as black: browsers hide what is below."] : [];
  return { bitmap, image, notes };
}

/** The pixels as they are stored: colors are not converted, and turned only where the processor says so. */
async function decode(file, name, processor) {
  if (file.size === 0) throw new Error(`${name} is empty.`);
  const imageOrientation = processor.apply_exif_orientation ? "from-image" : "none";
  try {
    return await createImageBitmap(file, { imageOrientation, premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${name} is not an image that this browser can open. Choose a JPEG, PNG or WebP file.`);
  }
}

/** RGB of every pixel, and whether any of them is transparent. */
function readPixels(bitmap) {
  const { width, height } = bitmap;
  const data = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(width, Math.min(ROWS, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let transparent = false;
  let out = 0;
  for (let top = 0; top < height; top += ROWS) {
    const rows = Math.min(ROWS, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const rgba = context.getImageData(0, 0, width, rows).data;
    for (let at = 0; at < rgba.length; at += 4) {
      data[out++] = rgba[at];
      data[out++] = rgba[at + 1];
      data[out++] = rgba[at + 2];
      transparent ||= rgba[at + 3] < 255;
    }
  }
  return { image: { data, width, height }, transparent };
}
