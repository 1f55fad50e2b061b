// The cards of the classes: a pad, pictures, and what is wrong with them.

import { Pad } from "./pad.js";
import { sourceOf } from "./photos.js";

const EXAMPLE = "text/x-kshot-example";

export class ClassCards {
  /** Cards go before `end`; `act` says what buttons do: `{ files, camera, receive, menu }`. */
  constructor(end, store, act) {
    Object.assign(this, { end, store, act, cards: new Map(), active: null });
  }

  /** Draws what has changed; pads and fields that one uses stay. */
  render(notes = new Map()) {
    for (const [id, card] of this.cards) {
      if (!this.store.classOf(id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    for (const each of this.store.classes) {
      let card = this.cards.get(each.id);
      if (!card) {
        card = this.make(each);
        this.cards.set(each.id, card);
        this.end.before(card.element);
      }
      this.fill(card, each, notes);
    }
  }

  make({ id, name }) {
    const element = html("section", { class: "class", "aria-label": name });
    const head = html("div", { class: "class-head" });
    const field = html("input", { value: name, maxlength: 60, "aria-label": "Name of the class" });
    const count = html("span", { class: "count" });
    const remove = button("✕", "quiet", () => this.store.removeClass(id));
    remove.setAttribute("aria-label", `Remove the class ${name}`);
    head.append(field, count, remove);
    const sheet = html("div", { class: "sheet" });
    const canvas = html("canvas", { class: "pad", width: 448, height: 280, tabindex: 0, role: "img", "aria-label": `Pad to draw an example of ${name}` });
    const pad = new Pad(canvas);
    const add = button("Add drawing", "primary", () => this.addDrawing(id, pad));
    const actions = html("div", { class: "actions" });
    const ofPad = [add, button("Undo", "", () => pad.undo()), button("Clear", "", () => pad.clear())];
    actions.append(...ofPad, button("Pictures…", "", () => this.act.files(id)), button("Camera", "", () => this.act.camera(id)));
    const offer = () => ofPad.forEach((each) => (each.disabled = pad.empty));
    offer();
    pad.addEventListener("stroke", offer);
    pad.addEventListener("done", () => this.addDrawing(id, pad));
    field.addEventListener("input", () => this.store.rename(id, field.value));
    const thumbs = html("ul", { class: "thumbs" });
    const list = html("ul", { class: "notes" });
    sheet.append(canvas);
    element.append(head, sheet, actions, thumbs, list);
    element.addEventListener("focusin", () => (this.active = id));
    element.addEventListener("pointerdown", () => (this.active = id));
    this.receive(element, id);
    return { element, field, count, thumbs, list, pad, add, remove };
  }

  addDrawing(id, pad) {
    if (pad.empty) return;
    const picture = pad.picture();
    pad.clear();
    this.store.addExample(id, picture);
  }

  fill({ element, field, count, thumbs, list, remove }, { id, name, examples }, notes) {
    element.setAttribute("aria-label", name || "unnamed class");
    if (field.value !== name) field.value = name;
    count.textContent = examples.length === 1 ? "1 example" : `${examples.length} examples`;
    remove.disabled = this.store.classes.length <= 2;
    this.fillThumbs(thumbs, id, examples.map((example, index) => [example, `${name} ${index + 1}`, notes.get(example.id)]));
    list.replaceChildren(...examples.flatMap(({ id: one }) => notes.get(one) ?? []).map((text) => html("li", {}, text)));
  }

  /** Shows examples, their labels and notes; makes anew only what has changed, as each decodes its picture. */
  fillThumbs(thumbs, classId, examples) {
    const shown = new Map([...thumbs.children].map((item) => [item.dataset.shows, item]));
    const items = examples.map(([example, label, notes]) => {
      const shows = JSON.stringify([example.id, label, notes]);
      return shown.get(shows) ?? this.thumb(shows, example, classId, label, notes);
    });
    if (items.length === shown.size && items.every((item, index) => item === thumbs.children[index])) return;
    const focused = document.activeElement?.dataset?.example;
    thumbs.replaceChildren(...items);
    if (focused) thumbs.querySelector(`[data-example="${focused}"]`)?.focus();
  }

  thumb(shows, example, classId, label, notes) {
    const item = html("li", { "data-shows": shows });
    const element = button("", [example.kind, ...(notes ? ["flawed"] : [])].join(" "), () => this.act.menu(element, this.choices(example.id, classId)));
    element.dataset.example = example.id;
    element.draggable = true;
    element.setAttribute("aria-label", `${label}${notes ? `: ${notes.join("; ")}` : ""}. Move or remove`);
    element.setAttribute("aria-haspopup", "menu");
    element.title = notes?.join("\n") ?? label;
    element.append(html("img", { src: sourceOf(example), alt: "" }));
    element.addEventListener("dragstart", (event) => event.dataTransfer.setData(EXAMPLE, String(example.id)));
    item.append(element);
    return item;
  }

  choices(exampleId, classId) {
    const others = this.store.classes.filter(({ id }) => id !== classId);
    return [
      ...others.map(({ id, name }) => [`Move to ${name || "unnamed class"}`, () => this.store.moveExample(exampleId, id)]),
      ["Remove", () => this.store.removeExample(exampleId)],
    ];
  }

  receive(element, id) {
    element.addEventListener("dragover", (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", ({ relatedTarget }) => {
      if (!element.contains(relatedTarget)) element.classList.remove("over");
    });
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      element.classList.remove("over");
      const moved = draggedExample(event);
      if (moved) this.store.moveExample(moved, id);
      else this.act.receive(id, event.dataTransfer);
    });
  }
}

/** The id of the example that is dropped; 0 if it is something else. */
export const draggedExample = ({ dataTransfer }) => Number(dataTransfer.getData(EXAMPLE));

export function html(name, attributes = {}, text = "") {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

export function button(text, kind, act) {
  const element = html("button", { type: "button", ...(kind ? { class: kind } : {}) }, text);
  element.addEventListener("click", act);
  return element;
}
