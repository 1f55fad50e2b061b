// A menu under the button that opened it, for mouse and keyboard.

import { button } from "./classes.js";

/** Shows `choices`, pairs of a text and what it does. */
export function menu(anchor, choices) {
  const place = document.querySelector("#menu");
  const close = () => {
    place.hidden = true;
    if (anchor.isConnected) anchor.focus();
  };
  place.replaceChildren(...choices.map(([text, act]) => {
    const item = button(text, "", () => (close(), act()));
    item.setAttribute("role", "menuitem");
    return item;
  }));
  const box = anchor.getBoundingClientRect();
  place.style.left = `${Math.min(box.left + scrollX, document.documentElement.clientWidth - 260)}px`;
  place.style.top = `${box.bottom + scrollY + 4}px`;
  place.hidden = false;
  place.firstElementChild.focus();
  place.onkeydown = (event) => {
    const items = [...place.children];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
    if (event.key === "Escape" || event.key === "Tab") close();
    if (step || event.key === "Escape") event.preventDefault();
  };
  place.onfocusout = ({ relatedTarget }) => (place.hidden = !place.contains(relatedTarget));
}
