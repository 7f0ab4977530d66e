/** The fields of a credential's form. */

import { fill, h } from "../dom.js";
import { changedNumber, parseExactly } from "../exact.js";
import { areaField, FieldError, NAME, selectField, textField } from "../forms.js";
import { notice } from "../notice.js";

/** @typedef {import("../forms.js").Field} Field */

const FORMS = /** @type {[string, string][]} */ ([["value", "One secret"], ["fields", "Several secrets, each with a name"]]);

/**
 * Return the fields for a credential. Secrets are never filled in: the server returns none.
 *
 * @param {import("./credentials.js").Credential} [stored] The credential that is to be replaced.
 * @param {string} [open] Its public fields, as JSON.
 * @returns {Field[]}
 */
export function credentialFields(stored, open) {
  const single = secretArea();
  const several = secretRows();
  const which = selectField({ name: "form", label: "What it is", options: FORMS });
  const choose = () => {
    single.element.hidden = which.control.value !== "value";
    several.element.hidden = which.control.value !== "fields";
  };
  which.control.addEventListener("change", choose);
  choose();
  return [
    textField({
      name: "kind", label: "Kind", required: true, maxlength: 64, value: stored?.kind,
      hint: "A label of your own, such as llm or database. For codes of an authenticator, write totp.",
    }),
    which, single, several,
    jsonField({
      name: "public", label: "Public fields, as JSON", code: true, rows: 3, value: open,
      hint: ["What isn't secret, such as ", h("code", {}, '{"base_url": "https://api.example.com"}'), ". It is displayed to everybody who may see the credential."],
    }),
    namesField({
      name: "allow", label: "Only these accounts may open it", rows: 2, value: stored?.allow?.join("\n"),
      hint: "One username a line. If it is empty, any account may.",
    }),
  ];
}

/**
 * An area that holds a JSON object; null if it is empty.
 *
 * @param {Parameters<typeof areaField>[0]} options
 * @returns {Field}
 */
function jsonField(options) {
  const field = areaField(options);
  const read = () => {
    const text = field.read();
    if (!text) return null;
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new FieldError(`This isn't JSON: ${error instanceof Error ? error.message : error}`);
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new FieldError('Write a JSON object, such as {"base_url": "https://api.example.com"}.');
    }
    const changed = changedNumber(parseExactly(text));
    if (changed) throw new FieldError(`The number ${changed} is too long for a browser. Write it as text, in quotes.`);
    return value;
  };
  return { ...field, read };
}

/**
 * An area that holds usernames; null if it is empty.
 *
 * @param {Parameters<typeof areaField>[0]} options
 * @returns {Field}
 */
function namesField(options) {
  const field = areaField(options);
  const read = () => {
    const names = field.read().split(/[\s,]+/).filter(Boolean);
    const wrong = names.find((/** @type {string} */ each) => !NAME.pattern.test(each));
    if (wrong) throw new FieldError(`“${wrong}” isn't a username.`);
    return names.length ? [...new Set(names)] : null;
  };
  return { ...field, read };
}

/** A secret may have several lines, as a key file has, so it is an area that isn't displayed. */
function secretArea() {
  const field = areaField({ name: "value", label: "Secret", required: true, rows: 3, hint: "A key, a password, a connection string, or a whole file." });
  return masked(field);
}

/**
 * @param {Field} field
 * @returns {Field}
 */
function masked(field) {
  const area = /** @type {HTMLTextAreaElement} */ (field.element.querySelector("textarea"));
  area.classList.add("mono", "masked");
  area.after(h("button", {
    type: "button", class: "link reveal", "aria-pressed": "false",
    onclick: (/** @type {Event} */ event) => {
      const button = /** @type {HTMLElement} */ (event.currentTarget);
      const shown = !area.classList.toggle("masked");
      button.setAttribute("aria-pressed", String(shown));
      fill(button, shown ? "Hide" : "Show");
    },
  }, "Show"));
  // Spaces at the ends may belong to a secret; the line break after a pasted one doesn't.
  return {
    ...field,
    read: () => {
      const text = area.value.replace(/\n$/, "");
      if (!text.trim()) throw new FieldError("Secret is missing.");
      return text;
    },
    clear: () => { area.value = ""; },
  };
}

