/** One credential: what is known of it, a test, a new secret, and its end. */

import { act } from "../actions.js";
import { getExactly, request } from "../api.js";
import { confirmed } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { chosen, exactBlock, fieldOf, parseExactly } from "../exact.js";
import { form, NAME, selectField, textField } from "../forms.js";
import { time } from "../format.js";
import { account, facts, note, page, section, tag } from "../layout.js";
import { notice } from "../notice.js";
import { goInstead, link, refresh } from "../router.js";
import { credentialFields, readCredential, saidOf } from "./credential_form.js";
import { mayChange } from "./credentials.js";

const OUTCOMES = /** @type {const} */ ({
  good: ["good", "accepted"], refused: ["bad", "refused"],
  unanswered: ["warn", "no answer"], untested: ["plain", "not tested"],
});

/** @typedef {import("./credentials.js").Credential} Credential */

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function credentialView({ params: { scope, name }, signal }) {
  const path = ["credentials", scope, name];
  const { value, text } = await getExactly(path, { signal });
  const found = /** @type {Credential} */ (value);
  const open = fieldOf(parseExactly(text), "public");
  const shown = open?.kind === "object" && open.entries.length > 0
    ? exactBlock(open, `Public fields of ${found.name}`) : null;
  const changes = mayChange(scope);
  return page(
    {
      title: found.name, up: { href: link(["credentials", scope]), words: scope === "own" ? "My own credentials" : "Shared credentials" },
      actions: changes && h("button", { type: "button", class: "danger", onclick: () => remove(path, found) }, "Delete…"),
    },
    !found.readable && note("warn", h("p", {}, "No encryption key of the server decrypts this credential, so nobody can open it. If a key is missing, an operator of the server adds it again. Otherwise replace the credential: its public fields, and who may open it, aren't known any more.")),
    section("Credential", {}, factsOf(found)),
    shown && section("Public fields", {}, shown),
    changes && section("Test", { lead: "Asks its service once whether the secret is accepted. What is known about how to ask depends on the secret's form and on the public fields." }, test(path, found)),
    changes && section("Replace", { lead: "The old secret is overwritten. Agents use the new one from their next call on." }, h(
      "details", { class: "disclosure" }, h("summary", {}, "Store a new secret under this name"), replaceForm(path, found, shown?.textContent ?? ""),
    )),
  );
}

/** @param {Credential} found */
function factsOf(found) {
  return facts([
    ["Secret", h("span", { class: "mono" }, chosen(found.masked))],
    ["Kind", chosen(found.kind)],
    ["May be opened by", found.allow ? chosen(found.allow.join(", "), { none: "nobody" }) : "any account"],
    ["Belongs to", found.person ? account(found.person) : null],
    ["Searched for", chosen((found.searched ?? []).join(", "), { none: "nothing" })],
    ["Not searched for", found.unsearched?.length ? chosen(found.unsearched.join(", ")) : null],
    ["Stored by", chosen(found.created_by)],
    ["Stored", time(found.created_at)],
    ["Changed", [time(found.updated_at, { relative: true }), found.updated_by ? [" by ", chosen(found.updated_by)] : ""]],
  ]);
}

/**
 * @param {string[]} path
 * @param {Credential} found
 */
function test(path, found) {
  const result = h("div", { class: "result", "aria-live": "polite" });
  const names = namesOf(found.masked);
  return h(
    "div", {},
    form({
      fields: [
        ...(names.length > 1 ? [selectField({ name: "field", label: "Which secret", options: names.map((each) => [each, each]) })] : []),
        ...(found.allow ? [textField({ name: "agent", label: "As the agent", required: true, ...NAME, value: found.allow[0], hint: "Only named accounts may open it, so say which of them does." })] : []),
      ],
      submit: "Test the credential", busy: "Asking the service…",
      action: async (values) => {
        fill(result);
        fill(result, outcome(await request("POST", [...path, "test"], { body: values })));
      },
    }),
    result,
  );
}

/**
 * Return the names of several secrets, which are masked as `name=…wxyz, other=…abcd`.
 *
 * @param {string} masked
 */
function namesOf(masked) {
  // A name may have a comma or an equals sign itself.
  return [...masked.matchAll(/(.+?)=…(?:[^\s,]{4})?(?:, |$)/gsu)].map(([, name]) => name);
}

/** @param {{ outcome: keyof typeof OUTCOMES, reason: string, server: string, status: number | null }} found */
function outcome(found) {
  const [tone, words] = OUTCOMES[found.outcome] ?? ["plain", String(found.outcome)];
  return facts([
    ["Result", tag(tone, words)],
    ["Why", chosen(found.reason)],
    ["Server", found.server ? chosen(found.server) : null],
    ["HTTP status", found.status ?? null],
  ]);
}

/**
 * @param {string[]} path
 * @param {Credential} found
 * @param {string} open Its public fields, as JSON.
 */
function replaceForm(path, found, open) {
  return form({
    fields: credentialFields(found, open), submit: "Replace the credential", busy: "Storing…",
    action: async (values) => {
      const stored = await act("PUT", path, readCredential(values));
      saidOf(`The credential ${found.name} was replaced.`, stored);
      refresh();
    },
  });
}

/**
 * @param {string[]} path
 * @param {Credential} found
 */
async function remove(path, found) {
  const done = await confirmed({
    title: `Delete the credential ${found.name}?`, button: "Delete the credential",
    text: "Agents that use it fail from their next call on. The secret can't be brought back.",
    action: () => act("DELETE", path),
  });
  if (!done) return;
  notice(`The credential ${found.name} was deleted.`);
  goInstead(path.slice(0, 2));
}
