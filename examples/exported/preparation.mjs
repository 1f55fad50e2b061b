// From pixels to a network's input, by the steps in the metadata `kshot.input`.
//
// A picture is {width, height, channels, data}, its channels side by side, 0 to 255. Numbers are
// rounded where the server's library, Pillow, rounds them.

import { resized } from "./resize.mjs";

const INK_SIDE = 512;
const LEAST_INK_SIDE = 48;
const LEAST_CONTRAST = 13;
const STRONG = 0.4;
const PADDED_SIDES = 4;

/** Return Float32Array of channels, rows and columns for `{width, height, data}` in RGBA. */
export function prepare(pixels, steps) {
  const resize = steps.find((each) => each.step === "resize");
  let picture = overWhite(pixels);
  for (const step of steps) picture = apply(picture, step, resize);
  // A resize makes strokes faint.
  if (steps.some((each) => each.step === "ink")) picture = strengthened(picture);
  return scaled(picture, steps.at(-1));
}

function apply(picture, step, resize) {
  switch (step.step) {
    case "grayscale":
      return grayscale(picture);
    case "rgb":
    case "rescale":
    case "normalize":
      return picture;
    case "polarity":
      return hasLightGround(grayscale(picture)) === (step.ground === "light")
        ? picture
        : mapped(picture, (value) => 255 - value);
    case "ink":
      return ink(picture, step.margin);
    case "square":
      return step.by === "crop" ? cropped(picture) : padded(picture, resize);
    case "reduce": {
      const width = Math.min(picture.width, step.width);
      return resized(picture, width, Math.min(picture.height, step.height), "box");
    }
    case "resize":
      return resized(picture, step.width, step.height, step.method);
    default:
      throw new Error(`unknown step ${step.step}: give prepared inputs, or use a newer module`);
  }
}

function scaled({ width, height, channels, data }, step) {
  const size = width * height;
  const input = new Float32Array(channels * size);
  for (let channel = 0; channel < channels; channel++)
    for (let at = 0; at < size; at++) {
      const value = data[at * channels + channel];
      input[channel * size + at] =
        step.step === "rescale"
          ? value * step.factor
          : (value - step.mean[channel]) / step.std[channel];
    }
  return input;
}

function overWhite({ width, height, data }) {
  const opaque = new Uint8Array(width * height * 3);
  for (let at = 0; at < width * height; at++) {
    const share = data[at * 4 + 3] * 128;
    for (let channel = 0; channel < 3; channel++) {
      const sum = data[at * 4 + channel] * share + 255 * (255 * 128 - share) + 0x4000;
      opaque[at * 3 + channel] = ((sum >> 8) + sum) >> 15;
    }
  }
  return { width, height, channels: 3, data: opaque };
}

