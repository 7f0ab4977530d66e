/** Forms: labels, hints, errors beside the fields, and one request at a time. */

import { Cancelled, NoAnswer, Problem, wordsOf } from "./api.js";
import { announce, fill, h, newId } from "./dom.js";

/**
 * @typedef {object} Field
 * @property {string} name The name in the API, by which its errors are found.
 * @property {HTMLElement} element
 * @property {() => any} read Return the value, or throw a {@link FieldError}.
 * @property {(message: string) => void} complain Show an error beside the field; "" removes it.
 * @property {() => void} focus
 * @property {() => void} [clear] Forget what was typed, if it is a secret.
 */

/** What was typed in a field can't be used. */
export class FieldError extends Error {}

/**
 * @typedef {object} Common
 * @property {string} name
 * @property {string} label
 * @property {Child} [hint]
 * @property {boolean} [required]
 * @property {string} [value]
 */
/** @typedef {import("./dom.js").Child} Child */

/**
 * Return a field around a control.
 *
 * @param {Common} common
 * @param {HTMLElement} control The `<input>`, `<select>` or `<textarea>`.
 * @param {{ read: () => any, clear?: () => void, after?: Child }} how
 * @returns {Field}
 */
function wrapped({ name, label, hint, required }, control, { read, clear, after }) {
  const id = newId(name);
  const error = h("p", { class: "field-error", id: `${id}-error`, hidden: true });
  const described = [`${id}-error`, hint && `${id}-hint`].filter(Boolean).join(" ");
  control.id = id;
  control.setAttribute("name", name);
  control.setAttribute("aria-describedby", described);
  if (required) control.setAttribute("aria-required", "true");
  const element = h(
    "div", { class: "field" },
    h("label", { for: id }, label, !required && h("span", { class: "quiet" }, " (optional)")),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
    control, after, error,
  );
  return {
    name, element, read, clear,
    complain: (message) => complain(control, error, message),
    focus: () => control.focus(),
  };
}

/**
 * @param {HTMLElement} control
 * @param {HTMLElement} error
 * @param {string} message
 */
