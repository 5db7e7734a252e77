// Logits to the class of each pixel: a bilinear resize to the size of the image, then the largest logit.
//
// A resized logit mixes four neighbours. Where one class is the largest in all four, it is the largest between them and
// nothing is computed; elsewhere only those classes are mixed that can win there.

/**
 * Finds the class of each pixel of an image.
 * @param {Float32Array} logits Class by class, (K, height, width); a single one decides between background and class 1.
 * @param {[number, number, number]} shape K, height and width of the logits.
 * @param {number} width Of the image.
 * @param {number} height Of the image.
 * @returns {{classMap: Uint8Array | Uint16Array, counts: number[]}} Class of each pixel; pixels of each class.
 */
export function classMapFromLogits(logits, [numLabels, h, w], width, height) {
  if (numLabels === 1) {
    const withBackground = new Float32Array(2 * h * w);
    withBackground.set(logits, h * w);
    return classMapFromLogits(withBackground, [2, h, w], width, height);
  }
  const best = argmax(logits, numLabels, h * w);
  const classMap = new (numLabels > 256 ? Uint16Array : Uint8Array)(width * height);
  const columns = cells(w, width);
  for (const rows of cells(h, height)) {
    for (const cell of columns) {
      const corners = [rows.low, rows.high].flatMap((row) => [row * w + cell.low, row * w + cell.high]);
      const first = best[corners[0]];
      if (corners.every((corner) => best[corner] === first)) {
        for (let y = rows.start; y < rows.end; y++) {
          classMap.fill(first, y * width + cell.start, y * width + cell.end);
        }
      } else {
        mix(logits, h * w, candidates(logits, numLabels, h * w, corners), corners, rows, cell, classMap, width);
      }
    }
  }
  return { classMap, counts: count(classMap, numLabels) };
}

/** The class with the largest logit, the first of equal ones, at each position of the logits. */
function argmax(logits, numLabels, size) {
  const best = new Uint16Array(size);
  const largest = logits.slice(0, size);
  for (let label = 1; label < numLabels; label++) {
    for (let i = 0; i < size; i++) {
      const logit = logits[label * size + i];
      if (logit > largest[i]) {
        largest[i] = logit;
        best[i] = label;
      }
    }
  }
  return best;
}

/**
 * Runs of pixels [start, end) along a side that mix the same two logits, low and high, and the weights of the high one.
 * Positions are those of half-pixel centres in 32 bits, as in Python and PyTorch.
 */
function cells(size, target) {
  const scale = Math.fround(size / target);
  const runs = [];
  for (let pixel = 0; pixel < target; pixel++) {
    const position = Math.fround(Math.fround((pixel + 0.5) * scale) - 0.5);
    const clipped = Math.min(size - 1, Math.max(0, position));
    const low = Math.floor(clipped);
    if (runs.at(-1)?.low !== low) {
      runs.push({ low, high: Math.min(size - 1, low + 1), start: pixel, end: pixel, weights: [] });
    }
    runs.at(-1).end = pixel + 1;
    runs.at(-1).weights.push(Math.fround(clipped - low));
  }
  return runs;
}

/** The classes that can be the largest between four corners: not below what some class has at all of them. */
function candidates(logits, numLabels, size, [a, b, c, d]) {
  const reached = new Float32Array(numLabels);
  let bound = -Infinity;
  for (let label = 0; label < numLabels; label++) {
    const at = label * size;
    const values = [logits[at + a], logits[at + b], logits[at + c], logits[at + d]];
    reached[label] = Math.max(...values);
    bound = Math.max(bound, Math.min(...values));
  }
  return reached.reduce((labels, value, label) => (value >= bound ? [...labels, label] : labels), []);
}

/** Interpolates the logits of some classes between four corners, and writes the largest ones' class. */
function mix(logits, size, labels, [a, b, c, d], rows, columns, classMap, width) {
  for (let y = rows.start; y < rows.end; y++) {
    const down = rows.weights[y - rows.start];
    for (let x = columns.start; x < columns.end; x++) {
      const across = columns.weights[x - columns.start];
      let largest = -Infinity;
      let winner = labels[0];
      for (const label of labels) {
        const at = label * size;
        const top = logits[at + a] * (1 - across) + logits[at + b] * across;
        const bottom = logits[at + c] * (1 - across) + logits[at + d] * across;
        const value = top * (1 - down) + bottom * down;
        if (value > largest) {
          largest = value;
          winner = label;
        }
      }
      classMap[y * width + x] = winner;
    }
  }
}

/** How many pixels each class has. */
function count(classMap, numLabels) {
  const counts = new Array(numLabels).fill(0);
  for (const label of classMap) counts[label]++;
  return counts;
}
