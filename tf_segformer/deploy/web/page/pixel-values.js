// From an image to the values that the network takes, as preprocessor_config.json says and Python computes them.

import { resize } from "./resize.js";

const CHANNELS = 3;

/**
 * Resizes, rescales and normalizes an image.
 * @param {{data: Uint8Array, width: number, height: number}} image RGB, three bytes per pixel.
 * @param {object} processor The fields of preprocessor_config.json.
 * @returns {{data: Float32Array, width: number, height: number}} Values, channel by channel.
 */
export function pixelValues(image, processor) {
  const { height, width } = processor.do_resize ? processor.size : image;
  const { data } = resize(image, width, height, processor.resample);
  const size = width * height;
  const values = new Float32Array(CHANNELS * size);
  for (let channel = 0; channel < CHANNELS; channel++) {
    const table = valueOfByte(processor, channel);
    for (let i = 0; i < size; i++) values[channel * size + i] = table[data[i * CHANNELS + channel]];
  }
  return { data: values, width, height };
}

/** What each of the 256 values of a channel becomes: rescaled in 64 bits, normalized in 32, as in Python. */
function valueOfByte(processor, channel) {
  const [mean, std] = [processor.image_mean, processor.image_std].map((each) =>
    Math.fround(Array.isArray(each) ? each[channel] : each),
  );
  return Float32Array.from({ length: 256 }, (_, byte) => {
    const value = Math.fround(processor.do_rescale ? byte * processor.rescale_factor : byte);
    return processor.do_normalize ? Math.fround(value - mean) / std : value;
  });
}
