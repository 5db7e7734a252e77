// The page: takes an image by choice, by drop or from the camera, and shows what the worker makes of it.

import { cameraControls } from "./camera.js";
import { element } from "./elements.js";
import { fillLegend } from "./legend.js";
import { encodeMask } from "./png.js";
import { summary } from "./summary.js";
import { drawPhoto, paintOverlay } from "./view.js";

const NOT_STARTED = "A file of the page's folder is missing: export it again. Or this browser is too old: update it.";

const state = { classes: [], job: 0, result: null, shown: new Set() };

const say = (text) => (element("status").textContent = text);
const complain = (text) => (element("error").textContent = text);

// The worker

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const HANDLERS = { progress: showProgress, ready: start, failed, result: showResult, problem: showProblem };
worker.onmessage = ({ data }) => HANDLERS[data.kind](data);
worker.onerror = () => failed({ message: NOT_STARTED });

function showProgress({ loaded, total }) {
  element("progress").hidden = false;
  element("progress").value = loaded / total;
}

function start({ classes, bytes }) {
  state.classes = classes;
  element("progress").hidden = true;
  element("file").disabled = false;
  element("open-camera").disabled = false;
  say(`Ready: ${classes.length} classes, ${(bytes / 1e6).toFixed(1)} MB.`);
}

function failed({ message }) {
  element("progress").hidden = true;
  say("");
  complain(message);
}

// An image in

/** Hands an image to the worker; only the newest one's result is shown. */
function submit(source, name) {
  complain("");
  say(`Segmenting ${name} …`);
  setBusy(true);
  const transferred = source instanceof ImageBitmap ? [source] : [];
  worker.postMessage({ id: ++state.job, source, name }, transferred);
}

function setBusy(busy) {
  element("stage").classList.toggle("busy", busy);
  element("stage").setAttribute("aria-busy", String(busy));
}

function submitFirst(files) {
  if (element("file").disabled) return complain("The model is not loaded yet: wait a moment and try again.");
  const file = files[0];
  if (!file) return complain("That is not a file. Drop an image file from your computer.");
  camera.close();
  return submit(file, file.name);
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) submitFirst(target.files);
  target.value = ""; // so that the same file can be chosen again
});

for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    element("stage").classList.add("dropping");
  });
}
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) element("stage").classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  element("stage").classList.remove("dropping");
  submitFirst(event.dataTransfer.files);
});

const camera = cameraControls({ submit, complain, say });

// A result out

function showProblem({ id, message }) {
  if (id !== state.job) return;
  setBusy(false);
  say("");
  complain(message);
}

function showResult(result) {
  if (result.id !== state.job) return result.bitmap.close();
  setBusy(false);
  state.result = { ...result, width: result.bitmap.width, height: result.bitmap.height };
  state.shown = new Set(state.classes.keys());
  drawPhoto(result.bitmap);
  result.bitmap.close();
  element("empty").hidden = true;
  element("result").hidden = false;
  element("stage").classList.add("filled");
  element("hint").hidden = true;
  element("controls").hidden = false;
  fillLegend(state.classes, result.counts, toggle);
  paint();
  element("result").setAttribute("aria-label", summary(result, state.classes));
  const seconds = (result.milliseconds / 1000).toFixed(1);
  return say([`${summary(result, state.classes)} (${seconds} s)`, ...result.notes].join(" "));
}

function paint() {
  paintOverlay(state.result, state.classes, state.shown);
}

function toggle(label, visible) {
  if (visible) state.shown.add(label);
  else state.shown.delete(label);
  paint();
}

function showEvery(visible) {
  state.shown = new Set(visible ? state.classes.keys() : []);
  for (const box of element("legend").querySelectorAll("input")) box.checked = visible;
  paint();
}

element("show-all").addEventListener("click", () => showEvery(true));
element("show-none").addEventListener("click", () => showEvery(false));

function setOpacity() {
  const percent = element("opacity").value;
  element("overlay").style.opacity = percent / 100;
  element("opacity-value").textContent = `${percent} %`;
  element("opacity").setAttribute("aria-valuetext", `${percent} %`);
}

element("opacity").addEventListener("input", setOpacity);
setOpacity();

async function download() {
  const { classMap, width, height, name } = state.result;
  const blob = await encodeMask(classMap, width, height, state.classes.map(({ color }) => color));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name.replace(/\.[^.]*$/, "")}_mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // not before the browser has read it
}

element("download").addEventListener("click", () => {
  download().catch((error) => complain(`The mask cannot be written: ${error.message}. Is this browser up to date?`));
});

element("no-script").hidden = true;
say("Loading the model …");
