/** What pages are made of: headings, tables, facts, tabs and pagers. */

import { h, newId } from "./dom.js";
import { chosen } from "./exact.js";
import { link } from "./router.js";

/** @typedef {import("./dom.js").Child} Child */

/**
 * Return a page.
 *
 * @param {object} options
 * @param {Child} options.title
 * @param {Child} [options.lead] What the page is for.
 * @param {Child} [options.actions] Links and buttons beside the heading.
 * @param {{ href: string, words: string }} [options.up] The page above.
 * @param {...Child} content
 */
export function page({ title, lead, actions, up }, ...content) {
  return h(
    "div", { class: "page" },
    up && h("p", { class: "up" }, h("a", { href: up.href }, `‹ ${up.words}`)),
    h(
      "div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, title), actions && h("div", { class: "buttons" }, actions),
    ),
    lead && h("p", { class: "lead" }, lead),
    content,
  );
}

/**
 * Return a section with a heading.
 *
 * @param {string} title
 * @param {{ lead?: Child, actions?: Child }} options
 * @param {...Child} content
 */
export function section(title, { lead, actions } = {}, ...content) {
  const id = newId("section");
  return h(
    "section", { "aria-labelledby": id },
    h("div", { class: "section-head" }, h("h2", { id }, title), actions && h("div", { class: "buttons" }, actions)),
    lead && h("p", { class: "hint" }, lead),
    content,
  );
}

/**
 * @template T
 * @typedef {{ label: string, cell: (row: T) => Child, actions?: boolean, whole?: boolean }} Column
 * `actions`: it has buttons. `whole`: its words aren't broken.
 */

/**
 * Return a table. On a narrow screen each row becomes a block.
 *
 * @template T
 * @param {object} options
 * @param {string} options.caption What it lists, for a screen reader.
 * @param {Column<T>[]} options.columns The first one names the row.
 * @param {readonly T[]} options.rows
 * @param {Child} options.empty What to say if there are no rows.
 */
export function table({ caption, columns, rows, empty }) {
  if (rows.length === 0) return emptyState(empty);
  // With the roles, it is still a table where the style sheet displays its rows as blocks.
  return h(
    "table", { role: "table" }, h("caption", { class: "hidden-text" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(({ label, actions }) => h(
      "th", { scope: "col", role: "columnheader" },
      actions ? h("span", { class: "hidden-text" }, label) : label,
    )))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, columns.map((column, index) => h(
      index === 0 ? "th" : "td",
      {
        scope: index === 0 ? "row" : null, role: index === 0 ? "rowheader" : "cell",
        "data-label": column.actions ? null : column.label,
        class: column.actions ? "actions" : column.whole ? "whole" : null,
      },
      h("div", {}, column.cell(row)),
    ))))),
  );
}

/**
 * Return what is displayed in place of an empty list.
 *
 * @param {Child} content
 */
export function emptyState(content) {
  return h("div", { class: "empty" }, typeof content === "string" ? h("p", {}, content) : content);
}

/**
 * Return names with their values. A row whose value is null is left out.
 *
 * @param {[string, Child][]} rows
 */
export function facts(rows) {
  return h("dl", { class: "facts" }, rows
    .filter(([, value]) => value !== null && value !== undefined && value !== false)
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/**
 * Return a small label.
 *
 * @param {"good" | "bad" | "warn" | "plain" | "accent"} tone
 * @param {string} words
 */
export function tag(tone, words) {
  return h("span", { class: `tag ${tone}` }, words);
}

/**
 * Return links between the parts of a page.
 *
 * @param {string} label
 * @param {{ href: string, words: string, here: boolean }[]} tabs
 */
export function tabs(label, tabs) {
  return h("nav", { class: "tabs", "aria-label": label }, tabs.map(({ href, words, here }) => h(
    "a", { href, "aria-current": here ? "page" : null }, words,
  )));
}

/**
 * Return the links to the first and to the next page of a list; nothing if it is all there.
 *
 * The place in the list is in the address, so the back button returns to the page before, and the
 * document stays small however long the list is.
 *
 * @param {string[]} path
 * @param {Record<string, string | null | undefined>} query
 * @param {string | number | null} next
 * @param {{ first?: string, more?: string }} [words]
 */
export function pager(path, query, next, { first = "First page", more = "Next page" } = {}) {
  const later = Boolean(query.after);
  if (!later && (next === null || next === undefined)) return null;
  return h(
    "nav", { class: "pager", "aria-label": "Pages of the list" },
    later && h("a", { class: "button", href: link(path, { ...query, after: null }) }, first),
    next !== null && next !== undefined
      ? h("a", { class: "button", href: link(path, { ...query, after: String(next) }) }, more)
      : h("span", { class: "quiet" }, "This is the end of the list."),
  );
}

/**
 * Return a link to an account's page.
 *
 * @param {string} username
 */
export function account(username) {
  return h("a", { href: link(["people", username]), class: "account" }, chosen(username));
}

/**
 * Return a note that stands out.
 *
 * @param {"info" | "warn" | "bad" | "good"} tone
 * @param {...Child} content
 */
export function note(tone, ...content) {
  return h("div", { class: `callout ${tone}` }, content);
}
