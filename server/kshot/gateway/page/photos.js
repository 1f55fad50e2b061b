// Pictures from files, the clipboard and the camera: made as small as a model can use.

const LONGEST = 4; // times the useful side, however narrow the picture
const QUALITY = 0.9;

export class PictureError extends Error {}

/** Reads a file: `{ mime, data, kind }`, its shorter side at most `side` pixels. */
export async function readPicture(file, side) {
  const name = file.name || "the picture";
  let bitmap, size;
  try {
    size = await sizeOf(file);
    // Large photographs shrink as they are decoded.
    const [resizeWidth, resizeHeight] = reduced(...size, side);
    bitmap = await createImageBitmap(file, { resizeWidth, resizeHeight, resizeQuality: "high" });
  } catch {
    throw new PictureError(`${name}: this is not a picture that the browser can read; take a PNG or JPEG.`);
  }
  try {
    return paint(bitmap, bitmap.width, bitmap.height, bitmap.width < size[0]);
  } finally {
    bitmap.close();
  }
}

/** Returns width and height of a file; its pixels are not decoded for it. */
async function sizeOf(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

function frameOf(video, side) {
  const { videoWidth, videoHeight } = video;
  const [width, height] = reduced(videoWidth, videoHeight, side);
  return paint(video, width, height, true);
}

function reduced(width, height, side) {
  const scale = Math.min(1, side / Math.min(width, height), (LONGEST * side) / Math.max(width, height));
  return [width, height].map((length) => Math.max(1, Math.round(length * scale)));
}

function paint(source, width, height, photo) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "#fff"; // behind what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(source, 0, 0, width, height);
  // Small pictures keep every pixel.
  const mime = photo ? "image/jpeg" : "image/png";
  const [, data] = canvas.toDataURL(mime, QUALITY).split(",");
  return { mime, data, kind: "photo" };
}

export const sourceOf = ({ mime, data }) => `data:${mime};base64,${data}`;

/** The camera in its dialog; `take` gets a picture each time. */
export async function openCamera(dialog, side, take) {
  const video = dialog.querySelector("video");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  const shoot = dialog.querySelector("#shoot");
  shoot.onclick = () => take(frameOf(video, side));
  dialog.querySelector("#camera-close").onclick = () => dialog.close();
  dialog.onclose = () => stream.getTracks().forEach((track) => track.stop());
  dialog.showModal();
  shoot.focus();
}
