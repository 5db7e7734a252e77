// The camera: opens it, shows what it sees, takes one frame; every way in which that fails is said in words.

import { element } from "./elements.js";

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it in the settings of this site, or choose an image instead.",
  NotFoundError: "No camera was found. Choose an image instead.",
  NotReadableError: "The camera is used by another program. Close it and try again.",
};

/**
 * Connects the buttons of the camera.
 * @param {{submit: (frame: ImageBitmap, name: string) => void, complain: (text: string) => void,
 *   say: (text: string) => void}} page
 * @returns {{close: () => void}}
 */
export function cameraControls({ submit, complain, say }) {
  const video = element("video");

  async function open() {
    complain("");
    if (!navigator.mediaDevices) {
      return complain("The camera works only over https or on localhost. Choose an image instead.");
    }
    say("Waiting for the camera …");
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 1920 } }, audio: false };
      video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
      await video.play();
    } catch (error) {
      close();
      return complain(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    show(true);
    say("The camera is on.");
    return element("take").focus();
  }

  function close() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    show(false);
    say("");
  }

  function show(on) {
    video.hidden = !on;
    element("camera").hidden = !on;
    element("choose").hidden = on;
    element("stage").classList.toggle("filming", on);
  }

  async function take() {
    const frame = await createImageBitmap(video).catch((error) => complain(`No photo was taken: ${error.message}`));
    close();
    element("open-camera").focus();
    if (frame) submit(frame, "camera");
  }

  element("open-camera").addEventListener("click", open);
  element("take").addEventListener("click", take);
  element("close-camera").addEventListener("click", () => {
    close();
    element("open-camera").focus();
  });
  return { close };
}
