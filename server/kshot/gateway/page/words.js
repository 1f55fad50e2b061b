// What the server's reports mean, in sentences.

const FLAWS = {
  EXAMPLE_FLAW_BLANK: () => "is blank",
  EXAMPLE_FLAW_DUPLICATE: (other) => `is the same as ${other}`,
  EXAMPLE_FLAW_NEAR_IDENTICAL: (other) => `is nearly the same as ${other}`,
  EXAMPLE_FLAW_MISLABELLED: (_, name) => `looks like “${name}”`,
  EXAMPLE_FLAW_FAR: () => "is unlike all others",
};

const STAGES = {
  ADAPT_STAGE_QUEUED: "Waiting for a turn…",
  ADAPT_STAGE_PREPARING: "Reading the examples…",
  ADAPT_STAGE_ADAPTING: "Adapting…",
  ADAPT_STAGE_ESTIMATING: "Estimating the accuracy…",
  ADAPT_STAGE_STORING: "Keeping the model…",
};

const MODES = {
  BATCH_NORM_MODE_SUPPORT: "by the examples: each answer stands alone",
  BATCH_NORM_MODE_SUPPORT_AND_QUERY: "examples and each question: slower, as in the paper",
  BATCH_NORM_MODE_TRANSDUCTIVE: "by the questions together: for many at once, not for one",
  BATCH_NORM_MODE_STORED: "as trained",
};

export const modeWords = (mode) => MODES[mode] ?? mode;
export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)}\u00a0ms` : `${(ms / 1000).toFixed(1)}\u00a0s`);

export function stageWords({ stage, step_count = 0, total_step_count = 0 }) {
  const words = STAGES[stage] ?? "Adapting…";
  return total_step_count ? `${words} step ${step_count} of ${total_step_count}` : words;
}

/** Notes by example id: `given` are the classes in the order they were sent. */
export function notesByExample(notes, given) {
  const examples = given.flatMap(({ name, examples: all }) => all.map((one, index) => ({ id: one.id, label: `${name} ${index + 1}` })));
  const found = new Map();
  for (const { index = 0, flaw, other_index: other, class_index: number } of notes) {
    const example = examples[index];
    const say = FLAWS[flaw];
    if (!example || !say) continue;
    const text = say(examples[other]?.label ?? "another", given[number]?.name ?? "another class");
    found.set(example.id, [...(found.get(example.id) ?? []), `${example.label} ${text}`]);
  }
  return found;
}

/** `steps` were taken: beside these, the estimate is made on request only. */
export function estimateWords(estimate, steps) {
  if (!estimate && steps) return "No estimate yet: with inner steps it takes longer. Press “measure” for it.";
  if (!estimate) return "No estimate: that takes two examples of two classes.";
  const { accuracy = 0, low = 0, high = 0, example_count: count = 0 } = estimate;
  return `About ${percent(accuracy)} right on new pictures (${percent(low)} to ${percent(high)}), by ${count} left-out examples`;
}

/** The same call in three languages; with `keyed`, the key is in KSHOT_API_KEY. */
export function snippets(id, origin, grpc, keyed) {
  const secure = origin.startsWith("https:");
  const queries = '"queries": {"encoded": {"items": ["%s"]}}';
  // From a pipe: a command line does not hold a photograph.
  const picture = `"$(base64 < query.png | tr -d '\\n')"`;
  return {
    Python: `from kshot.client import Client

${keyed ? "# the key is read from KSHOT_API_KEY\n" : ""}with Client("${grpc}"${secure ? ", tls=True" : ""}) as client:
    result = client.get("${id}").predict(["query.png"])
    print(result.labels, result.probabilities)`,
    curl: `printf '{${queries}}' ${picture} |
  curl -s --json @- ${keyed ? '-H "Authorization: Bearer $KSHOT_API_KEY" ' : ""}\\
  ${origin}/v1/adapted_models/${id}:predict`,
    grpcurl: `printf '{"adapted_model": "${id}", ${queries}}' ${picture} |
  grpcurl ${secure ? "" : "-plaintext "}-d @ ${keyed ? "-expand-headers -H 'authorization: Bearer ${KSHOT_API_KEY}' " : ""}\\
  ${grpc} kshot.v1.AdaptationService/Predict`,
  };
}
