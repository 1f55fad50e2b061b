// Two small curves.

const TALL = 88;
const EDGE = 12;

export function drawLoss(place, losses) {
  if (!losses.length) return clear(place, "no inner steps: its head alone");
  const wide = place.clientWidth;
  const top = Math.max(...losses, 1e-9);
  const x = (index) => EDGE + (index / Math.max(1, losses.length - 1)) * (wide - 2 * EDGE);
  const y = (loss) => TALL - EDGE - (loss / top) * (TALL - 2 * EDGE);
  const points = losses.map((loss, index) => [x(index), y(loss)]);
  const last = losses.at(-1);
  const [from, to] = [losses[0], last].map((loss) => String(Number(loss.toPrecision(2))));
  const goes = last > losses[0] ? "rises" : "falls";
  draw(place, `Loss ${goes} from ${from} to ${to} in ${losses.length} steps`, points, [
    [EDGE, 11, from],
    [wide - EDGE - 6 * to.length, 11, to],
  ]);
}

/** `found` are pairs of steps and accuracy, 0 to 1. */
export function drawSteps(place, found) {
  if (!found.length) return clear(place);
  const wide = place.clientWidth;
  const x = (index) => EDGE + (index / Math.max(1, found.length - 1)) * (wide - 2 * EDGE - 6);
  const y = (accuracy) => TALL - EDGE - accuracy * (TALL - 2 * EDGE - 6);
  const points = found.map(([, accuracy], index) => [x(index), y(accuracy)]);
  const labels = found.map(([steps], index) => [x(index) - 4, TALL - 3, String(steps)]);
  const best = found.reduce((one, other) => (other[1] > one[1] ? other : one));
  const said = `${Math.round(100 * best[1])} % at ${best[0]} steps`;
  draw(place, `Accuracy by left-out examples over inner steps; best: ${said}`, points, [...labels, [EDGE, 11, `best ${said}`]], true);
}

export function clear(place, text = "not measured yet") {
  const empty = document.createElement("p");
  empty.textContent = text;
  place.replaceChildren(empty);
}

function draw(place, title, points, labels, dots = false) {
  const picture = make("svg", { viewBox: `0 0 ${place.clientWidth} ${TALL}`, role: "img", "aria-label": title });
  if (points.length) picture.append(make("path", { d: `M${points.map((point) => point.join(" ")).join("L")}` }));
  if (dots || points.length === 1) for (const [cx, cy] of points) picture.append(make("circle", { cx, cy, r: 3 }));
  for (const [x, y, text] of labels) {
    const label = make("text", { x, y });
    label.textContent = text;
    picture.append(label);
  }
  place.replaceChildren(picture);
}

function make(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
