/**
 * One sentence about what was just done, displayed above the page that follows. Its place is a live
 * region, so a screen reader reads it.
 */

import { h } from "./dom.js";
import { onForget } from "./session.js";

/** @type {string} */
let sentence = "";
onForget(() => { sentence = ""; });

/**
 * Say that something was done.
 *
 * @param {string} words
 */
export function notice(words) {
  sentence = words;
}

/** Return the sentence once, as an element; null if there is none. */
export function takeNotice() {
  if (!sentence) return null;
  const shown = h("div", { class: "callout good" }, h("p", {}, sentence));
  sentence = "";
  return shown;
}
