// Resizing of pictures {width, height, channels, data}, to the bit as Pillow 13 does it: filters that
// average over the pixels they leave out, whole numbers between the two directions.

const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, cubic],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const ONE = 2 ** 22;

/** Return a picture of another size. */
export function resized(picture, width, height, method) {
  if (picture.width === width && picture.height === height) return picture;
  if (method === "nearest") return nearest(picture, width, height);
  // Pixels are rounded between the two directions, so their order counts.
  if (picture.height - height > 2 * Math.max(0, picture.width - width))
    return along(along(picture, height, method, true), width, method, false);
  return along(along(picture, width, method, false), height, method, true);
}

function nearest(picture, width, height) {
  const { channels } = picture;
  const data = new Uint8Array(width * height * channels);
  const columns = nearestOf(picture.width, width);
  nearestOf(picture.height, height).forEach((row, y) =>
    columns.forEach((column, x) => {
      const from = (row * picture.width + column) * channels;
      data.set(picture.data.subarray(from, from + channels), (y * width + x) * channels);
    }),
  );
  return { width, height, channels, data };
}

/** Return the old pixel for each new one. Steps are added up, as are their rounding errors. */
function nearestOf(old, length) {
  const step = old / length;
  let at = step * 0.5 - step;
  return Array.from({ length }, () => Math.trunc((at += step)));
}

function along(picture, length, method, vertical) {
  if (length === (vertical ? picture.height : picture.width)) return picture;
  const { channels } = picture;
  const [width, height] = vertical ? [picture.width, length] : [length, picture.height];
  const step = vertical ? picture.width * channels : channels;
  const weights = weightsOf(vertical ? picture.height : picture.width, length, method);
  const data = new Uint8ClampedArray(width * height * channels);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const { first, factors } = weights[vertical ? y : x];
      const start = (vertical ? first * picture.width + x : y * picture.width + first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = ONE / 2;
        for (let at = 0; at < factors.length; at++)
          sum += factors[at] * picture.data[start + channel + at * step];
        data[(y * width + x) * channels + channel] = Math.floor(sum / ONE);
      }
    }
  return { width, height, channels, data };
}

/** Return for each new pixel the first old one that counts, and the factors from there. */
function weightsOf(old, length, method) {
  const [reach, filter] = FILTERS[method];
  const scale = old / length;
  const spread = Math.max(scale, 1);
  const support = reach * spread;
  return Array.from({ length }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(old, Math.trunc(centre + support + 0.5));
    const factors = Array.from({ length: end - first }, (_, at) =>
      filter((at + first - centre + 0.5) * (1 / spread)),
    );
    const sum = factors.reduce((total, each) => total + each, 0);
    return { first, factors: factors.map((each) => halfAway((each / sum) * ONE)) };
  });
}

function halfAway(value) {
  return Math.trunc(value + (value < 0 ? -0.5 : 0.5));
}

function cubic(x) {
  const [a, distance] = [-0.5, Math.abs(x)];
  if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
  if (distance < 2) return (((distance - 5) * distance + 8) * distance - 4) * a;
  return 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
