// The legend: a checkbox, the color, the name and the fraction of each class that occurs, the largest first.

import { element } from "./elements.js";
import { percent, presentClasses } from "./summary.js";

/**
 * Fills the list.
 * @param {{name: string, color: number[]}[]} classes
 * @param {number[]} counts Pixels of each class.
 * @param {(label: number, visible: boolean) => void} toggle Called when a checkbox changes.
 */
export function fillLegend(classes, counts, toggle) {
  const total = counts.reduce((sum, pixels) => sum + pixels, 0);
  const entries = presentClasses(counts).map((label) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => toggle(label, box.checked));
    const swatch = span("swatch", "");
    swatch.style.background = `rgb(${classes[label].color.join(" ")})`;
    const line = document.createElement("label");
    line.append(box, swatch, span("name", classes[label].name), span("fraction", percent(counts[label], total)));
    const entry = document.createElement("li");
    entry.append(line);
    return entry;
  });
  element("legend").replaceChildren(...entries);
}

function span(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}
