/** Sign in by pasting a key, or set the desk up with a one-time token. */

import { get, Problem, request } from "../api.js";
import { showOnce } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { expiryField, FieldError, form, NAME, textField } from "../forms.js";
import { begin } from "../session.js";

const SETUP = /^plit_setup_[A-Za-z0-9_-]{20,200}$/;
const KEY = /^plit_[A-Za-z0-9_-]{20,200}$/;

/**
 * @param {{ why?: string, signedIn: () => void }} options
 * @returns {Node}
 */
export function signInView({ why, signedIn }) {
  const place = h("main", { class: "gate", id: "main" });
  const keyField = textField({
    name: "key", label: "API key", required: true, secret: true, maxlength: 300,
    hint: "It begins with plit_. It stays in this tab's memory until you sign out, reload or leave.",
  });
  const read = () => {
    const text = keyField.read();
    if (!KEY.test(text)) throw new FieldError("This isn't an API key. Paste the whole key; it begins with plit_.");
    return text;
  };
  fill(
    place, brand(), h("h1", {}, "Sign in"),
    why && h("div", { class: "callout info", role: "alert" }, h("p", {}, why)),
    form({
      fields: [{ ...keyField, read }], submit: "Sign in", busy: "Signing in…",
      action: async ({ key }) => {
        if (SETUP.test(key)) displaySetUp(place, key, signedIn);
        else await signIn(place, key, signedIn);
      },
    }),
    h("p", { class: "quiet" }, "No key yet? An operator makes one for you. On a new server, paste the set-up token that the server printed when it started."),
  );
  return place;
}

function brand() {
  return h("p", { class: "brand" }, "pipelit-agents", h("span", {}, "desk"));
}

/**
 * @param {HTMLElement} place
 * @param {string} key
 * @param {() => void} signedIn
 */
async function signIn(place, key, signedIn) {
  const person = await accountOf(key);
  if (person.kind !== "human") {
    displayNoPerson(place, person, signedIn);
    return;
  }
  begin(key, person);
  signedIn();
}

/**
 * @param {string} key
 * @returns {Promise<import("../session.js").Me>}
 */
async function accountOf(key) {
  try {
    return await get(["me"], { key });
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    // The API says the same for each of them, so that nobody learns which keys exist.
    throw new Problem(401, { detail: "This key isn't accepted: it is wrong, was revoked, or has expired." });
  }
}

/**
 * @param {HTMLElement} place
 * @param {{ username: string }} agent
 * @param {() => void} signedIn
 */
function displayNoPerson(place, agent, signedIn) {
  const again = () => {
    const fresh = signInView({ signedIn });
    place.replaceWith(fresh);
    /** @type {HTMLElement} */ (fresh).querySelector("input")?.focus();
  };
  fill(
    place, brand(), h("h1", { tabindex: "-1" }, "This key belongs to an agent"),
    h("p", {}, `The key of ${agent.username} is accepted, but these pages are for people. An agent uses the API itself. Keep the key out of browsers.`),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: again }, "Sign in with another key")),
  );
  place.querySelector("h1").focus();
}

/**
 * @param {string} token
 * @param {Record<string, any>} values
 * @returns {Promise<{ username: string, api_key: string }>}
 */
async function firstOperator(token, values) {
  try {
    return await request("POST", ["setup"], { key: token, body: values });
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    throw new Problem(401, {
      detail: "This set-up token isn't accepted: it is wrong, or there is an operator already. Reload the page to sign in with an API key.",
    });
  }
}

/**
 * Make the first operator.
 *
 * @param {HTMLElement} place
 * @param {string} token
 * @param {() => void} signedIn
 */
function displaySetUp(place, token, signedIn) {
  const username = textField({
    name: "username", label: "Your username", required: true, ...NAME,
    hint: "Lower-case letters, digits, and _ . - such as ada. It can't be changed later.",
  });
  const expires = expiryField({ name: "key_expires_at", label: "Your first key expires" });
  fill(
    place, brand(), h("h1", { tabindex: "-1" }, "Set up the desk"),
    h("p", {}, "You make the first operator: the person who manages accounts, keys and shared credentials. The set-up token works once."),
    form({
      fields: [username, expires], submit: "Make the first operator", busy: "Making…",
      action: async (values) => {
        const made = await firstOperator(token, values);
        await showOnce({
          title: "Your first API key",
          text: `${made.username} is the first operator. Store this key in a password manager: you sign in with it.`,
          secrets: [{ label: "API key", value: made.api_key }],
        });
        await signIn(place, made.api_key, signedIn);
      },
    }),
  );
  username.focus();
}
