// What one has given: classes and examples, kept in this browser.

const NAME = "kshot";
const MOST_CLASSES = 20;

export class Store extends EventTarget {
  constructor() {
    super();
    this.classes = [];
    this.settings = { model: "", steps: "", mode: "" };
    this.nextId = 1;
  }

  async load() {
    const kept = await read().catch(() => null);
    if (kept?.classes?.length) Object.assign(this, kept);
    else this.reset();
  }

  /** Remembers the classes as they are, so that what comes next can be undone. */
  remember(what) {
    const before = this.classes.map((each) => ({ ...each, examples: [...each.examples] }));
    const undo = () => {
      this.classes = before;
      this.changed();
    };
    this.dispatchEvent(new CustomEvent("removed", { detail: { what, undo } }));
  }

  reset() {
    this.classes = [];
    this.addClass("Class 1");
    this.addClass("Class 2");
  }

  /** Takes classes with pictures, `{ name, pictures }`, in place of all there are. */
  replace(classes) {
    const numbered = (picture) => ({ ...picture, id: this.nextId++ });
    this.classes = classes.map(({ name, pictures }) => ({ id: this.nextId++, name, examples: pictures.map(numbered) }));
    this.changed();
  }

  get full() {
    return this.classes.length >= MOST_CLASSES;
  }

  /** The classes that have examples; the model knows these. */
  get given() {
    return this.classes.filter(({ examples }) => examples.length);
  }

  get examples() {
    return this.given.flatMap(({ examples }) => examples);
  }

  addClass(name) {
    if (this.full) return;
    this.classes.push({ id: this.nextId++, name: name ?? this.freeName(), examples: [] });
    this.changed(false);
  }

  freeName() {
    let number = this.classes.length + 1;
    while (this.classes.some(({ name }) => name === `Class ${number}`)) number += 1;
    return `Class ${number}`;
  }

  removeClass(id) {
    this.remember(`“${this.classOf(id).name}” is removed.`);
    this.classes = this.classes.filter((each) => each.id !== id);
    this.changed();
  }

  rename(id, name) {
    this.classOf(id).name = name;
    this.changed(this.classOf(id).examples.length > 0);
  }

  addExample(id, picture) {
    this.classOf(id)?.examples.push({ ...picture, id: this.nextId++ });
    this.changed();
  }

  removeExample(id) {
    this.remember("The example is removed.");
    for (const each of this.classes) each.examples = each.examples.filter((one) => one.id !== id);
    this.changed();
  }

  exampleOf(id) {
    return this.examples.find((one) => one.id === id);
  }

  moveExample(id, classId) {
    const example = this.exampleOf(id);
    const target = this.classOf(classId);
    if (!example || !target || target.examples.includes(example)) return;
    for (const each of this.classes) each.examples = each.examples.filter((one) => one !== example);
    target.examples.push(example);
    this.changed();
  }

  set(name, value) {
    this.settings[name] = value;
    this.changed();
  }

  classOf(id) {
    return this.classes.find((each) => each.id === id);
  }

  changed(adapts = true) {
    this.dispatchEvent(new CustomEvent("change", { detail: { adapts } }));
    const { classes, settings, nextId } = this;
    write({ classes, settings, nextId }).then(() => this.kept(true), () => this.kept(false));
  }

  kept(done) {
    this.dispatchEvent(new CustomEvent("kept", { detail: done }));
  }
}

/** Says why there can be no model yet; empty if there can be one. */
export function missing(store) {
  const { given } = store;
  const names = given.map(({ name }) => name.trim());
  if (given.length < 2) return "Give examples of two classes or more.";
  if (names.includes("")) return "Name every class.";
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  return twice === undefined ? "" : `Two classes are called “${twice}”. Rename one.`;
}

function open() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(NAME);
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

async function transact(mode, act) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(NAME, mode);
    const asked = act(transaction.objectStore(NAME));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = () => reject(transaction.error);
  }).finally(() => database.close());
}

const read = () => transact("readonly", (store) => store.get("state"));
const write = (state) => transact("readwrite", (store) => store.put(state, "state"));
