/** What needs attention. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { chosen } from "../exact.js";
import { counted, time } from "../format.js";
import { account, emptyState, page, section, tag } from "../layout.js";
import { link } from "../router.js";
import { isOperator, me, update } from "../session.js";

/** @typedef {import("../dom.js").Child} Child */

// The API counts no further.
const MOST = 100;

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function overviewView({ signal }) {
  const [found, person] = await Promise.all([get(["overview"], { signal }), get(["me"], { signal })]);
  update(person);
  const matters = [
    ...factorMatters(person), ...approvalMatters(found), ...checkMatters(found),
    ...operatorMatters(found), ...lockMatters(found), ...keyMatters(found),
  ];
  return page(
    { title: "Overview", lead: `You are signed in as ${person.username}, ${isOperator() ? "an operator" : "a member"}.` },
    section(
      "Needs attention", {},
      matters.length > 0
        ? h("ul", { class: "matters" }, matters)
        : emptyState([
          h("p", {}, h("strong", {}, "Nothing needs your attention.")),
          h("p", {}, "Questions that wait for you, keys that expire soon and your second factor are listed here when they do."),
        ]),
    ),
    section(
      "Where to go", {},
      h("ul", { class: "cards" }, places().map(([href, words, text]) => h(
        "li", {}, h("a", { href }, words), h("p", {}, text),
      ))),
    ),
  );
}

/**
 * @param {"bad" | "warn" | "accent"} tone
 * @param {string} label
 * @param {Child} title
 * @param {Child} text
 * @param {{ href: string, words: string }} to
 */
function matter(tone, label, title, text, to) {
  return h(
    "li", {}, tag(tone, label),
    h("div", {}, h("h3", {}, title), text && h("div", { class: "matter-text" }, text)),
    h("a", { class: "button", href: to.href }, to.words),
  );
}

/** @param {import("../session.js").Me} person */
function factorMatters(person) {
  const factor = person.second_factor;
  const to = { href: "#/second-factor", words: "Open" };
  if (!factor) return [];
  if (!factor.on) {
    return [matter(
      "warn", "Second factor", factor.pending ? "Your second factor isn't confirmed yet" : "You have no second factor",
      "Without one, anyone who has your API key can act as you, and you can't approve anything.",
      { ...to, words: "Set up" },
    )];
  }
  if (factor.recovery_codes < 3) {
    return [matter(
      "warn", "Recovery codes", `You have ${counted(factor.recovery_codes, "recovery code")} left`,
      "Make new ones before you need them.", to,
    )];
  }
  return [];
}

/** @param {any} found */
function approvalMatters(found) {
  const number = found.pending_approvals;
  if (!number) return [];
  return [matter(
    "accent", "Approvals", `${number >= MOST ? "100 or more questions wait" : counted(number, "question waits", "questions wait")} for your answer`,
    "An agent has stopped until somebody decides.", { href: "#/approvals", words: "Answer" },
  )];
}

/** @param {any} found */
function checkMatters(found) {
  const checks = listOf(found.failed_checks);
  if (!checks.length) return [];
  return [matter(
    "bad", "Checks", `${counted(checks.length, "check")} of this deployment failed`,
    h("ul", {}, checks.slice(0, 5).map((check) => h("li", {}, h("strong", {}, check.name ?? String(check)), check.found && `: ${check.found}`))),
    { href: "#/checks", words: "See all" },
  )];
}

/** @param {any} found The person's own second factor is a matter of its own. */
function operatorMatters(found) {
  return listOf(found.operators_without_second_factor).filter((each) => each !== me()?.username).map((name) => matter(
    "bad", "Second factor", ["The operator ", account(name), " has no second factor"],
    "Anyone who has this person's API key can change every account.", { href: link(["people", name]), words: "Look" },
  ));
}

/** @param {any} found */
function lockMatters(found) {
  return listOf(found.locked).map((each) => {
    const name = each.username ?? String(each);
    return matter(
      "bad", "Locked", [account(name), " is locked after wrong codes"],
      [each.lane && ["Lane ", chosen(each.lane), each.about && ` (${each.about})`, ". "], each.locked_until && ["Until ", time(each.locked_until, { relative: true }), "."]],
      { href: link(["people", name]), words: "Look" },
    );
  });
}

/** @param {any} found */
function keyMatters(found) {
  return listOf(found.expiring_keys).map((each) => {
    const own = !each.username || each.username === me()?.username;
    return matter(
      "warn", "API key",
      own ? ["Your key ", chosen(each.name), " expires soon"] : ["A key of ", account(each.username), " expires soon"],
      [each.masked && [chosen(each.masked), " · "], time(each.expires_at, { relative: true })],
      { href: own ? "#/account" : link(["people", each.username]), words: "Renew" },
    );
  });
}

/**
 * @param {any[] | null} value A list; null if it isn't for this person.
 * @returns {any[]}
 */
function listOf(value) {
  return value ?? [];
}

/** @returns {[string, string, string][]} */
function places() {
  /** @type {[string, string, string][]} */
  const all = [
    ["#/approvals", "Approvals", "Questions of agents that stopped for your answer, with their exact arguments."],
    ["#/people", "People and agents", isOperator() ? "Who has an account, which agents they own, and their keys." : "You and the agents that belong to you."],
    ["#/credentials/shared", "Credentials", "Secrets that agents use and never see. They are displayed masked."],
  ];
  if (isOperator()) {
    all.push(
      ["#/audit", "Audit", "Each decision with who asked, about what, and why. Its seals show changes."],
      ["#/checks", "Checks", "What this deployment needs before it is safe in production."],
    );
  }
  all.push(["#/account", "My account", "Your API keys: make one for each device, and revoke what you lost."]);
  return all;
}
