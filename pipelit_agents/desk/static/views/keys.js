/** The API keys of an account: list, issue, revoke. */

import { act } from "../actions.js";
import { confirmed, showOnce } from "../dialogs.js";
import { h } from "../dom.js";
import { chosen } from "../exact.js";
import { expiryField, form, textField } from "../forms.js";
import { isPast, time } from "../format.js";
import { pager, table, tag } from "../layout.js";
import { notice } from "../notice.js";
import { refresh } from "../router.js";
import { end, me } from "../session.js";

const SOON = 14 * 86_400_000;

/** @typedef {{ id: string, name: string, masked: string, created_at: string, expires_at: string | null,
 *   revoked_at: string | null, last_used_at: string | null }} ApiKey */

/**
 * Return the keys of an account, with a form for a new one.
 *
 * @param {object} options
 * @param {string} options.username
 * @param {{ items: ApiKey[], next: string | null }} options.found
 * @param {string[]} options.path The page that displays them.
 * @param {string | null} options.after
 * @param {boolean} options.active Whether the account is active.
 */
export function keysOf({ username, found, path, after, active }) {
  return [
    table({
      caption: `API keys of ${username}`, rows: found.items, empty: `${username} has no API key.`,
      columns: [
        { label: "Name", cell: (key) => [chosen(key.name, { none: "without a name" }), " ", key.id === me().key?.id && tag("accent", "this session")] },
        { label: "Key", cell: (key) => h("span", { class: "mono" }, chosen(key.masked)) },
        { label: "State", cell: state },
        { label: "Created", cell: (key) => time(key.created_at) },
        { label: "Last used", cell: (key) => time(key.last_used_at) },
        {
          label: "Action", actions: true,
          cell: (key) => !key.revoked_at && h("button", {
            type: "button", class: "danger quiet-button", onclick: () => revoke(username, key),
            "aria-label": `Revoke the key ${key.name || key.masked}`,
          }, "Revoke…"),
        },
      ],
    }),
    pager(path, { after }, found.next),
    active && h("details", { class: "disclosure" }, h("summary", {}, "Issue a new key"), issueForm(username)),
  ];
}

/** @param {ApiKey} key */
function state(key) {
  if (key.revoked_at) return [tag("bad", "revoked"), " ", time(key.revoked_at)];
  if (isPast(key.expires_at)) return [tag("bad", "expired"), " ", time(key.expires_at)];
  if (!key.expires_at) return [tag("good", "valid"), h("span", { class: "quiet" }, " doesn't expire")];
  const soon = new Date(key.expires_at).getTime() - Date.now() < SOON;
  return [tag(soon ? "warn" : "good", soon ? "expires soon" : "valid"), " until ", time(key.expires_at, { relative: soon })];
}

/** @param {string} username */
function issueForm(username) {
  const name = textField({
    name: "name", label: "Name of the key", required: true, maxlength: 149,
    hint: "Where it is used, such as laptop or production. You will know then which one to revoke.",
  });
  return form({
    fields: [name, expiryField({ name: "expires_at" })], submit: "Issue the key", busy: "Issuing…",
    action: async (values) => {
      const made = await act("POST", ["users", username, "keys"], values);
      await showOnce({
        title: "A new API key", text: `The key “${values.name}” of ${made.username}. Store it where only its user can read it.`,
        secrets: [{ label: "API key", value: made.api_key }],
      });
      notice(`The key “${values.name}” was issued.`);
      refresh();
    },
  });
}

/**
 * @param {string} username
 * @param {ApiKey} key
 */
async function revoke(username, key) {
  const current = key.id === me().key?.id;
  const done = await confirmed({
    title: "Revoke this key?", button: "Revoke the key",
    text: [
      h("p", {}, "The key ", h("strong", {}, chosen(key.name, { none: "without a name" })), " ", chosen(key.masked), " stops working at once. This can't be taken back."),
      current && h("p", {}, h("strong", {}, "You are signed in with this key, so you will be signed out.")),
    ],
    action: () => act("DELETE", ["users", username, "keys", key.id]),
  });
  if (!done) return;
  if (current) {
    end("The key of this session was revoked, so you are signed out.");
    return;
  }
  notice("The key was revoked.");
  refresh();
}
