/**
 * One sentence about what was just done, displayed above the page that follows. Its place is a live
 * region, so a screen reader reads it.
 */

import { h } from "./dom.js";
import { onForget } from "./session.js";

/** @type {string} */
let sentence = "";
/** @type {string[]} */
let doubts = [];
onForget(() => { notice(""); });

/**
 * Say that something was done.
 *
 * @param {string} words
 * @param {string[]} [warnings] Sentences about what may not be as it was meant.
 */
export function notice(words, warnings = []) {
  sentence = words;
  doubts = warnings;
}

/** Return the sentence once, as an element; null if there is none. */
export function takeNotice() {
  if (!sentence) return null;
  const shown = h(
    "div", { class: `callout ${doubts.length ? "warn" : "good"}` }, h("p", {}, sentence),
    doubts.length > 0 && h("ul", {}, doubts.map((each) => h("li", {}, each))),
  );
  notice("");
  return shown;
}
