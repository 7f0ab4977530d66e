/** Credentials: the shared ones, and the person's own. */

import { act } from "../actions.js";
import { get, Problem } from "../api.js";
import { h } from "../dom.js";
import { chosen } from "../exact.js";
import { form, NAME, textField } from "../forms.js";
import { time } from "../format.js";
import { page, pager, table, tabs } from "../layout.js";
import { go, goInstead, link } from "../router.js";
import { isOperator } from "../session.js";
import { credentialFields, readCredential, saidOf } from "./credential_form.js";

const SCOPES = /** @type {const} */ ({ shared: "Shared", own: "My own" });

/** @typedef {{ name: string, kind: string, masked: string, readable: boolean, public: Record<string, unknown>,
 *   created_by: string, allow: string[] | null, created_at: string, updated_at: string,
 *   updated_by: string | null, searched: string[], unsearched: string[], person: string | null }} Credential */

/**
 * Return whether the person may change credentials of a scope.
 *
 * @param {string} scope
 */
export function mayChange(scope) {
  return scope === "own" || isOperator();
}

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function credentialsView({ params: { scope }, query, signal }) {
  const [kind, after] = [query.get("kind"), query.get("after")];
  const found = await get(["credentials"], { query: { scope, kind, limit: 50, after }, signal });
  return page(
    {
      title: "Credentials",
      lead: "Secrets that agents use. They are stored encrypted, and nobody can read them here again: only their last four characters are displayed.",
      actions: mayChange(scope) && h("a", { class: "button primary", href: link(["new-credential", scope]) }, "New credential"),
    },
    tabs("Whose credentials", Object.entries(SCOPES).map(([name, words]) => ({
      href: link(["credentials", name]), words, here: name === scope,
    }))),
    kindFilter(scope, kind),
    table({
      caption: scope === "own" ? "My own credentials" : "Shared credentials", rows: /** @type {Credential[]} */ (found.items),
      empty: emptyWords(scope, kind),
      columns: [
        { label: "Name", cell: (each) => h("a", { href: link(["credentials", scope, each.name]) }, chosen(each.name)) },
        { label: "Kind", cell: (each) => chosen(each.kind) },
        { label: "Secret", cell: (each) => h("span", { class: "mono" }, chosen(each.masked)) },
        { label: "May be opened by", cell: (each) => (each.allow ? chosen(each.allow.join(", "), { none: "nobody" }) : h("span", { class: "quiet" }, "any account")) },
        { label: "Changed", cell: (each) => time(each.updated_at) },
      ],
    }),
    pager(["credentials", scope], { kind, after }, found.next),
  );
}

/**
 * @param {string} scope
 * @param {string | null} kind
 */
function kindFilter(scope, kind) {
  const field = textField({ name: "kind", label: "Only of the kind", value: kind ?? "", maxlength: 64 });
  const element = form({
    fields: [field], submit: "Filter", action: async (values) => go(["credentials", scope], { kind: values.kind }),
    cancel: kind && h("a", { class: "button", href: link(["credentials", scope]) }, "All kinds"),
  });
  element.classList.add("inline");
  return element;
}

/**
 * @param {string} scope
 * @param {string | null} kind
 */
function emptyWords(scope, kind) {
  if (kind) return h("p", {}, "There is no credential of the kind ", chosen(kind), " here.");
  if (scope === "own") {
    return [
      h("p", {}, h("strong", {}, "You have no credentials of your own.")),
      h("p", {}, "An own credential is opened only while an agent acts for you. It takes precedence over the shared one of the same name where the code asks for it."),
    ];
  }
  return [
    h("p", {}, h("strong", {}, "There are no shared credentials yet.")),
    h("p", {}, isOperator() ? "Put one here, and agents can use it by its name without seeing it." : "An operator puts them here."),
  ];
}

/**
 * @param {import("../router.js").Context} context
 * @returns {Node}
 */
export function newCredentialView({ params: { scope } }) {
  const name = textField({ name: "name", label: "Name", required: true, ...NAME, hint: "The name by which agents refer to it, such as openai or crm." });
  const fields = credentialFields();
  const list = link(["credentials", scope]);
  return page(
    {
      title: scope === "own" ? "New credential of my own" : "New shared credential",
      up: { href: list, words: "Credentials" },
      lead: scope === "own" ? "It is opened only while an agent acts for you." : "Any account may open it, unless you name those that may.",
    },
    form({
      fields: [name, ...fields], submit: "Store the credential", busy: "Storing…",
      cancel: h("a", { class: "button", href: list }, "Cancel"),
      action: async (values) => {
        const body = readCredential(values);
        const stored = await storeNew(["credentials", scope, values.name], body);
        saidOf(`The credential ${values.name} is stored.`, stored);
        goInstead(["credentials", scope, values.name]);
      },
    }),
  );
}

/**
 * Store a credential; one that is there already isn't replaced.
 *
 * @param {string[]} path
 * @param {unknown} body
 */
async function storeNew(path, body) {
  try {
    return await act("PUT", path, body, { onlyNew: true });
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 412) throw error;
    throw new Problem(412, {
      type: "exists", detail: "There is a credential with this name.",
      errors: [{ field: "name", message: "There is a credential with this name. To replace it, open its page." }],
    });
  }
}