function grayscale({ width, height, channels, data }) {
  if (channels === 1) return { width, height, channels, data };
  const gray = new Uint8Array(width * height);
  for (let at = 0; at < gray.length; at++) {
    const [red, green, blue] = data.subarray(at * 3, at * 3 + 3);
    gray[at] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return { width, height, channels: 1, data: gray };
}

function mapped(picture, change) {
  const table = Uint8Array.from({ length: 256 }, (_, value) => change(value));
  return { ...picture, data: picture.data.map((value) => table[value]) };
}

/** Return the median of the border's pixels, by channel. */
function ground({ width, height, channels, data }) {
  const at = (x, y) => (y * width + x) * channels;
  const border = [];
  for (let x = 0; x < width; x++) border.push(at(x, 0), at(x, height - 1));
  for (let y = 0; y < height; y++) border.push(at(0, y), at(width - 1, y));
  return Array.from({ length: channels }, (_, channel) => {
    const values = border.map((place) => data[place + channel]).sort((a, b) => a - b);
    const middle = values.length / 2; // the border has an even number of pixels
    return Math.trunc((values[middle - 1] + values[middle]) / 2);
  });
}

function extrema({ data }) {
  let [least, most] = [255, 0];
  for (const value of data) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

function hasLightGround(gray) {
  const [darkest, lightest] = extrema(gray);
  return ground(gray)[0] > (darkest === lightest ? 127.5 : (darkest + lightest) / 2);
}

/** Return the square around the ink: 0 is the ground, 255 the strongest ink. */
function ink(picture, margin) {
  const gray = reduced(picture, INK_SIDE);
  const [level] = ground(gray);
  const [darkest, lightest] = extrema(gray);
  const sign = hasLightGround(gray) ? -1 : 1;
  const most = sign < 0 ? level - darkest : lightest - level;
  const blank = filled(LEAST_INK_SIDE, LEAST_INK_SIDE, [0]);
  if (most < LEAST_CONTRAST) return blank;
  let strength = mapped(gray, (value) =>
    Math.min(255, Math.max(0, rounded((255 * sign * (value - level)) / most))),
  );
  const longer = Math.max(gray.width, gray.height);
  if (longer < LEAST_INK_SIDE) {
    const factor = Math.ceil(LEAST_INK_SIDE / longer);
    strength = resized(strength, gray.width * factor, gray.height * factor, "bicubic");
  }
  const box = boxAbove(strength, STRONG * extrema(strength)[1]);
  if (box === null) return blank;
  const [left, top, right, bottom] = box;
  let side = Math.max(right - left, bottom - top);
  side += 2 * rounded(margin * side);
  const [x, y] = [Math.floor((left + right - side) / 2), Math.floor((top + bottom - side) / 2)];
  return pasted(filled(side, side, [0]), strength, -x, -y);
}

function strengthened(gray) {
  const most = Math.max(extrema(gray)[1], 1);
  return mapped(gray, (value) => Math.min(255, rounded((255 * value) / most)));
}

function boxAbove({ width, height, data }, least) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (data[y * width + x] > least) {
        [left, top] = [Math.min(left, x), Math.min(top, y)];
        [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
      }
  return right === 0 ? null : [left, top, right, bottom];
}

function cropped(picture) {
  const side = Math.min(picture.width, picture.height);
  const [left, top] = [(picture.width - side) >> 1, (picture.height - side) >> 1];
  return pasted(filled(side, side, Array(picture.channels).fill(0)), picture, -left, -top);
}

function padded(picture, resize) {
  const small = reduced(picture, PADDED_SIDES * Math.max(resize.height, resize.width));
  const side = Math.max(small.width, small.height);
  const [left, top] = [(side - small.width) >> 1, (side - small.height) >> 1];
  return pasted(filled(side, side, ground(small)), small, left, top);
}

function filled(width, height, colour) {
  const data = new Uint8Array(width * height * colour.length);
  data.forEach((_, at) => (data[at] = colour[at % colour.length]));
  return { width, height, channels: colour.length, data };
}

/** Put a picture onto another, whose data change; what falls beside it is left out. */
function pasted(under, picture, left, top) {
  const { channels } = picture;
  const [first, end] = [Math.max(0, -left), Math.min(picture.width, under.width - left)];
  for (let y = Math.max(0, -top); y < Math.min(picture.height, under.height - top); y++) {
    const [from, to] = [first, end].map((x) => (y * picture.width + x) * channels);
    const place = ((y + top) * under.width + first + left) * channels;
    under.data.set(picture.data.subarray(from, to), place);
  }
  return under;
}

/** Average over whole squares, so that the longer side is below twice `side`. */
function reduced(picture, side) {
  const factor = Math.floor(Math.max(picture.width, picture.height) / side);
  if (factor <= 1) return picture;
  const { channels } = picture;
  const [width, height] = [Math.ceil(picture.width / factor), Math.ceil(picture.height / factor)];
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [right, bottom] = [
        Math.min(picture.width, (x + 1) * factor),
        Math.min(picture.height, (y + 1) * factor),
      ];
      const area = (right - x * factor) * (bottom - y * factor);
      const share = Math.floor(2 ** 24 / area); // one over the area, as Pillow rounds it
      for (let channel = 0; channel < channels; channel++) {
        let sum = Math.floor(area / 2);
        for (let row = y * factor; row < bottom; row++)
          for (let column = x * factor; column < right; column++)
            sum += picture.data[(row * picture.width + column) * channels + channel];
        data[(y * width + x) * channels + channel] = Math.floor((sum * share) / 2 ** 24);
      }
    }
  return { width, height, channels, data };
}

/** Round as Python does: a half to the even number. */
function rounded(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest === 0.5 ? below + (below % 2) : below + (rest > 0.5);
}