/** @returns {Field} */
function secretRows() {
  /** @type {{ name: Field, value: Field, element: HTMLElement }[]} */
  const rows = [];
  const place = h("div", { class: "secret-rows" });
  const error = h("p", { class: "field-error", role: "alert", hidden: true });
  const add = (/** @type {boolean} */ focus) => {
    const name = textField({
      name: "field_name", label: "Field name", required: true, maxlength: 64,
    });
    const value = textField({ name: "field_value", label: "Field secret", required: true, secret: true, keep: true });
    const element = h("div", { class: "secret-row", role: "group", "aria-label": `Secret ${rows.length + 1}` }, name.element, value.element);
    const row = { name, value, element };
    rows.push(row);
    element.append(h("button", {
      type: "button", class: "quiet-button", "aria-label": "Remove this secret",
      onclick: () => {
        if (rows.length === 1) return;
        rows.splice(rows.indexOf(row), 1);
        element.remove();
        rows.at(-1).name.focus();
      },
    }, "Remove"));
    place.append(element);
    if (focus) name.focus();
  };
  add(false);
  const element = h(
    "fieldset", { class: "field" }, h("legend", {}, "Secrets"), place, error,
    h("button", { type: "button", onclick: () => add(true) }, "Add another secret"),
  );
  return {
    name: "fields", element, read: () => readRows(rows),
    complain: (message) => { error.hidden = !message; fill(error, message); },
    focus: () => (rows.find(({ element: row }) => row.querySelector("[aria-invalid]")) ?? rows[0]).name.focus(),
    clear: () => rows.forEach(({ value }) => value.clear?.()),
  };
}

/**
 * @param {{ name: Field, value: Field }[]} rows
 * @returns {Record<string, string>}
 */
function readRows(rows) {
  /** @type {[string, string][]} */
  const pairs = [];
  let wrong = false;
  for (const { name, value } of rows) {
    const read = [name, value].map((field) => {
      field.complain("");
      try {
        return field.read();
      } catch (error) {
        if (!(error instanceof FieldError)) throw error;
        field.complain(error.message);
        wrong = true;
        return "";
      }
    });
    if (pairs.some(([other]) => other === read[0] && read[0])) {
      name.complain("There is another secret with this name.");
      wrong = true;
    }
    pairs.push([read[0], read[1]]);
  }
  if (wrong) throw new FieldError("Complete the secrets above.");
  return Object.fromEntries(pairs);
}

/**
 * Return the body of the request from what the fields returned.
 *
 * @param {Record<string, any>} values
 */
export function readCredential(values) {
  /** @type {Record<string, unknown>} */
  const body = { kind: values.kind };
  if (values.form === "fields") body.fields = values.fields;
  else body.value = values.value;
  if (values.public) body.public = values.public;
  if (values.allow) body.allow = values.allow;
  return body;
}

/**
 * Say that a credential was stored, with what the library says about it.
 *
 * @param {string} words
 * @param {{ unsearched?: string[], warnings?: string[] }} stored
 */
export function saidOf(words, stored) {
  notice(`${words} ${told(stored)}`, stored.warnings);
}

/**
 * Return which parts of a stored credential are searched for.
 *
 * @param {{ unsearched?: string[] }} stored
 */
function told(stored) {
  const parts = stored.unsearched ?? [];
  if (!parts.length) return "Each of its secrets is searched for in what leaves an agent.";
  return `These parts aren't searched for in what leaves an agent, because they are too short, too common or not known to be secrets: ${parts.join(", ")}.`;
}
