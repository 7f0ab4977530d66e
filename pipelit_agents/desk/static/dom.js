/**
 * Build the document. Text always becomes a text node, so nothing that a server sends is read as
 * markup; the page also requires Trusted Types, so a mistake here fails instead of running code.
 */

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

const SAFE_LINK = /^(#|blob:|data:image\/svg\+xml[;,])/;
const LINKS = new Set(["href", "src"]);

/**
 * Return a new element.
 *
 * @param {string} tag The element's name.
 * @param {Record<string, unknown>} [attributes] Attributes. A function under `onclick` and the like
 *   becomes a listener. `true` sets an attribute without a value; null, undefined and false set
 *   nothing. Properties of form fields (`value`, `checked`) are set as properties.
 * @param {...Child} children What goes into it.
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function" && name.startsWith("on")) {
      element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (name.startsWith("on") || name === "style") {
      throw new TypeError(`${name} isn't set here: use a listener or a class`);
    } else if (name === "value" || name === "checked") {
      /** @type {any} */ (element)[name] = value;
    } else {
      if (LINKS.has(name) && !SAFE_LINK.test(String(value))) {
        throw new TypeError(`${name} must be within the page`);
      }
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

/**
 * Append children to an element.
 *
 * @param {Node} element
 * @param {Child} child
 */
export function append(element, child) {
  if (Array.isArray(child)) {
    for (const each of child) append(element, each);
  } else if (child instanceof Node) {
    element.appendChild(child);
  } else if (child !== null && child !== undefined && child !== false) {
    element.appendChild(document.createTextNode(String(child)));
  }
}

/**
 * Replace all that is in an element.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

let count = 0;

/**
 * Return an id that no other element has.
 *
 * @param {string} prefix
 */
export function newId(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/**
 * Let a screen reader say a sentence without moving the focus.
 *
 * @param {string} sentence
 */
export function announce(sentence) {
  const region = document.getElementById("polite");
  // The same sentence twice is only read again if the text changes.
  region.textContent = region.textContent === sentence ? `${sentence}\u00a0` : sentence;
}