function complain(control, error, message) {
  error.hidden = !message;
  fill(error, message);
  if (message) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/**
 * A line of text.
 *
 * @param {Common & { maxlength?: number, pattern?: RegExp, wrong?: string, secret?: boolean,
 *   autocomplete?: string, inputmode?: string, placeholder?: string, code?: boolean,
 *   keep?: boolean }} options
 *   `wrong`: what to say if `pattern` doesn't match. `secret`: not shown, with a button that shows
 *   it. `code`: a code of a second factor. `keep`: don't strip spaces.
 * @returns {Field}
 */
export function textField(options) {
  const { label, required, pattern, wrong, secret, code, keep } = options;
  const input = /** @type {HTMLInputElement} */ (h("input", {
    type: secret ? "password" : "text", value: options.value ?? "", maxlength: options.maxlength,
    autocomplete: options.autocomplete ?? (code ? "one-time-code" : "off"), autocapitalize: "none",
    autocorrect: "off", spellcheck: "false", inputmode: options.inputmode, class: code ? "code" : "",
    placeholder: options.placeholder, "data-1p-ignore": true, "data-lpignore": "true",
  }));
  const read = () => {
    const text = keep ? input.value : input.value.trim();
    if (!text && required) throw new FieldError(`${label} is missing.`);
    if (text && pattern && !pattern.test(text)) throw new FieldError(wrong ?? `${label} has another form.`);
    return text;
  };
  const after = secret ? revealButton(input) : null;
  const clear = secret || code ? () => { input.value = ""; } : undefined;
  return wrapped(options, input, { read, clear, after });
}

/** @param {HTMLInputElement} input */
function revealButton(input) {
  const button = h("button", {
    type: "button", class: "link reveal", "aria-pressed": "false", "aria-label": "Show what is typed",
    onclick: () => {
      const shown = input.type === "password";
      input.type = shown ? "text" : "password";
      button.setAttribute("aria-pressed", String(shown));
      fill(button, shown ? "Hide" : "Show");
    },
  }, "Show");
  return button;
}

/**
 * A code of an authenticator app, or a recovery code.
 *
 * @param {Partial<Common>} [options]
 * @returns {Field}
 */
export function codeField(options = {}) {
  return textField({
    name: "code", label: "Code", required: true, code: true, maxlength: 64,
    hint: "6 digits from your authenticator app, or a recovery code.", ...options,
  });
}

/** The rule for names of accounts and credentials. */
export const NAME = {
  pattern: /^[a-z0-9][a-z0-9_.-]{0,148}$/, maxlength: 149,
  wrong: "Use 1 to 149 of the characters a-z 0-9 _ . - and begin with a letter or digit.",
};

/**
 * Several lines of text.
 *
 * @param {Common & { rows?: number, maxlength?: number, code?: boolean }} options
 * @returns {Field}
 */
export function areaField(options) {
  const area = /** @type {HTMLTextAreaElement} */ (h("textarea", {
    rows: options.rows ?? 3, maxlength: options.maxlength, value: options.value ?? "",
    spellcheck: "false", autocomplete: "off", class: options.code ? "mono" : "",
  }));
  const read = () => {
    if (!area.value.trim() && options.required) throw new FieldError(`${options.label} is missing.`);
    return area.value.trim();
  };
  return wrapped(options, area, { read });
}

/**
 * A choice from a list.
 *
 * @param {Common & { options: [string, string][] }} options Pairs of a value and its words.
 * @returns {Field & { control: HTMLSelectElement }}
 */
export function selectField(options) {
  const select = /** @type {HTMLSelectElement} */ (h(
    "select", {}, options.options.map(([value, words]) => h("option", { value }, words)),
  ));
  select.value = options.value ?? options.options[0][0];
  const field = wrapped({ required: true, ...options }, select, { read: () => select.value });
  return { ...field, control: select };
}

/**
 * A box to tick.
 *
 * @param {{ name: string, label: string, hint?: Child, checked?: boolean }} options
 * @returns {Field}
 */
export function checkField({ name, label, hint, checked }) {
  const id = newId(name);
  const error = h("p", { class: "field-error", id: `${id}-error`, hidden: true });
  const box = /** @type {HTMLInputElement} */ (h("input", {
    type: "checkbox", id, name, checked: Boolean(checked),
    "aria-describedby": [`${id}-error`, hint && `${id}-hint`].filter(Boolean).join(" "),
  }));
  const element = h(
    "div", { class: "field check" }, box, h("label", { for: id }, label),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint), error,
  );
  return {
    name, element, read: () => box.checked,
    complain: (message) => complain(box, error, message), focus: () => box.focus(),
  };
}

const EXPIRY = /** @type {[string, string][]} */ ([
  ["90", "In 90 days"], ["30", "In 30 days"], ["7", "In 7 days"], ["365", "In a year"],
  ["date", "At a date…"], ["", "Never"],
]);

/**
 * When a key expires: after some days, at a date, or never.
 *
 * @param {{ name: string, label?: string }} options
 * @returns {Field} It reads as RFC 3339, or null for never.
 */
export function expiryField({ name, label = "Key expires" }) {
  const when = /** @type {HTMLInputElement} */ (h("input", { type: "datetime-local", "aria-label": "Date and time, in your time zone" }));
  const place = h("div", { class: "second-control", hidden: true }, when);
  const select = /** @type {HTMLSelectElement} */ (h(
    "select", { onchange: () => { place.hidden = select.value !== "date"; } },
    EXPIRY.map(([value, words]) => h("option", { value }, words)),
  ));
  select.value = "90";
  const read = () => {
    if (select.value === "") return null;
    if (select.value !== "date") return new Date(Date.now() + Number(select.value) * 86_400_000).toISOString();
    const moment = new Date(when.value);
    if (Number.isNaN(moment.getTime())) throw new FieldError("Choose a date and a time.");
    if (moment.getTime() <= Date.now()) throw new FieldError("Choose a time in the future.");
    return moment.toISOString();
  };
  const field = wrapped({ name, label, required: true }, select, { read, after: place });
  return { ...field, focus: () => (select.value === "date" ? when : select).focus() };
}

