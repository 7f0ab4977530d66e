/** The checks of the deployment, and the state of the encryption keys. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { chosen } from "../exact.js";
import { counted } from "../format.js";
import { facts, note, page, section, tabs, tag } from "../layout.js";
import { link } from "../router.js";

/** @typedef {{ name: string, ok: boolean | null, found: string, why: string, fix: string }} Check */

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function checksView({ query, signal }) {
  const all = query.get("for") !== "development";
  const [found, keys] = await Promise.all([
    get(["checks"], { query: { deploy: all }, signal }), get(["encryption-keys"], { signal }),
  ]);
  /** @type {Check[]} */
  const checks = Array.isArray(found) ? found : found.items ?? found.checks;
  const failed = checks.filter(({ ok }) => ok === false);
  const passed = checks.filter(({ ok }) => ok === true);
  const skipped = checks.filter(({ ok }) => ok === null);
  return page(
    { title: "Checks", lead: "What the server finds when it looks at its own deployment." },
    tabs("Which checks", [
      { href: link(["checks"]), words: "For production", here: all },
      { href: link(["checks"], { for: "development" }), words: "For development", here: !all },
    ]),
    failed.length === 0
      ? note("good", h("p", {}, h("strong", {}, "No check failed. "), `${counted(passed.length, "check")} passed.`))
      : section(`Failed (${failed.length})`, {}, list(failed)),
    passed.length > 0 && section(`Passed (${passed.length})`, {}, list(passed)),
    skipped.length > 0 && section(`Doesn't apply (${skipped.length})`, {}, list(skipped)),
    section("Encryption keys", { lead: "How many stored values are under which key. The keys themselves never leave the server." }, keyFacts(keys)),
  );
}

/** @param {Check[]} checks */
function list(checks) {
  return h("ul", { class: "checks" }, checks.map((check) => h(
    "li", {},
    check.ok === false ? tag("bad", "failed") : check.ok ? tag("good", "passed") : tag("plain", "not here"),
    h(
      "div", {}, h("h3", {}, chosen(check.name)), h("p", {}, chosen(check.found, { none: "" })),
      check.ok === false && check.why && h("p", { class: "quiet" }, chosen(check.why)),
      check.ok === false && check.fix && h("p", { class: "fix" }, h("strong", {}, "Fix: "), chosen(check.fix)),
    ),
  )));
}

/** @param {any} keys */
function keyFacts(keys) {
  const columns = Object.entries(keys.columns ?? {});
  const unreadable = keys.unreadable ?? [];
  const uncounted = keys.not_counted ?? [];
  return [
    facts([
      ["Keys, newest first", chosen((keys.keys ?? []).join(", "), { none: "none" })],
      ["Under the newest key", counted(keys.newest, "value")],
      ["Under older keys", counted(keys.older, "value")],
      ["Checkpoints under older keys", keys.checkpoints === null || keys.checkpoints === undefined ? "not counted" : counted(keys.checkpoints, "value")],
      ["Older, by column", columns.length > 0 && columns.map(([name, number]) => h("div", {}, chosen(name), `: ${number}`))],
    ]),
    unreadable.length > 0 && note("bad", h("p", {}, h("strong", {}, "No key decrypts these values.")), h("ul", {}, unreadable.map((/** @type {string} */ each) => h("li", {}, chosen(each))))),
    uncounted.length > 0 && note("info", h("p", {}, "These weren't counted, and may need an older key:"), h("ul", {}, uncounted.map((/** @type {string} */ each) => h("li", {}, chosen(each))))),
  ];
}
