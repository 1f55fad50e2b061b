// An exported adapted model in ONNX Runtime Web: in Node, and unchanged in a browser.
//
//     const model = await openExported(ort, bytes);
//     const [answer] = await model.predict([model.prepare(pixels)]);
//
// `ort` is the module onnxruntime-web, `bytes` a Uint8Array of the file. `pixels` are
// {width, height, data}: RGBA, 8 bits a channel, as pngjs and the ImageData of a canvas have them.

import { prepare } from "./preparation.mjs";

/** Open a file that `kshot models export` wrote; throw an Error for another. */
export async function openExported(ort, bytes) {
  let facts, session;
  try {
    const entries = metadataOf(bytes);
    facts = {
      classNames: JSON.parse(entries["kshot.class_names"]),
      input: JSON.parse(entries["kshot.input"]),
      toApply: JSON.parse(entries["kshot.to_apply"] ?? "[]"), // earlier releases do not say it
    };
    session = await ort.InferenceSession.create(bytes);
  } catch (error) {
    throw new Error("expected an export of kshot; export it again", { cause: error });
  }
  const left = facts.toApply.filter((each) => !["preparation", "softmax"].includes(each));
  if (left.length > 0) throw new Error(`the file asks for ${left}; use its release's module`);
  const { shape, preprocessing: steps } = facts.input;
  const size = shape.reduce((product, side) => product * side, 1);

  return {
    classNames: facts.classNames,
    shape,

    /** Return a picture as the network takes it: Float32Array of channels, rows and columns. */
    prepare(pixels) {
      if (steps.length === 0) throw new Error("the model takes vectors, not pictures");
      return prepare(pixels, steps);
    },

    /** Return class, probabilities and logits for each prepared input. */
    async predict(inputs) {
      if (inputs.length === 0) throw new Error("expected at least 1 input, got 0");
      const data = new Float32Array(inputs.length * size);
      inputs.forEach((input, index) => {
        if (input.length !== size || !input.every(Number.isFinite))
          throw new Error(`input ${index}: expected ${size} finite numbers, got others`);
        data.set(input, index * size);
      });
      const tensor = new ort.Tensor("float32", data, [inputs.length, ...shape]);
      const { logits } = await session.run({ inputs: tensor });
      const way = facts.classNames.length;
      return inputs.map((_, index) => {
        const row = Array.from(logits.data.slice(index * way, (index + 1) * way));
        return answerOf(row, facts.classNames);
      });
    },
  };
}

function answerOf(logits, classNames) {
  // The temperature is in the file and must not be applied again.
  const greatest = Math.max(...logits);
  const powers = logits.map((each) => Math.exp(each - greatest));
  const sum = powers.reduce((total, each) => total + each, 0);
  const best = logits.indexOf(greatest);
  const pairs = classNames.map((name, index) => [name, powers[index] / sum]);
  return { class_name: classNames[best], probabilities: Object.fromEntries(pairs), logits };
}

/** Return the metadata of an ONNX file: field 14 of its message, pairs of texts in 1 and 2. */
export function metadataOf(bytes) {
  const entries = {};
  const text = new TextDecoder();
  for (const [field, entry] of fieldsOf(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries(fieldsOf(entry));
    entries[text.decode(pair[1])] = text.decode(pair[2]);
  }
  return entries;
}

/** Yield number and content of each field of a message of protobuf. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new Error("the file is cut or damaged");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [field, kind] = [Math.floor(key / 8), key % 8];
    if (kind === 0) {
      yield [field, varint()];
      continue;
    }
    const length = { 1: () => 8, 2: varint, 5: () => 4 }[kind]?.();
    if (length === undefined || at + length > bytes.length)
      throw new Error("the file is cut or damaged");
    yield [field, bytes.subarray(at, at + length)];
    at += length;
  }
}
