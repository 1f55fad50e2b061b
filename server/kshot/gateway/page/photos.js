// Pictures from files, the clipboard and the camera: made as small as a model can use.

const MOST_SIDE = 640;
const QUALITY = 0.9;

export class PictureError extends Error {}

/** Reads a file: `{ mime, data, kind }`, its longer side at most 640 pixels. */
export async function readPicture(file) {
  const name = file.name || "the picture";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new PictureError(`${name}: this is not a picture that the browser can read; take a PNG or JPEG.`);
  }
  try {
    return reduce(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

export function frameOf(video) {
  return reduce(video, video.videoWidth, video.videoHeight);
}

function reduce(source, width, height) {
  const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "#fff"; // behind what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  // Small pictures keep every pixel.
  const mime = scale < 1 ? "image/jpeg" : "image/png";
  const [, data] = canvas.toDataURL(mime, QUALITY).split(",");
  return { mime, data, kind: "photo" };
}

export const sourceOf = ({ mime, data }) => `data:${mime};base64,${data}`;

/** The camera in its dialog; `take` gets a picture each time. */
export async function openCamera(dialog, take) {
  const video = dialog.querySelector("video");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  const shoot = dialog.querySelector("#shoot");
  shoot.onclick = () => take(frameOf(video));
  dialog.querySelector("#camera-close").onclick = () => dialog.close();
  dialog.onclose = () => stream.getTracks().forEach((track) => track.stop());
  dialog.showModal();
  shoot.focus();
}
