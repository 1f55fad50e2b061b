// A pad to draw on, with pen, finger or mouse: black ink on white paper.

const INK = 14;
// As the pads of the page: every model then sees samples, examples and questions alike.
const [WIDE, TALL] = [448, 280];

export class Pad extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.strokes = [];
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    canvas.addEventListener("keydown", (event) => this.press(event));
    this.paint();
  }

  get empty() {
    return this.strokes.length === 0;
  }

  begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.strokes.push([this.place(event)]);
    this.drawing = true;
    this.paint();
  }

  go(event) {
    if (!this.drawing) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.strokes.at(-1).push(this.place(each));
    this.paint();
    this.dispatchEvent(new Event("draw"));
  }

  end() {
    if (!this.drawing) return;
    this.drawing = false;
    this.dispatchEvent(new Event("stroke"));
  }

  undo() {
    this.strokes.pop();
    this.paint();
    this.dispatchEvent(new Event("stroke"));
  }

  clear() {
    this.strokes = [];
    this.paint();
    this.dispatchEvent(new Event("stroke"));
  }

  press(event) {
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (event.key === "Enter" && !this.empty) this.dispatchEvent(new Event("done"));
    else return;
    event.preventDefault();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.canvas;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  paint() {
    paint(this.canvas, this.strokes);
  }

  /** The drawing as a PNG: `{ mime, data, kind }`, data in base64. */
  picture() {
    return pictureOf(this.canvas);
  }
}

export function pictureOf(canvas) {
  const [, data] = canvas.toDataURL("image/png").split(",");
  return { mime: "image/png", data, kind: "drawing" };
}

export function drawn(strokes) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: WIDE, height: TALL });
  paint(canvas, strokes);
  return pictureOf(canvas);
}

function paint(canvas, strokes) {
  const pen = canvas.getContext("2d");
  canvas.classList.toggle("blank", strokes.length === 0);
  pen.fillStyle = "#fff";
  if (strokes.length) pen.fillRect(0, 0, WIDE, TALL);
  else pen.clearRect(0, 0, WIDE, TALL);
  pen.strokeStyle = "#111";
  pen.lineWidth = INK;
  pen.lineCap = pen.lineJoin = "round";
  for (const [first, ...rest] of strokes) {
    pen.beginPath();
    pen.moveTo(...first);
    for (const point of rest.length ? rest : [first]) pen.lineTo(...point);
    pen.stroke();
  }
}

/** Examples of three shapes, each a little different: a ring, a triangle, a cross. */
export function sampleShapes(count) {
  const shapes = {
    Ring: ring,
    Triangle: () => [polygon([[224, 60], [309, 210], [139, 210], [224, 60]])],
    Cross: () => [polygon([[154, 70], [294, 210]]), polygon([[294, 70], [154, 210]])],
  };
  return Object.entries(shapes).map(([name, shape]) => ({
    name,
    pictures: Array.from({ length: count }, () => drawn(shape())),
  }));
}

const shake = (size) => (Math.random() - 0.5) * size;

function ring() {
  const [x, y, wide, tall] = [224 + shake(30), 140 + shake(30), 75 + shake(30), 75 + shake(30)];
  const points = Array.from({ length: 33 }, (_, step) => (step / 32) * 2 * Math.PI);
  return [points.map((angle) => [x + wide * Math.cos(angle), y + tall * Math.sin(angle)])];
}

function polygon(corners) {
  const [left, top] = [shake(30), shake(30)];
  return corners.map(([x, y]) => [x + left + shake(22), y + top + shake(22)]);
}
