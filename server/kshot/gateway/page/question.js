// The picture one asks about, and the answer as one draws.

import { html } from "./classes.js";
import { Pad } from "./pad.js";
import { sourceOf } from "./photos.js";
import { duration, percent } from "./words.js";

// The share of pictures of the classes themselves that may be called none of them.
const REJECT_BELOW = 0.05;
// The least score is half of one in the number of examples and one: with fewer nothing is below.
const ENOUGH = 10;

export class Question {
  /** `failed` hears of errors. */
  constructor(model, failed) {
    Object.assign(this, { model, failed, photo: null });
    this.pad = new Pad(document.querySelector("#query-pad"));
    this.image = document.querySelector("#query-photo");
    this.answer = document.querySelector("#answer");
    this.reject = document.querySelector("#reject");
    for (const name of ["draw", "stroke"]) this.pad.addEventListener(name, () => this.ask());
    this.reject.addEventListener("change", () => this.ask());
    document.querySelector("#query-undo").addEventListener("click", () => this.pad.undo());
    document.querySelector("#query-clear").addEventListener("click", () => this.clear());
  }

  get picture() {
    return this.photo ?? (this.pad.empty ? null : this.pad.picture());
  }

  show(photo) {
    this.photo = photo;
    this.image.src = sourceOf(photo);
    this.swap();
    this.ask();
  }

  clear() {
    this.photo = null;
    this.pad.clear();
    this.swap();
    this.ask();
  }

  swap() {
    this.image.hidden = !this.photo;
    this.pad.canvas.hidden = Boolean(this.photo);
  }

  get rejectBelow() {
    const count = this.model.given.flatMap(({ examples }) => examples).length;
    return this.reject.checked && this.model.scored && count >= ENOUGH ? REJECT_BELOW : null;
  }

  /** Asks for the newest picture; while an answer is on its way, only the last one waits. */
  async ask() {
    if (!this.picture || !this.model.result) {
      this.answer.replaceChildren();
      return;
    }
    if (this.asking) {
      this.stale = true;
      return;
    }
    this.asking = true;
    try {
      do {
        this.stale = false;
        const model = this.model.result;
        const found = await this.model.predict(this.picture, this.rejectBelow);
        if (this.model.result === model && this.picture) this.say(found);
      } while (this.stale && this.picture && this.model.result);
    } catch (error) {
      this.failed(error);
    } finally {
      this.asking = false;
    }
  }

  say({ answer, milliseconds, server }) {
    const [prediction] = answer.predictions;
    const none = prediction.none_of_these;
    const verdict = html("p", { class: none ? "verdict none" : "verdict" }, none ? "None of these" : prediction.class_name);
    const bars = prediction.top_classes.map(({ class_name: name, probability = 0 }) => {
      const bar = html("div", { class: "bar" });
      const meter = html("meter", { min: 0, max: 1, value: probability, "aria-label": name });
      bar.append(html("span", { title: name }, name), meter, html("span", { class: "value" }, percent(probability)));
      return bar;
    });
    const took = html("p", { class: "took" }, `Round trip ${duration(milliseconds)}, ${duration(server)} of it in the server`);
    const warnings = (answer.warnings ?? []).map((text) => html("p", { class: "warning" }, text));
    this.answer.replaceChildren(verdict, ...bars, took, ...warnings);
  }
}
