// The page: puts its parts together.

import { keyed, setKey } from "./api.js";
import { ClassCards, button, draggedExample } from "./classes.js";
import { menu } from "./menu.js";
import { Model } from "./model.js";
import { sampleShapes } from "./pad.js";
import { openCamera, readPicture } from "./photos.js";
import { Question } from "./question.js";
import { Report } from "./report.js";
import { Store } from "./store.js";
import { notesByExample } from "./words.js";

const at = (id) => document.querySelector(`#${id}`);
const QUERY = "query";
const TOLD = 3; // problems with files, in words
const AGAIN = 1000;

const store = new Store();
const model = new Model(store);
const question = new Question(model, failed, heard);
const report = new Report(store, model, failed);
const cards = new ClassCards(at("add-class"), store, { files: choose, camera: shoot, receive, menu });
let notes = new Map();
let offered = false;
let gone = false;
let asking;

function failed(error) {
  if (error.status === 401) return askForKey(keyed() ? "The server does not know this key, or it was revoked." : "");
  if (error.status === 403) return askForKey(error.message);
  if (model.lost(error)) return model.touch(0);
  tell(error.message);
  gone = !error.status || error.retryable;
  clearTimeout(asking);
  if (gone && model.result) asking = setTimeout(() => question.ask(), AGAIN);
}

/** The server answers again. */
function heard() {
  if (!gone) return;
  gone = false;
  tell("");
  if (model.failures) model.touch(0);
}

/** Says what is wrong with the server, or with what it was asked. */
function tell(text) {
  at("banner").textContent = text;
  at("banner").hidden = !text;
}

/** Says what is wrong with pictures; it stays until others come, or one has read it. */
function complain(...problems) {
  const more = problems.length - TOLD;
  const text = [...problems.slice(0, TOLD), ...(more > 0 ? [`${more} more files are no pictures.`] : [])].join(" ");
  at("problem").replaceChildren(text, closing(() => complain()));
  at("problem").hidden = !text;
}

function closing(act) {
  const cross = button("✕", "link", act);
  cross.setAttribute("aria-label", "Close");
  return cross;
}

async function add(target, files) {
  const problems = [];
  for (const file of files) {
    try {
      take(target, await readPicture(file, report.usefulSide));
    } catch (error) {
      problems.push(error.message);
    }
  }
  complain(...problems);
}

/** Takes what was dropped on a class or the question. */
function receive(target, { files }) {
  if (files.length) add(target, [...files].slice(0, target === QUERY ? 1 : files.length));
  else complain("Only pictures can be dropped here. Save the picture as a file first.");
}

function take(target, picture) {
  if (target === QUERY) question.show(picture);
  else store.addExample(target, picture);
}

function choose(target) {
  const input = at("file");
  input.multiple = target !== QUERY;
  input.onchange = () => {
    add(target, [...input.files]);
    input.value = "";
  };
  input.click();
}

async function shoot(target) {
  complain();
  try {
    await openCamera(at("camera"), report.usefulSide, (picture) => {
      take(target, picture);
      if (target === QUERY) at("camera").close();
    });
  } catch (error) {
    complain(error.message);
  }
}

/** Asks for another key; `why` says what is wrong with the last one, or that there is none. */
function askForKey(why) {
  const dialog = at("key");
  at("key-problem").textContent = why;
  if (dialog.open) return;
  dialog.onclose = () => {
    if (dialog.returnValue !== "ok") return offerKey();
    const key = at("key-text").value.trim();
    if (!/^[!-~]*$/.test(key)) return askForKey("That is no key: keys have letters, digits and underscores alone.");
    setKey(key);
    begin();
  };
  dialog.returnValue = "";
  dialog.showModal();
}

function offerKey() {
  tell("This server answers only with a key. Your work is kept.");
  at("banner").append(" ", button("Give a key", "link", () => askForKey("")));
}

function offerUndo({ what, undo }) {
  const hide = () => (at("undo").hidden = true);
  const back = button("Undo", "link", () => (hide(), undo()));
  at("undo").replaceChildren(what, back, closing(hide));
  at("undo").hidden = false;
}

/** Asks what is offered, then adapts; tries again while the server does not answer. */
async function begin() {
  try {
    if (!offered) await report.offer();
    offered = true;
    tell("");
    model.touch(0);
  } catch (error) {
    failed(error);
    if (!error.status) setTimeout(begin, 2000);
  }
}

store.addEventListener("change", ({ detail }) => {
  if (detail.adapts) {
    notes = new Map();
    if (offered) model.touch();
  }
  cards.render(notes);
  at("add-class").hidden = store.full;
});

store.addEventListener("removed", ({ detail }) => offerUndo(detail));
store.addEventListener("kept", ({ detail: done }) => {
  at("unkept").hidden = done;
});

model.addEventListener("change", ({ detail: { type, detail } }) => {
  report.show({ type, detail });
  if (type === "idle") question.ask();
  if (type === "failed") failed(detail.error);
  if (type === "ready") {
    gone = false;
    tell("");
    notes = notesByExample(detail.report.example_notes ?? [], model.given);
    cards.render(notes);
    question.ask();
  }
});

at("add-class").addEventListener("click", () => store.addClass());
at("clear").addEventListener("click", () => {
  if (store.examples.length) store.remember("All is removed.");
  store.reset();
  store.changed();
  question.clear();
});
at("sample").addEventListener("click", () => {
  if (store.examples.length) store.remember("Your classes gave way to three shapes.");
  store.replace(sampleShapes(4));
});
at("query-file").addEventListener("click", () => choose(QUERY));
at("query-camera").addEventListener("click", () => shoot(QUERY));
at("query").addEventListener("dragover", (event) => event.preventDefault());
at("query").addEventListener("drop", (event) => {
  event.preventDefault();
  event.stopPropagation();
  const example = store.exampleOf(draggedExample(event));
  if (example) question.show(example);
  else receive(QUERY, event.dataTransfer);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) complain("Drop pictures on a class, or on the question.");
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  const target = at("query").contains(document.activeElement) ? QUERY : (store.classOf(cards.active) ?? store.classes[0]).id;
  if (files.length) add(target, files);
});

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = localStorage.getItem("kshot-theme") ?? (dark ? "dark" : "light");
at("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("kshot-theme", theme);
});

await store.load();
document.querySelector("main").inert = false;
cards.render();
begin();
