// Classify PNG files with an exported adapted model in Node: ONNX Runtime Web, no server.
//
//     npm ci && node predict.mjs MODEL.onnx PICTURE.png...
//     node predict.mjs MODEL.onnx --prepared INPUTS.f32
//
// INPUTS.f32 holds prepared inputs: float32, little-endian, one after another. The answers are a
// JSON document, as those of predict.py.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { PNG } from "pngjs";
import { openExported } from "./exported.mjs";

ort.env.wasm.numThreads = 1;

async function main([path, ...rest]) {
  if (path === undefined || rest.length === 0 || (rest[0] === "--prepared" && rest.length !== 2)) {
    process.stderr.write("usage: predict.mjs MODEL.onnx (PICTURE.png... | --prepared INPUTS.f32)\n");
    return 2;
  }
  try {
    const model = await openExported(ort, await readFile(path));
    const inputs =
      rest[0] === "--prepared"
        ? split(await readFile(rest[1]), model.shape)
        : await Promise.all(rest.map(async (each) => model.prepare(await pixelsOf(each))));
    process.stdout.write(`${JSON.stringify(await model.predict(inputs), null, 2)}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`predict.mjs: ${error.message}\n`);
    return 1;
  }
}

async function pixelsOf(path) {
  const content = await readFile(path);
  try {
    return PNG.sync.read(content);
  } catch (error) {
    const other = "a browser's canvas decodes other formats";
    throw new Error(`${path}: expected a PNG file, got another; ${other}`, { cause: error });
  }
}

function split(content, shape) {
  const size = shape.reduce((product, side) => product * side, 1);
  if (content.length === 0 || content.length % (4 * size) !== 0)
    throw new Error(`expected float32 (n, ${shape.join(", ")}), got ${content.length} bytes`);
  const view = new DataView(content.buffer, content.byteOffset, content.length);
  return Array.from({ length: content.length / (4 * size) }, (_, index) =>
    Float32Array.from({ length: size }, (_, at) => view.getFloat32(4 * (index * size + at), true)),
  );
}

process.exitCode = await main(process.argv.slice(2));
