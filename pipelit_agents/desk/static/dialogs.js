/** Dialogs: a question, a code, and what is shown once. */

import { announce, fill, h, newId } from "./dom.js";
import { codeField, form } from "./forms.js";
import { onForget } from "./session.js";

/** @typedef {import("./dom.js").Child} Child */

/** @type {Set<HTMLDialogElement>} */
const open = new Set();
/** Ask before what is shown once is left. */
const stay = (/** @type {Event} */ event) => event.preventDefault();
onForget(() => {
  window.removeEventListener("beforeunload", stay);
  // What they show belonged to the person who was signed out.
  for (const dialog of open) {
    dialog.close();
    dialog.remove();
  }
  open.clear();
});

/**
 * Open a dialog, and return when it is closed. The browser keeps the focus inside, and gives it
 * back afterwards.
 *
 * @param {string} title
 * @param {(close: () => void) => Child} content
 * @param {{ firm?: boolean }} [options] `firm`: Escape doesn't close it.
 * @returns {Promise<void>}
 */
function show(title, content, { firm = false } = {}) {
  const id = newId("dialog");
  const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-labelledby": id }));
  const close = () => dialog.close();
  fill(dialog, h("h2", { id }, title), content(close));
  // Chromium closes at a second Escape whatever the `cancel` event says, so take the key itself.
  if (firm) {
    dialog.addEventListener("keydown", (event) => { if (event.key === "Escape") event.preventDefault(); });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
  }
  document.body.append(dialog);
  open.add(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      // What waits for the dialog of a person who was signed out doesn't go on.
      if (open.delete(dialog)) resolve();
    });
  });
}

/** Close the questions that are open, but not what is shown once. For a change of the page. */
export function closeQuestions() {
  for (const dialog of open) if (!dialog.querySelector(".once")) dialog.close();
}

/**
 * Ask for a code of the second factor until it is accepted or the person gives up.
 *
 * @param {(code: string) => Promise<string | null>} attempt Return what is wrong with the code, or
 *   null if nothing is left to ask. What it throws ends the dialog.
 * @returns {Promise<unknown>} What was thrown, or null.
 */
export async function askForCode(attempt) {
  /** @type {unknown} */
  let thrown = null;
  await show("Confirm that it's you", (close) => {
    const field = codeField();
    return form({
      before: h("p", {}, "This change needs a code of your second factor. Each code is accepted once."),
      fields: [field], submit: "Confirm", busy: "Confirming…",
      cancel: h("button", { type: "button", onclick: close }, "Cancel"),
      action: async ({ code }) => {
        let wrong;
        try {
          wrong = await attempt(code);
        } catch (error) {
          thrown = error;
        }
        if (!wrong) return close();
        field.clear?.();
        field.complain(wrong);
        field.focus();
        return undefined;
      },
    });
  });
  return thrown;
}

/**
 * Ask whether to do something that can't be taken back, and do it.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {Child} options.text
 * @param {string} options.button The words on the button that does it.
 * @param {() => Promise<unknown>} options.action
 * @param {boolean} [options.calm] Whether the button isn't red.
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function confirmed({ title, text, button, action, calm }) {
  let done = false;
  await show(title, (close) => form({
    before: h("div", { class: "dialog-text" }, text),
    fields: [], submit: button, danger: !calm,
    cancel: h("button", { type: "button", onclick: close }, "Cancel"),
    action: async () => {
      await action();
      done = true;
      close();
    },
  }));
  return done;
}

/**
 * Show secrets that the server returns only once. The dialog stays until the person says that they
 * are stored.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {Child} options.text
 * @param {{ label: string, value: string, area?: boolean }[]} options.secrets
 * @param {Child} [options.after]
 */
export async function showOnce({ title, text, secrets, after }) {
  // The recovery codes are the lines of one field.
  const several = secrets.length > 1 || secrets.some(({ value }) => value.includes("\n"));
  window.addEventListener("beforeunload", stay);
  await show(title, (close) => h(
    "div", { class: "once" },
    h("p", {}, text), secrets.map(secret), after,
    h("p", { class: "note" }, several
      ? "They are shown this once. Nobody can look them up later."
      : "It is shown this once. Nobody can look it up later."),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: close }, "I have stored it")),
  ), { firm: true });
  window.removeEventListener("beforeunload", stay);
}

/**
 * Return a secret with a button that copies it.
 *
 * @param {{ label: string, value: string, area?: boolean }} secret
 */
export function secret({ label, value, area }) {
  const id = newId("secret");
  const lines = value.split("\n").length;
  const shown = /** @type {HTMLInputElement | HTMLTextAreaElement} */ (h(
    "textarea", {
      id, readonly: true, value, class: "mono secret", spellcheck: "false", autocomplete: "off",
      rows: area ? lines : Math.max(1, Math.ceil(value.length / 34)),
      onfocus: () => shown.select(),
    },
  ));
  const button = h("button", { type: "button", onclick: () => copy(shown, button) }, "Copy");
  button.setAttribute("aria-label", `Copy: ${label}`);
  return h("div", { class: "field" }, h("label", { for: id }, label), h("div", { class: "copyable" }, shown, button));
}

/**
 * @param {HTMLInputElement | HTMLTextAreaElement} from
 * @param {HTMLElement} button
 */
async function copy(from, button) {
  let copied = false;
  try {
    await navigator.clipboard.writeText(from.value);
    copied = true;
  } catch {
    // Only secure pages have a clipboard. The older way works without one.
    from.select();
    copied = document.execCommand("copy");
  }
  if (!copied) from.select();
  fill(button, copied ? "Copied" : "Press Ctrl+C");
  announce(copied ? "Copied." : "The text is selected. Press Ctrl+C to copy it.");
}
