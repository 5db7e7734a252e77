// A result in words, for everyone and for those who cannot see it.

const NAMED = 3;

/** The fraction of an image in percent; what is there is never 0. */
export function percent(pixels, total) {
  const value = (100 * pixels) / total;
  return value > 0 && value < 0.1 ? "< 0.1 %" : `${value.toFixed(1)} %`;
}

/** Classes that occur, the largest first. */
export function presentClasses(counts) {
  return [...counts.keys()].filter((label) => counts[label]).sort((a, b) => counts[b] - counts[a]);
}

/** Name of the image and its largest classes. */
export function summary({ name, counts, classMap }, classes) {
  const present = presentClasses(counts);
  const inWords = (label) => `${classes[label].name} ${percent(counts[label], classMap.length)}`;
  const parts = present.slice(0, NAMED).map(inWords);
  const others = present.length - parts.length;
  return `${name}: ${parts.join(", ")}${others ? ` and ${others} more` : ""}.`;
}
