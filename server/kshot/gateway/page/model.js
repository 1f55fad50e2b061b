// The adapted model of what is given: made anew with each change, the latest one wins.

import { GoneError, ServerError, adapt, call } from "./api.js";
import { missing } from "./store.js";

const PAUSE = 150;
const RETRIES = [500, 1000, 2000, 4000, 8000];
const LIFE = "3600s";
const STEPS = [0, 1, 2, 5, 10, 20, 50];

export class Model extends EventTarget {
  constructor(store) {
    super();
    this.store = store;
    this.result = null; // what Adapt answered
    this.given = []; // the classes it was made of, in their order
    this.failures = 0;
  }

  /** The given classes have changed: adapts soon, and forgets what runs. */
  touch(pause = PAUSE) {
    clearTimeout(this.timer);
    this.running?.abort();
    const why = missing(this.store);
    if (why) {
      this.forget();
      return this.tell("idle", why);
    }
    this.timer = setTimeout(() => this.run(), pause);
  }

  async run() {
    const running = (this.running = new AbortController());
    const given = this.store.given.map(({ name, examples }) => ({ name: name.trim(), examples: [...examples] }));
    try {
      const losses = [];
      this.tell("begin");
      const result = await adapt({ adapt: this.request(given, { ttl: LIFE }), progress_interval: "0.05s" }, running.signal, (progress) => {
        losses.push(...(progress.support_loss ?? []));
        this.tell("progress", { progress, losses });
      });
      if (running.signal.aborted) return;
      const old = this.result;
      Object.assign(this, { result, given, failures: 0 });
      this.tell("ready", result);
      if (old) call("DELETE", `/v1/adapted_models/${old.adapted_model.id}`).catch(() => {});
    } catch (error) {
      if (!running.signal.aborted) this.failed(error);
    }
  }

  failed(error) {
    const again = error instanceof GoneError || error.retryable;
    const pause = again ? RETRIES[Math.min(this.failures++, RETRIES.length - 1)] : 0;
    this.tell("failed", { error, pause });
    if (again) this.touch(pause);
  }

  /** Where the server has lost the model, as after an hour, it is made again. */
  lost(error) {
    return error instanceof ServerError && error.status === 404;
  }

  forget() {
    const old = this.result;
    Object.assign(this, { result: null, given: [] });
    if (old) call("DELETE", `/v1/adapted_models/${old.adapted_model.id}`).catch(() => {});
  }

  /** Whether answers tell how well a picture fits: that takes two examples of each class. */
  get scored() {
    return Boolean(this.result?.report.estimate) && this.given.every(({ examples }) => examples.length > 1);
  }

  predict(picture, rejectBelow, signal) {
    const body = {
      queries: { encoded: { items: [picture.data] } },
      top_k: this.given.length,
      ...(rejectBelow === null ? {} : { reject_below: rejectBelow }),
    };
    return call("POST", `/v1/adapted_models/${this.result.adapted_model.id}:predict`, { body, signal });
  }

  /** Measures the accuracy by left-out examples after more and more steps; yields `[steps, accuracy, ms]`. */
  async *sweep(signal) {
    const model = this.result.adapted_model.model;
    const most = this.store.modelOf?.(model)?.max_step_count ?? 0;
    for (const step_count of STEPS.filter((steps) => steps <= most)) {
      const options = { step_count, estimate: true, ...(step_count ? { fold_count: 5 } : { head: "HEAD_PROTOTYPE" }) };
      const body = { ...this.request(this.given, options), model, queries: { encoded: { items: [this.given[0].examples[0].data] } } };
      const { answer, milliseconds } = await call("POST", "/v1/adapted_models:predict?timeout=120", { body, signal });
      const { estimate } = answer.report;
      if (estimate) yield [step_count, estimate.accuracy ?? 0, milliseconds];
    }
  }

  request(given, options) {
    const { model, steps, mode } = this.store.settings;
    return {
      model,
      support_set: {
        images: { encoded: { items: given.flatMap(({ examples }) => examples.map(({ data }) => data)) } },
        class_indices: given.flatMap(({ examples }, index) => examples.map(() => index)),
        class_names: given.map(({ name }) => name),
      },
      options: {
        ...(steps === "" ? {} : { step_count: Number(steps) }),
        ...(mode ? { batch_norm_mode: mode } : {}),
        ...options,
      },
    };
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent("change", { detail: { type, detail } }));
  }
}
