// The page of index.html: a model and pictures that one chooses, and the answers.
//
//     npm ci && python -m http.server --bind 127.0.0.1    # then open http://127.0.0.1:8000

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { openExported } from "./exported.mjs";

ort.env.wasm.numThreads = 1; // more take a page that is isolated from other origins

const at = (id) => document.querySelector(`#${id}`);
let round = 0;

async function answer() {
  const [[file], pictures] = [at("model").files, [...at("pictures").files]];
  if (!file || pictures.length === 0) return;
  const mine = ++round;
  say("Answering…", []);
  try {
    const model = await openExported(ort, new Uint8Array(await file.arrayBuffer()));
    const inputs = [];
    for (const each of pictures) inputs.push(model.prepare(await pixelsOf(each)));
    const answers = await model.predict(inputs);
    if (mine === round) say(`${model.classNames.length} classes`, answers, pictures);
  } catch (error) {
    if (mine === round) say(error.message, []);
  }
}

/** Return the pixels of a picture as they are in its file, upright. */
async function pixelsOf(file) {
  let bitmap;
  try {
    const asIs = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(file, asIs);
  } catch (error) {
    throw new Error(`${file.name}: expected a picture that the browser reads`, { cause: error });
  }
  const { width, height } = bitmap;
  const pen = new OffscreenCanvas(width, height).getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return pen.getImageData(0, 0, width, height);
}

function say(status, answers, pictures) {
  at("status").textContent = status;
  for (const image of at("answers").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  at("answers").replaceChildren(
    ...answers.map(({ class_name: name, probabilities }, index) => {
      const item = document.createElement("li");
      const image = new Image();
      image.src = URL.createObjectURL(pictures[index]);
      image.alt = pictures[index].name;
      item.append(image, `${name}, ${Math.round(100 * probabilities[name])} %`);
      return item;
    }),
  );
  at("json").textContent = answers.length ? JSON.stringify(answers, null, 2) : "";
}

for (const id of ["model", "pictures"]) at(id).addEventListener("change", answer);
