/**
 * Display values that somebody else chose, exactly.
 *
 * The requester of an approval chooses its arguments, and may be a model that follows foreign
 * instructions. So no character may hide a part of a value, change the order in which it is read,
 * or pass as another. Numbers keep the digits that were sent, and fields keep their order: the
 * browser's own JSON objects keep neither.
 */

import { h } from "./dom.js";

/**
 * @typedef {{ kind: "object", entries: [string, JsonNode][] } | { kind: "array", items: JsonNode[] }
 *   | { kind: "string", value: string } | { kind: "literal", source: string }} JsonNode
 */

const MAX_DEPTH = 500;
const LITERAL = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;

/** Reads one JSON text. */
class Reader {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  /** @param {RegExp} pattern */
  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) throw new SyntaxError(`not JSON at character ${this.at}`);
    this.at = pattern.lastIndex;
    return found[0];
  }

  /**
   * Take one of some characters, with the space around it.
   *
   * @param {string} characters
   */
  mark(characters) {
    this.take(SPACE);
    const found = this.text[this.at] ?? "";
    if (!found || !characters.includes(found)) return "";
    this.at += 1;
    this.take(SPACE);
    return found;
  }

  /** @returns {string} */
  string() {
    return JSON.parse(this.take(STRING));
  }

  /**
   * @param {number} depth
   * @returns {JsonNode}
   */
  value(depth) {
    if (depth > MAX_DEPTH) throw new SyntaxError("nested too deeply");
    this.take(SPACE);
    if (this.text[this.at] === '"') return { kind: "string", value: this.string() };
    const opened = this.mark("{[");
    if (!opened) return { kind: "literal", source: this.take(LITERAL) };
    const close = opened === "{" ? "}" : "]";
    /** @type {any[]} */
    const members = [];
    if (!this.mark(close)) {
      do {
        if (opened === "{") {
          const name = this.string();
          if (!this.mark(":")) throw new SyntaxError(`no colon at character ${this.at}`);
          members.push([name, this.value(depth + 1)]);
        } else {
          members.push(this.value(depth + 1));
        }
      } while (this.mark(","));
      if (!this.mark(close)) throw new SyntaxError(`not closed at character ${this.at}`);
    }
    return opened === "{" ? { kind: "object", entries: members } : { kind: "array", items: members };
  }
}

/**
 * Parse JSON, and keep the digits of numbers and the order of fields.
 *
 * @param {string} text
 * @returns {JsonNode}
 */
export function parseExactly(text) {
  const reader = new Reader(text);
  const node = reader.value(0);
  reader.take(SPACE);
  if (reader.at !== text.length) throw new SyntaxError(`more text at character ${reader.at}`);
  return node;
}

/**
 * Return a field of an object; null if it has none.
 *
 * @param {JsonNode | null} node
 * @param {string} name
 * @returns {JsonNode | null}
 */
export function fieldOf(node, name) {
  if (node?.kind !== "object") return null;
  return node.entries.find(([each]) => each === name)?.[1] ?? null;
}

// Printable by Unicode's rules, but nothing is drawn.
const BLANK = /[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\u{1d159}\u{e0100}-\u{e01ef}]/u;
// Control, format, private and unassigned characters, halves of pairs, and unusual spaces.
const UNSEEN = /[\p{C}\p{Z}]/u;
// The blocks whose letters and digits are written from right to left.
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
const DRAWN_OVER = /[\p{Mn}\p{Me}]/u;
const MANY_SPACES = 16;
// No language puts more marks on a character, and a tower of them covers the lines around it.
const MANY_MARKS = 4;

/**
 * Split a text into characters, and say of each how it may be displayed.
 *
 * @param {string} text
 * @returns {Generator<{ character: string, plain: boolean }>}
 */
function* judged(text) {
  let before = "";
  let spaces = 0;
  let marks = 0;
  for (const character of text) {
    spaces = character === " " ? spaces + 1 : 0;
    marks = DRAWN_OVER.test(character) ? marks + 1 : 0;
    const plain = spaces <= MANY_SPACES && marks <= MANY_MARKS && isPlain(character, before);
    yield { character, plain };
    before = plain ? character : "";
  }
}

/**
 * @param {string} character
 * @param {string} before
 */
function isPlain(character, before) {
  if (character >= " " && character <= "~") return true;
  if (UNSEEN.test(character) || BLANK.test(character) || RIGHT_TO_LEFT.test(character)) return false;
  // A stroke over an ASCII digit makes another one of it.
  return !DRAWN_OVER.test(character) || before > "~";
}

/** @param {string} character */
function escaped(character) {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f" }[character];
  if (short) return short;
  let units = "";
  for (let index = 0; index < character.length; index += 1) {
    units += `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`;
  }
  return units;
}

