// Adapt to a folder of class folders with PNG files, classify others, and delete the model.
//
//     npm ci && node classify.mjs MODEL FOLDER PICTURE.png...
//
// Prints a JSON document; an error goes to stderr, as JSON too, and the exit code is 1.

import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { CallError, connect } from "./client.mjs";

async function main([model, folder, ...pictures]) {
  if (pictures.length === 0) {
    process.stderr.write("usage: classify.mjs MODEL FOLDER PICTURE.png...\n");
    return 2;
  }
  let client;
  try {
    client = connect({ deadlineSeconds: Number(process.env.KSHOT_DEADLINE ?? 60) });
    process.stdout.write(`${JSON.stringify(await classify(client, model, folder, pictures))}\n`);
    return 0;
  } catch (error) {
    const { message, code, reason, requestId, details } = error;
    const ofCall = error instanceof CallError ? { code, reason, requestId, details } : {};
    const told = { message, ...ofCall };
    process.stderr.write(`${JSON.stringify(told)}\n`);
    return 1;
  } finally {
    client?.close();
  }
}

async function classify(client, model, folder, pictures) {
  const support_set = await supportSetOf(folder);
  const queries = { encoded: { items: await Promise.all(pictures.map((each) => readFile(each))) } };
  const { adapted_model } = await client.call("Adapt", { model, support_set });
  try {
    const request = { adapted_model: adapted_model.id, queries };
    const { predictions } = await client.call("Predict", request);
    return {
      adapted_model: adapted_model.id,
      support_accuracy: adapted_model.support_accuracy,
      answers: predictions.map(({ class_name, probability }) => ({ class_name, probability })),
    };
  } finally {
    await client.call("DeleteAdaptedModel", { adapted_model: adapted_model.id });
  }
}

async function supportSetOf(folder) {
  const entries = await readdir(folder, { withFileTypes: true });
  const class_names = entries.filter((each) => each.isDirectory()).map((each) => each.name).sort();
  const [items, class_indices] = [[], []];
  for (const [index, name] of class_names.entries())
    for (const file of (await readdir(path.join(folder, name))).sort())
      if (file.toLowerCase().endsWith(".png")) {
        items.push(await readFile(path.join(folder, name, file)));
        class_indices.push(index);
      }
  return { images: { encoded: { items } }, class_indices, class_names };
}

process.exitCode = await main(process.argv.slice(2));
