// Making and changing elements. Text is only ever set as text.

export function make(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Sets a text, and leaves the element alone if it says that already: somebody may be selecting it. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A sign beside a word that says the same. */
export function icon(sign) {
  const made = make("span", "icon", sign);
  made.setAttribute("aria-hidden", "true");
  return made;
}

const shown = new WeakMap();

/** Whether `element` shows something else than `value` until now; from now on it does. */
export function changed(element, value) {
  const text = JSON.stringify(value);
  if (shown.get(element) === text) return false;
  shown.set(element, text);
  return true;
}