/** @param {string} character */
function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/**
 * Return the pieces of a text, in which hidden and reversing characters are escaped and marked.
 *
 * @param {string} text
 * @param {{ json?: boolean }} [options] `json`: also escape quotes and backslashes, as JSON does.
 * @returns {(Node | string)[]}
 */
function pieces(text, { json = false } = {}) {
  /** @type {(Node | string)[]} */
  const found = [];
  let run = "";
  for (const { character, plain } of judged(text)) {
    if (plain) {
      run += json && (character === '"' || character === "\\") ? `\\${character}` : character;
      continue;
    }
    if (run) found.push(run);
    run = "";
    found.push(h("span", { class: "escape", title: codePoint(character) }, escaped(character)));
  }
  if (run) found.push(run);
  return found;
}

/**
 * Return a text that somebody else chose, in one line.
 *
 * @param {string | null | undefined} text
 * @param {{ none?: string }} [options] `none`: the words if there is no text.
 */
export function chosen(text, { none = "–" } = {}) {
  if (text === null || text === undefined || text === "") {
    return h("span", { class: "quiet" }, none);
  }
  return h("bdi", { class: "chosen", dir: "ltr" }, pieces(String(text)));
}

/**
 * Return a JSON node, indented, for display to the person who decides about it.
 *
 * @param {JsonNode} node
 * @param {string} label What it is, for a screen reader.
 */
export function exactBlock(node, label) {
  const lines = h("code", {}, [...drawn(node, "")]);
  return h(
    "pre", { class: "exact", dir: "ltr", tabindex: "0", role: "group", "aria-label": label }, lines,
  );
}

// Characters. A longer text would need too many elements to mark its parts.
const MAX_MARKED = 100_000;
// Browsers don't break a word of millions of characters: its end would be far to the right.
const LONG_PARTS = /.{1,100000}/gsu;

/**
 * Return what the server has escaped, with its parts marked where that can be done.
 *
 * @param {string} display The server's text, which counts.
 * @param {() => JsonNode | null} read Return the same value, to mark its parts.
 * @param {string} label
 */
export function exactly(display, read, label) {
  const node = display.length > MAX_MARKED ? null : read();
  const marked = node && exactBlock(node, label);
  // The server says which characters are escaped. Its rules may be newer than this browser's.
  return marked?.textContent === display ? marked : plainBlock(display, label);
}

/**
 * Return the first whole number that JavaScript would change; null if it keeps all of them.
 *
 * @param {JsonNode} node
 * @returns {string | null}
 */
export function changedNumber(node) {
  if (node.kind === "literal") {
    const whole = /^-?\d+$/.test(node.source);
    return whole && !Number.isSafeInteger(Number(node.source)) ? node.source : null;
  }
  if (node.kind === "string") return null;
  const parts = node.kind === "array" ? node.items : node.entries.map(([, value]) => value);
  return parts.map(changedNumber).find((each) => each !== null) ?? null;
}

/**
 * Return a text that the server has escaped already, in the same form.
 *
 * @param {string} text
 * @param {string} label
 */
function plainBlock(text, label) {
  const parts = text.match(LONG_PARTS) ?? [];
  return h(
    "pre", { class: "exact", dir: "ltr", tabindex: "0", role: "group", "aria-label": label },
    h("code", {}, parts.length < 2 ? text : parts.map((each) => h("span", { class: "part" }, each))),
  );
}

/**
 * @param {JsonNode} node
 * @param {string} indent
 * @returns {Generator<Node | string | (Node | string)[]>}
 */
function* drawn(node, indent) {
  const deeper = `${indent}  `;
  if (node.kind === "literal") {
    yield h("span", { class: "literal" }, node.source);
  } else if (node.kind === "string") {
    yield ['"', ...pieces(node.value, { json: true }), '"'];
  } else if (node.kind === "array") {
    if (node.items.length === 0) yield "[]";
    for (const [index, item] of node.items.entries()) {
      yield index === 0 ? `[\n${deeper}` : `,\n${deeper}`;
      yield* drawn(item, deeper);
    }
    if (node.items.length > 0) yield `\n${indent}]`;
  } else {
    if (node.entries.length === 0) yield "{}";
    for (const [index, [name, value]] of node.entries.entries()) {
      yield index === 0 ? `{\n${deeper}` : `,\n${deeper}`;
      yield h("span", { class: "name" }, '"', pieces(name, { json: true }), '"');
      yield ": ";
      yield* drawn(value, deeper);
    }
    if (node.entries.length > 0) yield `\n${indent}}`;
  }
}
