// What is known of the model: how it was made, how good it is, how to use it.

import { call, download, keyed } from "./api.js";
import { clear, drawLoss, drawSteps } from "./charts.js";
import { button, html } from "./classes.js";
import { duration, estimateWords, modeWords, snippets, stageWords } from "./words.js";

// Where every pixel may count, requests still stay small.
const MOST_SIDE = 1024;
const LISTED = 8;

const at = (id) => document.querySelector(`#${id}`);

export class Report {
  constructor(store, model, failed) {
    Object.assign(this, { store, model, failed, models: [], grpc: "", costs: new Map() });
    this.clearCharts();
    at("sweep").addEventListener("click", () => this.sweep());
    at("download").addEventListener("click", () => this.save());
    at("delete").addEventListener("click", () => this.remove());
    at("copy-id").addEventListener("click", ({ target }) => copy(target, at("model-id").textContent));
    at("model").addEventListener("change", ({ target }) => this.choose(target.value));
    at("steps").addEventListener("change", ({ target }) => store.set("steps", target.value));
    at("mode").addEventListener("change", ({ target }) => store.set("mode", target.value));
  }

  /** Asks what the server offers. */
  async offer() {
    const [{ answer }, { answer: server }] = await Promise.all([call("GET", "/v1/capabilities"), call("GET", "/v1/server")]);
    this.models = answer.models ?? [];
    this.grpc = server.grpc;
    this.store.modelOf = (name) => this.models.find(({ model }) => model === name);
    const { settings } = this.store;
    at("model").append(...this.models.map(({ model }) => html("option", { value: model }, model)));
    at("model").value = this.store.modelOf(settings.model) ? settings.model : "";
    settings.model = at("model").value;
    at("steps").value = settings.steps;
    this.offerModes();
    at("mode").value = settings.mode;
  }

  /** The length to which a picture's shorter side is reduced: what the model uses, if it says so. */
  get usefulSide() {
    const named = this.store.modelOf?.(this.store.settings.model);
    const sides = (named ? [named] : this.models).map(({ max_useful_side: side }) => side || MOST_SIDE);
    return Math.min(...sides, MOST_SIDE);
  }

  /** Lists what the settings tried so far took, the newest first. */
  cost(settings, milliseconds) {
    this.costs.delete(settings);
    this.costs = new Map([[settings, milliseconds], ...this.costs].slice(0, LISTED));
    at("cost").replaceChildren(...[...this.costs].map(([name, took]) => html("li", {}, `${name}: ${duration(took)}`)));
  }

  choose(name) {
    Object.assign(this.store.settings, { steps: "", mode: "" });
    at("steps").value = "";
    this.store.set("model", name);
    this.offerModes();
  }

  offerModes() {
    const modes = this.store.modelOf(this.store.settings.model)?.batch_norm_modes ?? [];
    const options = modes.map((mode) => html("option", { value: mode }, modeWords(mode)));
    at("mode").replaceChildren(html("option", { value: "" }, "the model's own"), ...options);
    at("mode").disabled = !modes.length;
  }

  show({ type, detail }) {
    this.sweeping?.abort();
    at("progress").hidden = !["begin", "progress"].includes(type);
    if (type === "idle") this.idle(detail);
    if (type === "begin") at("progress").removeAttribute("value");
    if (type === "progress") this.progress(detail);
    if (type === "ready") this.ready(detail);
    if (type === "failed") at("status").textContent = detail.pause ? "Trying again soon…" : "There is no model of this.";
  }

  idle(why) {
    at("status").textContent = why;
    at("report").replaceChildren();
    at("use").hidden = true;
    this.clearCharts();
  }

  clearCharts() {
    clear(at("loss-chart"), "no model yet");
    clear(at("steps-chart"));
  }

  progress({ progress, losses }) {
    at("status").textContent = stageWords(progress);
    const { step_count: done = 0, total_step_count: all = 0 } = progress;
    if (all) at("progress").value = done / all;
    if (losses.length) drawLoss(at("loss-chart"), losses);
  }

  ready({ adapted_model: adapted, report, milliseconds }) {
    const steps = adapted.step_count ?? 0;
    at("status").textContent = `${adapted.model} adapted in ${duration(milliseconds)}, ${steps ? `${steps} steps` : "its head alone"}`;
    at("pace").textContent = `, last in ${duration(milliseconds)}`;
    const parts = [html("p", { class: "estimate" }, estimateWords(report.estimate, steps))];
    const others = (report.chosen_from ?? []).map(({ model }) => model).filter((name) => name !== adapted.model);
    if (others.length) parts.push(html("p", { class: "hint" }, `Chosen for these pictures; ${others.join(" and ")} fit them less.`));
    parts.push(...(report.warnings ?? []).map((text) => html("p", { class: "warning" }, text)));
    at("report").replaceChildren(...parts);
    drawLoss(at("loss-chart"), report.support_loss ?? []);
    clear(at("steps-chart"));
    const mode = modeWords(adapted.options.batch_norm_mode);
    this.cost(`${adapted.model}, ${steps} steps, batch norm ${mode}`, milliseconds);
    at("sweep").disabled = !this.store.modelOf(adapted.model)?.max_step_count;
    at("use").hidden = false;
    at("model-id").textContent = adapted.id;
    at("snippets").replaceChildren(...Object.entries(snippets(adapted.id, location.origin, this.grpc, keyed())).flatMap(([name, code]) => {
      const head = html("div", { class: "snippet-head" }, name);
      head.append(button("copy", "link", ({ target }) => copy(target, code)));
      return [head, html("pre", { tabindex: 0 }, code)];
    }));
  }

  async sweep() {
    if (!this.model.result) return;
    const sweeping = (this.sweeping = new AbortController());
    const found = [];
    at("sweep").disabled = true;
    try {
      for await (const [steps, accuracy, milliseconds] of this.model.sweep(sweeping.signal)) {
        found.push([steps, accuracy]);
        drawSteps(at("steps-chart"), found);
        this.cost(`${steps} steps with their estimate`, milliseconds);
      }
      if (!found.length) clear(at("steps-chart"), "two examples of each class first");
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    } finally {
      at("sweep").disabled = false;
    }
  }

  async save() {
    const { id } = this.model.result.adapted_model;
    try {
      const link = html("a", { download: `${id}.onnx`, href: URL.createObjectURL(await download(`/v1/adapted_models/${id}:export`)) });
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (error) {
      this.failed(error);
    }
  }

  remove() {
    this.model.forget();
    this.idle("Deleted from the server. Any change of the examples makes a new model.");
  }
}

async function copy(link, text) {
  try {
    await navigator.clipboard.writeText(text);
    link.textContent = "copied";
  } catch {
    link.textContent = "select the text to copy it";
  }
}
