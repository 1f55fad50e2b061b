// The picture one asks about, and the answer as one draws.

import { html } from "./classes.js";
import { Pad } from "./pad.js";
import { sourceOf } from "./photos.js";
import { duration, percent } from "./words.js";

// The share of pictures of the classes themselves that may be called none of them.
const REJECT_BELOW = 0.05;
// The least score is half of one in the number of examples and one: with fewer nothing is below.
const ENOUGH = 10;
const LISTED = 6;

function barOf([name, share]) {
  const bar = html("div", { class: "bar" });
  const meter = html("meter", { min: 0, max: 1, value: share, "aria-label": name });
  meter.style.setProperty("--share", share);
  bar.append(html("span", { title: name }, name), meter, html("span", { class: "value" }, percent(share)));
  return bar;
}

export class Question {
  /** `failed` hears of errors, `heard` of answers. */
  constructor(model, failed, heard) {
    Object.assign(this, { model, failed, heard, photo: null });
    this.pad = new Pad(document.querySelector("#query-pad"));
    this.image = document.querySelector("#query-photo");
    this.answer = document.querySelector("#answer");
    this.reject = document.querySelector("#reject");
    for (const name of ["draw", "stroke"]) this.pad.addEventListener(name, () => this.ask());
    this.reject.addEventListener("change", () => this.ask());
    this.undo = document.querySelector("#query-undo");
    this.undo.addEventListener("click", () => this.pad.undo());
    this.clearing = document.querySelector("#query-clear");
    this.clearing.addEventListener("click", () => this.clear());
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
    this.pad.canvas.parentElement.hidden = Boolean(this.photo);
  }

  get rejectBelow() {
    const count = this.model.given.flatMap(({ examples }) => examples).length;
    return this.reject.checked && this.model.scored && count >= ENOUGH ? REJECT_BELOW : null;
  }

  /** Asks for the newest picture; while an answer is on its way, only the last one waits. */
  async ask() {
    this.undo.disabled = Boolean(this.photo) || this.pad.empty;
    this.clearing.disabled = !this.photo && this.pad.empty;
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
        this.heard();
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
    const ranked = prediction.top_classes.map(({ class_name: name, probability = 0 }) => [name, probability]);
    const rest = ranked.length > LISTED + 1 ? ranked.splice(LISTED) : [];
    if (rest.length) ranked.push([`${rest.length} others`, rest.reduce((sum, [, share]) => sum + share, 0)]);
    const bars = ranked.map(barOf);
    const took = html("p", { class: "took" }, `Round trip ${duration(milliseconds)}, ${duration(server)} of it in the server`);
    const warnings = (answer.warnings ?? []).map((text) => html("p", { class: "warning" }, text));
    this.answer.replaceChildren(verdict, ...bars, took, ...warnings);
  }
}
