// Resizes 8-bit RGB images bit for bit as Pillow 13 does: filters in 64-bit floats, their weights rounded to 22 bits,
// one side after the other with 8 bits in between, the height first where it shrinks by more than twice as many pixels.

const PRECISION_BITS = 22; // 32, less 8 of the values and 2 for filters whose weights exceed 1
const HALF = 1 << (PRECISION_BITS - 1);
const NEAREST = 0;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(x) {
  x = Math.abs(x);
  return x < 1 ? sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(x * Math.PI)) : 0; // as Pillow writes them
}

// Pillow's numbers of the filters: half of the width, and the weight at a distance.
const FILTERS = {
  1: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
  2: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  3: [2, bicubic],
  4: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  5: [1, hamming],
};

/**
 * Resizes an image.
 * @param {{data: Uint8Array, width: number, height: number}} image RGB, three bytes per pixel.
 * @param {number} width Of the result.
 * @param {number} height Of the result.
 * @param {number} resample Pillow's number of the filter, 0 to 5.
 * @returns {{data: Uint8Array, width: number, height: number}}
 */
export function resize(image, width, height, resample) {
  if (resample === NEAREST) return nearest(image, width, height);
  const toWidth = (each) => (width === each.width ? each : resizeRows(each, width, resample));
  const toHeight = (each) => (height === each.height ? each : resizeColumns(each, height, resample));
  const fewerRows = image.height - height;
  const heightFirst = fewerRows > Math.max(0, 2 * (image.width - width));
  return heightFirst ? toWidth(toHeight(image)) : toHeight(toWidth(image));
}

/** For each pixel of a resized side: the first source pixel that it mixes, how many, and their weights. */
function weights(size, target, resample) {
  const [halfWidth, filter] = FILTERS[resample];
  const scale = size / target;
  const stretch = Math.max(scale, 1);
  const support = halfWidth * stretch;
  return Array.from({ length: target }, (_, pixel) => {
    const center = (pixel + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(size, Math.trunc(center + support + 0.5));
    const exact = [];
    let sum = 0;
    for (let source = first; source < end; source++) {
      const weight = filter((source - center + 0.5) * (1 / stretch));
      exact.push(weight);
      sum += weight;
    }
    const rounded = exact.map((weight) => {
      const scaled = (sum === 0 ? weight : weight / sum) * (1 << PRECISION_BITS);
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
    return { first, rounded: Int32Array.from(rounded) };
  });
}

const clip = (sum) => Math.min(255, Math.max(0, sum >> PRECISION_BITS));

/** Mixes the pixels of each row. */
function resizeRows({ data, width, height }, target, resample) {
  const result = new Uint8Array(target * height * 3);
  const columns = weights(width, target, resample);
  let out = 0;
  for (let y = 0; y < height; y++) {
    for (const { first, rounded } of columns) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let at = (y * width + first) * 3;
      for (const weight of rounded) {
        red += data[at++] * weight;
        green += data[at++] * weight;
        blue += data[at++] * weight;
      }
      result[out++] = clip(red);
      result[out++] = clip(green);
      result[out++] = clip(blue);
    }
  }
  return { data: result, width: target, height };
}

/** Mixes rows. */
function resizeColumns({ data, width, height }, target, resample) {
  const stride = width * 3;
  const result = new Uint8Array(stride * target);
  const sums = new Int32Array(stride);
  weights(height, target, resample).forEach(({ first, rounded }, y) => {
    sums.fill(HALF);
    rounded.forEach((weight, row) => {
      const start = (first + row) * stride;
      for (let i = 0; i < stride; i++) sums[i] += data[start + i] * weight;
    });
    for (let i = 0; i < stride; i++) result[y * stride + i] = clip(sums[i]);
  });
  return { data: result, width, height: target };
}

/** Takes the nearest pixels; positions are summed up, as Pillow does. */
function nearest({ data, width, height }, targetWidth, targetHeight) {
  const positions = (size, target) => {
    const step = size / target;
    let position = step * 0.5;
    return Int32Array.from({ length: target }, () => {
      const source = Math.min(size - 1, Math.floor(position));
      position += step;
      return source;
    });
  };
  const columns = positions(width, targetWidth);
  const result = new Uint8Array(targetWidth * targetHeight * 3);
  let out = 0;
  for (const y of positions(height, targetHeight)) {
    for (const x of columns) {
      const at = (y * width + x) * 3;
      result[out++] = data[at];
      result[out++] = data[at + 1];
      result[out++] = data[at + 2];
    }
  }
  return { data: result, width: targetWidth, height: targetHeight };
}
