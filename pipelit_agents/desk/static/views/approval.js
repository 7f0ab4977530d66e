/** One question with its exact arguments, and the person's answer. */

import { act } from "../actions.js";
import { getExactly } from "../api.js";
import { h } from "../dom.js";
import { chosen, exactly, fieldOf, parseExactly } from "../exact.js";
import { areaField, codeField, form } from "../forms.js";
import { counted, isPast, listed, time } from "../format.js";
import { facts, note, page, section, table, tag } from "../layout.js";
import { notice } from "../notice.js";
import { refresh } from "../router.js";
import { me } from "../session.js";
import { askerOf, stateTag } from "./approvals.js";

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function approvalView({ params: { id }, signal }) {
  const { value: question, text } = await getExactly(["approvals", id], { signal });
  const asked = question.approvers.includes(me().username);
  const open = ["pending", "approved"].includes(question.state) && !isPast(question.expires_at);
  return page(
    { title: question.tool ? ["May ", chosen(question.tool), " run?"] : "A question", up: { href: "#/approvals", words: "Approvals" } },
    h("p", {}, stateTag(question.state), " ", question.unfinished && tag("warn", "not known to be finished")),
    askedOf(question, text),
    section("Who asks", {}, whoOf(question)),
    question.steps?.length > 1 && section("Who is asked when", {}, stepsOf(question)),
    question.decisions.length > 0 && section("Answers", {}, decisionsOf(question)),
    open && asked && answer(question),
    open && !asked && note("info", h("p", {}, "You aren't one of the people who may answer this now.")),
  );
}

/**
 * Return exactly what is asked, which the digest is of.
 *
 * @param {any} question
 * @param {string} text The server's answer.
 */
function askedOf(question, text) {
  const title = question.tool ? "Exact arguments" : "What is asked, exactly";
  if (question.shown === null) {
    return section(title, {}, note("warn", h("p", {}, "What is asked isn't stored here, only its digest. Compare the digest below with the one that the application displays.")));
  }
  const warnings = /** @type {string[]} */ (question.warnings);
  return section(
    title, {},
    exactly(question.display, () => fieldOf(parseExactly(text), "shown"), title),
    warnings.length > 0 && note("warn", h("p", {}, h("strong", {}, "Look twice")), h("ul", {}, warnings.map((each) => h("li", {}, chosen(each))))),
  );
}

/** @param {any} question */
function whoOf(question) {
  return facts([
    ["Agent", question.agent ? chosen(question.agent) : null],
    ["Asked by", askerOf(question)],
    ["Asked", time(question.created_at, { relative: true })],
    ["Answer until", time(question.expires_at, { relative: true })],
    ["Approvers", [chosen(listed(question.approvers)), question.at_least > 1 && ` (${question.at_least} of them)`]],
    ["Others are asked from", question.escalates_at && time(question.escalates_at, { relative: true })],
    ["Used", question.used_at && [time(question.used_at), question.has_result ? "" : ", without a stored result"]],
    ["Thread", question.thread ? chosen(question.thread) : null],
    ["Question", h("span", { class: "mono" }, chosen(question.id))],
    ["Digest", h("span", { class: "mono" }, chosen(question.digest))],
  ]);
}

/** @param {any} question */
function stepsOf(question) {
  return table({
    caption: "Steps of the question", rows: question.steps, empty: "",
    columns: [
      { label: "From", cell: (/** @type {any} */ step) => time(step.begins_at) },
      { label: "Until", cell: (step) => time(step.until) },
      { label: "Approvers", cell: (step) => chosen(step.approvers.join(", ")) },
      { label: "Needed", cell: (step) => counted(step.at_least, "approval") },
    ],
  });
}

/** @param {any} question */
function decisionsOf(question) {
  const factors = /** @type {Record<string, string>} */ ({
    plain: "a code of the authenticator app", recovery: "a recovery code", vouched: "an API key, or the application", "": "nothing",
  });
  return table({
    caption: "Answers", rows: question.decisions, empty: "",
    columns: [
      { label: "Person", cell: (/** @type {any} */ each) => chosen(each.actor) },
      { label: "Answer", cell: (each) => stateTag(each.decision) },
      { label: "When", cell: (each) => time(each.at) },
      { label: "Proven by", cell: (each) => factors[each.factor] ?? chosen(each.factor) },
      { label: "Reason", cell: (each) => chosen(each.reason) },
    ],
  });
}

/** @param {any} question */
function answer(question) {
  const path = ["approvals", question.id];
  const { digest } = question;
  const factor = Boolean(me().second_factor?.on);
  const approveForm = form({
    fields: [codeField({ label: "Code to approve" })], submit: "Approve", busy: "Approving…",
    action: async ({ code }) => {
      const { state } = await act("POST", [...path, "approve"], { code, digest });
      notice(state === "pending"
        ? "You approved. It isn't enough yet: others have to approve too."
        : "You approved. The approval is for exactly these arguments, and can be used once.");
      refresh();
    },
  });
  const denyForm = form({
    fields: [
      areaField({ name: "reason", label: "Reason", rows: 2, maxlength: 1000, hint: "The agent reads it." }),
      ...(factor ? [codeField({ label: "Code to deny", required: false, hint: "With a code, the denial is proven to be yours." })] : []),
    ],
    submit: "Deny", busy: "Denying…", danger: true,
    action: async ({ reason, code }) => {
      await act("POST", [...path, "deny"], { digest, ...(code ? { code } : {}), ...(reason ? { reason } : {}) });
      notice("You denied it.");
      refresh();
    },
  });
  return section(
    "Your answer", {},
    !question.may_answer && note("info", h("p", {}, "You have approved it, or enough others have. Until the approval is used, you can still deny it.")),
    h(
      "div", { class: "answers" },
      question.may_answer && h("div", { class: "card" }, h("h3", {}, "Approve"), factor
        ? [h("p", { class: "hint" }, "You approve exactly what is displayed above."), approveForm]
        : note("warn", h("p", {}, "An approval needs a code of your second factor, and you have none. ", h("a", { href: "#/second-factor" }, "Set it up"), "."))),
      h("div", { class: "card" }, h("h3", {}, "Deny"), denyForm),
    ),
  );
}
