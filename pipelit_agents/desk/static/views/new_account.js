/** Make an account of a person or of an agent. */

import { act } from "../actions.js";
import { showOnce } from "../dialogs.js";
import { h } from "../dom.js";
import { areaField, checkField, expiryField, form, NAME, selectField, textField } from "../forms.js";
import { page } from "../layout.js";
import { notice } from "../notice.js";
import { goInstead, link } from "../router.js";
import { qrImage } from "./qr.js";

const TREE = { href: "#/people", words: "People and agents" };

/** @returns {Node} */
export function newPersonView() {
  const fields = [
    textField({
      name: "username", label: "Username", required: true, ...NAME,
      hint: "Lower-case letters, digits, and _ . - such as ada. It can't be changed later.",
    }),
    selectField({
      name: "role", label: "Role", value: "member", options: [["member", "Member"], ["operator", "Operator"]],
      hint: "Operators manage accounts, keys, shared credentials and the audit. Members manage what is their own.",
    }),
    expiryField({ name: "key_expires_at", label: "The first key expires" }),
  ];
  return page(
    { title: "New person", up: TREE, lead: "The person gets an API key, and can set up a second factor after signing in." },
    form({
      fields, submit: "Create the account", busy: "Creating…",
      cancel: h("a", { class: "button", href: TREE.href }, "Cancel"),
      action: async (values) => {
        const made = await act("POST", ["users"], values);
        await showOnce({
          title: `${made.username} has an account`, text: "Hand this API key over in a safe way, not by e-mail.",
          secrets: [{ label: "API key", value: made.api_key }],
        });
        notice(`The account ${made.username} was created.`);
        goInstead(["people", made.username]);
      },
    }),
  );
}

/**
 * @param {import("../router.js").Context} context
 * @returns {Node}
 */
export function newAgentView({ params: { owner } }) {
  const fields = [
    textField({ name: "username", label: "Username", required: true, ...NAME, hint: "Such as invoice-reader. It can't be changed later." }),
    textField({
      name: "owner", label: "Owner", required: true, value: owner, ...NAME,
      hint: "The person or agent that it belongs to. It is deactivated with its owner.",
    }),
    areaField({ name: "purpose", label: "Purpose", required: true, maxlength: 2000, rows: 2, hint: "What it is for, in a sentence that others understand." }),
    checkField({ name: "may_create_agents", label: "May create agents", hint: "They belong to it then. Leave it off unless it needs to." }),
    expiryField({ name: "key_expires_at" }),
  ];
  return page(
    { title: "New agent", up: TREE, lead: "An agent gets an API key, and a secret with which it proves who it is." },
    form({
      fields, submit: "Create the agent", busy: "Creating…",
      cancel: h("a", { class: "button", href: link(["people"]) }, "Cancel"),
      action: async (values) => {
        const made = await act("POST", ["agents"], values);
        await showOnce({
          title: `${made.username} is created`,
          text: "Store the key with the agent. The provisioning URI is for a person who verifies its codes with an authenticator app; the agent's own secret is stored encrypted already.",
          secrets: [{ label: "API key", value: made.api_key }, { label: "Provisioning URI", value: made.provisioning_uri }],
          after: qrImage(made.qr_svg, `QR code of the provisioning URI of ${made.username}`),
        });
        notice(`The agent ${made.username} was created.`);
        goInstead(["people", made.username]);
      },
    }),
  );
}
