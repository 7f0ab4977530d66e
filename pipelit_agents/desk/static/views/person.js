/** One account: what it is, its locks, its keys and its agents. */

import { act } from "../actions.js";
import { get } from "../api.js";
import { confirmed } from "../dialogs.js";
import { h } from "../dom.js";
import { chosen } from "../exact.js";
import { areaField, checkField, form, selectField } from "../forms.js";
import { counted, isPast, time } from "../format.js";
import { account, facts, note, page, section, table, tag } from "../layout.js";
import { notice } from "../notice.js";
import { link, refresh } from "../router.js";
import { isOperator, me } from "../session.js";
import { keysOf } from "./keys.js";
import { agentsOf, labels } from "./people.js";

/** @typedef {import("./people.js").User} User */

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function personView({ params: { name }, query, signal }) {
  const own = name === me().username;
  const user = /** @type {User} */ (await get(["users", name], { signal }));
  const seesKeys = (isOperator() || own) && user.kind !== "peer";
  const [lanes, keys] = await Promise.all([
    get(["users", name, "lanes"], { signal }),
    seesKeys ? get(["users", name, "keys"], { query: { limit: 50, after: query.get("after") }, signal }) : null,
  ]);
  const changes = isOperator() && user.active;
  return page(
    {
      title: user.username, up: { href: "#/people", words: "People and agents" },
      actions: changes && user.kind !== "peer" && h("a", { class: "button", href: link(["new-agent", user.username]) }, "New agent of this account"),
    },
    h("p", {}, labels(user)),
    !user.active && note("bad", h("p", {}, "This account was deactivated. Its keys and codes aren't accepted.")),
    section("Account", {}, factsOf(user)),
    changes && user.kind !== "peer" && settings(user),
    section("Failed attempts", { lead: "After too many wrong codes, a lane is locked for a while. The other lanes stay open, so nobody can lock others out." }, lanesOf(user, lanes)),
    keys && section(
      "API keys", {}, keysOf({ username: name, found: keys, path: ["people", name], after: query.get("after"), active: user.active }),
    ),
    user.kind !== "peer" && section("Agents", {}, agentsOf(user.username, signal)),
    changes && !own && dangers(user),
  );
}

/** @param {User} user */
function factsOf(user) {
  return facts([
    ["Kind", { human: "person", agent: "agent", peer: "peer, an agent of another domain" }[user.kind] ?? user.kind],
    ["Role", user.role || null],
    ["Owner", user.owner && account(user.owner)],
    ["Person responsible", user.kind === "agent" && user.root_owner !== user.owner && account(user.root_owner)],
    ["Domain", user.domain ? chosen(user.domain) : null],
    ["Purpose", user.kind === "agent" && chosen(user.purpose)],
    ["May create agents", user.kind === "agent" && (user.may_create_agents ? "yes" : "no")],
    ["Created", [time(user.created_at), " by ", chosen(user.created_by)]],
  ]);
}

/** @param {User} user */
function settings(user) {
  const path = ["users", user.username];
  if (user.kind === "human") {
    const role = selectField({
      name: "role", label: "Role", value: user.role,
      options: [["member", "Member"], ["operator", "Operator"]],
      hint: "Operators manage accounts, keys, shared credentials and the audit. Members manage what is their own.",
    });
    return section("Change", {}, form({
      fields: [role], submit: "Save the role", busy: "Saving…",
      action: async (values) => {
        await act("PATCH", path, values);
        notice(`${user.username} is ${values.role === "operator" ? "an operator" : "a member"} now.`);
        refresh();
      },
    }));
  }
  const purpose = areaField({ name: "purpose", label: "Purpose", required: true, value: user.purpose, maxlength: 2000, rows: 2 });
  const creates = checkField({ name: "may_create_agents", label: "May create agents", checked: user.may_create_agents });
  return section("Change", {}, form({
    fields: [purpose, creates], submit: "Save", busy: "Saving…",
    action: async (values) => {
      await act("PATCH", path, values);
      notice(`${user.username} was changed.`);
      refresh();
    },
  }));
}

