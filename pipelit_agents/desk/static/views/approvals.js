/** The questions that wait for the person, and the register of all questions. */

import { Cancelled, get } from "../api.js";
import { announce, fill, h } from "../dom.js";
import { chosen } from "../exact.js";
import { counted, time } from "../format.js";
import { emptyState, note, page, pager, table, tabs, tag } from "../layout.js";
import { link, refresh } from "../router.js";
import { isOperator, me } from "../session.js";

const POLL = 20_000;
const STATES = /** @type {const} */ ({
  pending: "accent", approved: "good", denied: "bad", used: "plain", suspended: "warn", expired: "plain",
});

/** @typedef {{ id: string, tool: string, brief: string, unfinished: boolean, agent: string, asked_by: string, created_at: string,
 *   expires_at: string, escalates_at: string | null, state: keyof typeof STATES,
 *   approvers: string[], at_least: number, decisions: any[] }} Question */

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function approvalsView({ query, signal }) {
  const after = query.get("after");
  const found = await get(["approvals"], { query: { limit: 50, after }, signal });
  const fresh = h("div");
  if (!after) watch(new Set(found.items.map((/** @type {Question} */ each) => each.id)), fresh, signal);
  return page(
    { title: "Approvals", lead: "Each question is from an agent that has stopped until somebody decides." },
    isOperator() && registers("approvals"),
    !me().second_factor?.on && note(
      "warn", h("p", {}, h("strong", {}, "You can't approve yet. "), "An approval needs a code of your second factor. ", h("a", { href: "#/second-factor" }, "Set it up"), "."),
    ),
    fresh,
    found.items.length === 0
      ? emptyState([h("p", {}, h("strong", {}, "No question waits for you.")), h("p", {}, "If an agent needs your approval, its question appears here while this page is open.")])
      : h("ul", { class: "inbox" }, found.items.map(item)),
    pager(["approvals"], { after }, found.next),
  );
}

/** @param {"approvals" | "register"} here */
function registers(here) {
  return tabs("Lists of questions", [
    { href: "#/approvals", words: "For me", here: here === "approvals" },
    { href: "#/register", words: "All questions", here: here === "register" },
  ]);
}

/** @param {Question} question */
function item(question) {
  const title = question.tool ? ["Run ", chosen(question.tool)] : "A question";
  return h(
    "li", {},
    h("div", {},
      h("h2", {}, h("a", { href: link(["approvals", question.id]) }, title)),
      question.brief && h("p", { class: "mono brief" }, question.brief),
      h("p", {}, "Asked by ", question.agent ? chosen(question.agent) : askerOf(question), ", ", time(question.created_at, { relative: true })),
      h("p", { class: "quiet" }, "Answer until ", time(question.expires_at, { relative: true }),
        question.at_least > 1 && ` · needs ${counted(question.at_least, "approval")}`)),
    h("a", { class: "button primary", href: link(["approvals", question.id]) }, "Look and decide"),
  );
}

/**
 * Look for new questions while the page is displayed. They are only named, so that nothing moves
 * below a pointer.
 *
 * @param {Set<string>} known
 * @param {HTMLElement} place
 * @param {AbortSignal} signal
 */
function watch(known, place, signal) {
  const look = async () => {
    if (document.hidden) return;
    try {
      const { items } = await get(["approvals"], { query: { limit: 50 }, signal });
      const number = items.filter((/** @type {Question} */ each) => !known.has(each.id)).length;
      if (number === 0 || place.dataset.number === String(number)) return;
      place.dataset.number = String(number);
      fill(place, note("info", h("p", {}, `${counted(number, "new question")}. `, h("button", { type: "button", class: "link", onclick: refresh }, "Display"))));
      announce(`${counted(number, "new question")}.`);
    } catch (error) {
      // It is tried again; the list itself says what is wrong when it is read again.
      if (error instanceof Cancelled) clearInterval(timer);
    }
  };
  const timer = setInterval(look, POLL);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function registerView({ query, signal }) {
  const after = query.get("after");
  const found = await get(["approvals", "register"], { query: { limit: 50, after }, signal });
  return page(
    { title: "All questions", lead: "The register of approvals: every question, who could answer it, and what became of it." },
    registers("register"),
    table({
      caption: "All questions", rows: /** @type {Question[]} */ (found.items), empty: "No agent has asked for an approval yet.",
      columns: [
        { label: "Question", cell: (each) => h("a", { href: link(["approvals", each.id]) }, chosen(each.brief || each.tool)) },
        { label: "State", cell: (each) => [stateTag(each.state), " ", each.unfinished && tag("warn", "not known to be finished")] },
        { label: "Asked by", cell: (each) => (each.agent ? chosen(each.agent) : askerOf(each)) },
        { label: "Approvers", cell: (each) => chosen((each.approvers ?? []).join(", ")) },
        { label: "Asked", cell: (each) => time(each.created_at) },
      ],
    }),
    pager(["register"], { after }, found.next),
  );
}

/** @param {string} state */
export function stateTag(state) {
  return tag(/** @type {any} */ (STATES)[state] ?? "plain", state);
}

/**
 * Return who asked. No account is named `operator`, which is also a role of people: it was the
 * application's own code.
 *
 * @param {{ asked_by: string }} question
 */
export function askerOf(question) {
  return question.asked_by === "operator" ? "the application" : chosen(question.asked_by);
}
