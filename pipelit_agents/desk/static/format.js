/** Times and counts, in words that a person reads. */

import { h } from "./dom.js";

// The pages are in English, so dates are too, in the order that the reader is used to.
const LOCALE = (navigator.languages ?? []).find((each) => each.startsWith("en")) ?? "en-GB";
const WHEN = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });
const EXACT = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });
const FROM_NOW = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto" });
const UNITS = /** @type {const} */ ([
  ["year", 365 * 86400], ["month", 30 * 86400], ["week", 7 * 86400],
  ["day", 86400], ["hour", 3600], ["minute", 60],
]);

/**
 * Return how far a time is from now, such as "in 3 days".
 *
 * @param {Date} moment
 */
export function fromNow(moment) {
  const seconds = (moment.getTime() - Date.now()) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return FROM_NOW.format(Math.trunc(seconds / length), unit);
  }
  return seconds >= 0 ? "in less than a minute" : "just now";
}

/**
 * Return a `<time>` in the reader's time zone, with UTC in its title.
 *
 * @param {string | null | undefined} iso RFC 3339.
 * @param {{ none?: string, relative?: boolean, seconds?: boolean }} [options] `none`: the words if
 *   there is no time. `relative`: also how far it is from now.
 */
export function time(iso, { none = "never", relative = false, seconds = false } = {}) {
  if (!iso) return h("span", { class: "quiet" }, none);
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return h("span", {}, String(iso));
  const utc = `${moment.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const shown = (seconds ? EXACT : WHEN).format(moment);
  return h(
    "time", { datetime: moment.toISOString(), title: utc },
    shown, relative && h("span", { class: "quiet" }, ` (${fromNow(moment)})`),
  );
}

/**
 * Return whether a time has passed.
 *
 * @param {string | null | undefined} iso
 */
export function isPast(iso) {
  return Boolean(iso) && new Date(iso).getTime() <= Date.now();
}

/**
 * Return a number with its noun: "1 key", "1,204 keys".
 *
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString(LOCALE)} ${number === 1 ? one : many}`;
}

/**
 * Return a duration in words: "40 seconds", "3 minutes".
 *
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 90) return counted(Math.max(1, Math.ceil(seconds)), "second");
  if (seconds < 5400) return counted(Math.ceil(seconds / 60), "minute");
  if (seconds < 129600) return counted(Math.ceil(seconds / 3600), "hour");
  return counted(Math.ceil(seconds / 86400), "day");
}

/**
 * Return names as a list in a sentence: "a, b and c".
 *
 * @param {readonly string[]} names
 */
export function listed(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