/**
 * @param {User} user
 * @param {any} lanes
 */
function lanesOf(user, lanes) {
  const rows = Array.isArray(lanes) ? lanes : lanes.items;
  const unlock = (/** @type {string} */ lane) => async () => {
    let left = false;
    const done = await confirmed({
      title: `Unlock ${lane}?`, button: "Unlock", calm: true,
      text: `The failures of ${user.username} in this lane are forgotten, so codes are evaluated again. Ask who entered wrong codes first.`,
      action: async () => {
        const answer = await act("POST", ["users", user.username, "unlock"], { lane });
        left = answer.still_locked.some((/** @type {any} */ each) => each.lane === lane);
      },
    });
    if (done) {
      notice(left
        ? `The lane ${lane} of ${user.username} stays locked until its lock ends: it has used up the wrong guesses of the year.`
        : `The lane ${lane} of ${user.username} is unlocked.`);
      refresh();
    }
  };
  return table({
    caption: `Lanes of ${user.username}`, rows, empty: lanes.next ? "No wrong code was entered in the lanes that were looked at. There are others." : "No wrong code was entered.",
    columns: [
      { label: "Lane", cell: (lane) => chosen(lane.lane) },
      { label: "About", cell: (lane) => chosen(lane.about) },
      { label: "Failures", cell: (lane) => counted(lane.failures, "failure") },
      {
        label: "State",
        cell: (lane) => [
          lane.locked_until && !isPast(lane.locked_until)
            ? [tag("bad", "locked"), " until ", time(lane.locked_until, { relative: true })] : tag("good", "open"),
          lane.allowance_used && h("p", { class: "quiet" }, "The wrong guesses of the year are used up."),
          lane.clock_trouble && h("p", { class: "quiet" }, lane.clock_trouble),
        ],
      },
      {
        label: "Action", actions: true,
        cell: (lane) => isOperator() && (lane.failures > 0 || lane.locked_until || lane.clock_trouble)
          ? h("button", { type: "button", onclick: unlock(lane.lane), "aria-label": `Unlock the lane ${lane.lane}` }, "Unlock") : null,
      },
    ],
  });
}

/** @param {User} user */
function dangers(user) {
  const person = user.kind === "human";
  return section(
    "Take away", {},
    person && h(
      "div", { class: "danger-row" },
      h("div", {}, h("h3", {}, "Reset the second factor"), h("p", { class: "hint" }, "For somebody who lost the phone and the recovery codes. Make sure that it is really this person who asks.")),
      h("button", { type: "button", class: "danger", onclick: () => resetFactor(user) }, "Reset…"),
    ),
    h(
      "div", { class: "danger-row" },
      h("div", {}, h("h3", {}, "Deactivate the account"), h("p", { class: "hint" }, person ? "The person and all agents that belong to this person can't act any more." : "The agent and all agents that belong to it can't act any more.")),
      h("button", { type: "button", class: "danger", onclick: () => deactivate(user) }, "Deactivate…"),
    ),
  );
}

/** @param {User} user */
async function resetFactor(user) {
  const done = await confirmed({
    title: `Reset the second factor of ${user.username}?`, button: "Reset the second factor",
    text: "Until a new one is set up, anyone who has an API key of this person can act as this person.",
    action: () => act("POST", ["users", user.username, "second-factor", "reset"]),
  });
  if (!done) return;
  notice(`${user.username} has no second factor now.`);
  refresh();
}

/** @param {User} user */
async function deactivate(user) {
  /** @type {string[]} */
  let names = [];
  const done = await confirmed({
    title: `Deactivate ${user.username}?`, button: `Deactivate ${user.username}`,
    text: "Its keys and codes stop working at once, and so do those of every agent below it. It can't be activated again.",
    action: async () => {
      const answer = await act("POST", ["users", user.username, "deactivate"]);
      names = answer.deactivated ?? [];
    },
  });
  if (!done) return;
  notice(`Deactivated ${counted(names.length, "account")}: ${names.slice(0, 10).join(", ")}${names.length > 10 ? " and others" : ""}.`);
  refresh();
}