/**
 * Return a form. It sends one request at a time, and shows errors beside their fields.
 *
 * @param {object} options
 * @param {Field[]} options.fields
 * @param {string} options.submit The words on the button.
 * @param {string} [options.busy] The words while it waits.
 * @param {(values: Record<string, any>) => Promise<unknown>} options.action
 * @param {Child} [options.cancel] A link or a button beside the other.
 * @param {Child} [options.before] What is above the fields.
 * @param {boolean} [options.danger]
 * @returns {HTMLFormElement}
 */
export function form({ fields, submit, busy, action, cancel, before, danger }) {
  let waiting = false;
  const failure = h("div", { class: "failure", role: "alert", tabindex: "-1", hidden: true });
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, submit);
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (waiting) return;
    failure.hidden = true;
    for (const field of fields) field.complain("");
    const values = readAll(fields);
    if (!values) return;
    waiting = true;
    button.setAttribute("aria-disabled", "true");
    fill(button, busy ?? "Please wait…");
    try {
      await action(values);
      for (const field of fields) field.clear?.();
    } catch (error) {
      showFailure(fields, failure, error);
    } finally {
      waiting = false;
      button.removeAttribute("aria-disabled");
      fill(button, submit);
    }
  };
  return /** @type {HTMLFormElement} */ (h(
    "form", { class: "form", novalidate: true, autocomplete: "off", onsubmit },
    before, failure, fields.map((field) => field.element),
    h("div", { class: "buttons" }, button, cancel),
  ));
}

/**
 * Return the values of fields; null if one can't be used, which is said beside it.
 *
 * @param {Field[]} fields
 * @returns {Record<string, any> | null}
 */
function readAll(fields) {
  /** @type {Record<string, any>} */
  const values = {};
  /** @type {Field | null} */
  let first = null;
  for (const field of fields) {
    // A field in a part of the form that isn't displayed isn't part of the answer.
    if (field.element.closest("[hidden]")) continue;
    try {
      values[field.name] = field.read();
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      field.complain(error.message);
      first ??= field;
    }
  }
  first?.focus();
  return first ? null : values;
}

/**
 * Show an error: beside the fields that it names, and above the form otherwise.
 *
 * @param {Field[]} fields
 * @param {HTMLElement} failure
 * @param {unknown} error
 */
function showFailure(fields, failure, error) {
  if (error instanceof Cancelled) {
    announce("Nothing was changed.");
    return;
  }
  if (!(error instanceof Problem || error instanceof NoAnswer)) console.error(error);
  const named = error instanceof Problem ? error.errors : [];
  /** @type {Field | null} */
  let first = null;
  const others = [];
  for (const { field: name, message } of named) {
    const field = fieldNamed(fields, String(name));
    if (field) {
      field.complain(message);
      first ??= field;
    } else if (!wordsOf(error).includes(message)) {
      others.push(name === "body" ? message : `${name}: ${message}`);
    }
  }
  if (first && others.length === 0) {
    first.focus();
    return;
  }
  fill(
    failure, h("p", {}, wordsOf(error)),
    others.length > 0 && h("ul", {}, others.map((each) => h("li", {}, each))),
  );
  failure.hidden = false;
  failure.focus();
}

/**
 * Find the field that an error names: `username`, `body.username` or `fields.token`.
 *
 * @param {Field[]} fields
 * @param {string} name
 */
function fieldNamed(fields, name) {
  const parts = name.split(".").filter((each) => each !== "body");
  return fields.find((field) => parts.includes(field.name) && !field.element.closest("[hidden]"));
}
