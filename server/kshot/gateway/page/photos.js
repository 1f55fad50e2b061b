// Pictures from files, the clipboard and the camera: made as small as a model can use.

const LONGEST = 4; // times the useful side, however narrow the picture
const QUALITY = 0.9;
const HEIF = /^ftyp(hei|hev|mif1|msf1)/; // from its fifth byte on

const NO_CAMERA = {
  NotAllowedError: "This page may not use the camera: allow it in the browser, beside the address.",
  NotFoundError: "There is no camera.",
  NotReadableError: "Another program uses the camera.",
};

export class PictureError extends Error {}

/** Reads a file: `{ mime, data, kind }`, its shorter side at most `side` pixels. */
export async function readPicture(file, side) {
  let bitmap, size;
  try {
    size = await sizeOf(file);
    // Large photographs shrink as they are decoded.
    const [resizeWidth, resizeHeight] = reduced(...size, side);
    bitmap = await createImageBitmap(file, { resizeWidth, resizeHeight, resizeQuality: "high" });
  } catch {
    throw new PictureError(`${file.name || "The picture"}: ${await problemOf(file, size)}`);
  }
  try {
    return paint(bitmap, bitmap.width, bitmap.height, bitmap.width < size[0]);
  } finally {
    bitmap.close();
  }
}

/** Says why a file is of no use; `size` is what it claims, if it does. */
async function problemOf(file, size) {
  const start = await file.slice(4, 12).text().catch(() => "");
  if (HEIF.test(start)) return "this browser cannot read HEIC photographs. Save it as JPEG, or set the camera to “most compatible”.";
  if (size) return `the picture is damaged, or its ${size.join(" × ")} pixels are too many for this browser.`;
  return "this is not a picture that the browser can read. Take a PNG or JPEG.";
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

/** The camera in its dialog; `take` gets a picture each time. Throws PictureError. */
export async function openCamera(dialog, side, take) {
  const [video, shoot, taken] = ["video", "#shoot", "#taken"].map((name) => dialog.querySelector(name));
  const stream = await streamOf();
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (dialog.open) return stop(); // asked for twice
  let count = 0;
  taken.textContent = "";
  shoot.disabled = true; // there is nothing to see yet
  video.onloadeddata = () => {
    shoot.disabled = false;
    shoot.focus();
  };
  shoot.onclick = () => {
    take(frameOf(video, side));
    taken.textContent = `${(count += 1)} taken`;
  };
  dialog.querySelector("#camera-close").onclick = () => dialog.close();
  dialog.onclose = () => {
    stop();
    video.srcObject = null;
  };
  video.srcObject = stream;
  dialog.showModal();
}

async function streamOf() {
  const other = "Choose a picture instead.";
  if (!navigator.mediaDevices) throw new PictureError(`Browsers give the camera only to pages over https or on localhost. ${other}`);
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch ({ name }) {
    throw new PictureError(`${NO_CAMERA[name] ?? "The camera does not start."} ${other}`);
  }
}
