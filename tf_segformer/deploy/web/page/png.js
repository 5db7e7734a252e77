// Writes a class map as PNG: pixel values are the classes, the palette holds their colors.

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const GRAY = 0;
const PALETTE = 3;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/**
 * Encodes a class map without loss.
 * @param {Uint8Array | Uint16Array} classMap Class of each pixel; 16 bits where there are more than 256 classes.
 * @param {number} width
 * @param {number} height
 * @param {number[][]} colors [red, green, blue] of each class.
 * @returns {Promise<Blob>}
 */
export async function encodeMask(classMap, width, height, colors) {
  const bytes = classMap.BYTES_PER_ELEMENT;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * bytes);
  header.setUint8(9, bytes === 1 ? PALETTE : GRAY);
  const palette = bytes === 1 ? [chunk("PLTE", Uint8Array.from(colors.flat()))] : [];
  const rows = new Blob([scanlines(classMap, width, height)]).stream();
  const deflated = await new Response(rows.pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const first = chunk("IHDR", new Uint8Array(header.buffer));
  const data = chunk("IDAT", new Uint8Array(deflated));
  return new Blob([SIGNATURE, first, ...palette, data, chunk("IEND", new Uint8Array())], { type: "image/png" });
}

/** The rows, each after the number of its filter, none; 16-bit values with the upper byte first. */
function scanlines(classMap, width, height) {
  const bytes = classMap.BYTES_PER_ELEMENT;
  const rows = new Uint8Array(height * (1 + width * bytes));
  let out = 0;
  for (let y = 0; y < height; y++) {
    out++;
    for (const label of classMap.subarray(y * width, (y + 1) * width)) {
      if (bytes === 2) rows[out++] = label >> 8;
      rows[out++] = label & 255;
    }
  }
  return rows;
}

/** Length, name, content and checksum. */
function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, 8 + content.length)) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + content.length, ~crc >>> 0);
  return bytes;
}
