/** People and agents: a tree by owner, and lists of agents and of peers. */

import { Cancelled, get, wordsOf } from "../api.js";
import { announce, fill, h, newId } from "../dom.js";
import { chosen } from "../exact.js";
import { form, NAME, textField } from "../forms.js";
import { time } from "../format.js";
import { account, emptyState, page, pager, table, tabs, tag } from "../layout.js";
import { go, link } from "../router.js";
import { isOperator, me, onForget } from "../session.js";

/** @typedef {{ username: string, kind: string, owner: string | null, root_owner: string,
 *   purpose: string, active: boolean, may_create_agents: boolean, created_at: string,
 *   created_by: string, domain: string, role: string }} User */

const PATH = ["people"];
const PAGE = 50;
const LISTS = /** @type {const} */ ({
  tree: ["People and their agents", "human"], agents: ["All agents", "agent"], peers: ["Peers", "peer"],
});

// Which accounts were opened, so that the tree looks the same after a visit to one of them.
/** @type {Set<string>} */
const opened = new Set();
onForget(() => opened.clear());

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function peopleView({ query, signal }) {
  const which = /** @type {keyof typeof LISTS} */ (Object.hasOwn(LISTS, query.get("list") ?? "") ? query.get("list") : "tree");
  const [words, kind] = LISTS[which];
  const after = query.get("after");
  const found = await get(["users"], { query: { kind, limit: PAGE, after }, signal });
  const shown = { list: which === "tree" ? null : which, after };
  return page(
    {
      title: "People and agents",
      lead: isOperator() ? "Everybody who has an account, and the agents that belong to them." : "You, and the agents that belong to you.",
      actions: isOperator() && [
        h("a", { class: "button", href: link(["new-agent", me().username]) }, "New agent"),
        h("a", { class: "button primary", href: link(["new-person"]) }, "New person"),
      ],
    },
    isOperator() && tabs("Lists of accounts", Object.entries(LISTS).map(([name, [label]]) => ({
      href: link(PATH, { list: name === "tree" ? null : name }), words: label, here: name === which,
    }))),
    finder(),
    which === "tree" ? tree(found.items, words, signal) : list(found.items, which),
    pager(PATH, shown, found.next),
  );
}

function finder() {
  const field = textField({ name: "username", label: "Go to a username", required: true, ...NAME });
  const element = form({
    fields: [field], submit: "Go", action: async ({ username }) => go(["people", username]),
  });
  element.classList.add("inline");
  element.setAttribute("role", "search");
  element.setAttribute("aria-label", "Go to an account");
  return element;
}

/**
 * @param {User[]} users
 * @param {string} label
 * @param {AbortSignal} signal
 */
function tree(users, label, signal) {
  if (users.length === 0) return emptyState("Nobody is on this page of the list.");
  return h("ul", { class: "tree", "aria-label": label }, users.map((user) => branch(user, signal)));
}

/**
 * Return an account with a button that shows its agents, which are only read then.
 *
 * @param {User} user
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
function branch(user, signal) {
  const id = newId("agents");
  const children = h("div", { id, class: "children", hidden: true });
  const button = h("button", {
    type: "button", class: "twist", "aria-expanded": "false", "aria-controls": id,
    "aria-label": `Agents of ${user.username}`, onclick: () => toggle(button.getAttribute("aria-expanded") !== "true"),
  });
  const toggle = (/** @type {boolean} */ open) => {
    button.setAttribute("aria-expanded", String(open));
    children.hidden = !open;
    if (open) opened.add(user.username);
    else opened.delete(user.username);
    if (open && !children.firstChild) grow(children, user.username, null, signal);
  };
  if (opened.has(user.username)) toggle(true);
  return h("li", {}, h("div", { class: "leaf" }, button, leaf(user)), children);
}

/** @param {User} user */
function leaf(user) {
  return h(
    "div", { class: "leaf-text" },
    h("div", { class: "leaf-name" }, account(user.username), labels(user)),
    user.purpose && h("div", { class: "quiet" }, chosen(user.purpose)),
  );
}

/**
 * Return the labels of an account.
 *
 * @param {User} user
 */
export function labels(user) {
  return h(
    "span", { class: "tags" },
    user.role === "operator" && tag("accent", "operator"),
    user.kind === "human" && user.role !== "operator" && tag("plain", user.role || "person"),
    user.kind === "agent" && tag("plain", "agent"),
    user.kind === "peer" && tag("plain", "peer"),
    user.kind === "agent" && user.may_create_agents && tag("plain", "may create agents"),
    !user.active && tag("bad", "inactive"),
  );
}

/**
 * Read one page of an account's agents, and add it to the tree.
 *
 * @param {HTMLElement} place
 * @param {string} owner
 * @param {string | null} after
 * @param {AbortSignal} signal
 */
async function grow(place, owner, after, signal) {
  const waiting = h("p", { class: "loading" }, "Loading…");
  place.append(waiting);
  let found;
  try {
    found = await get(["users"], { query: { owner, limit: PAGE, after }, signal });
  } catch (error) {
    waiting.remove();
    if (error instanceof Cancelled) return;
    const again = h("button", { type: "button", onclick: () => { box.remove(); grow(place, owner, after, signal); } }, "Try again");
    const box = h("div", { class: "failure", role: "alert" }, h("p", {}, wordsOf(error)), again);
    place.append(box);
    return;
  }
  waiting.remove();
  if (found.items.length === 0 && after === null) {
    place.append(h("p", { class: "quiet none" }, `${owner} has no agents.`));
    return;
  }
  const known = place.querySelector(":scope > ul");
  const branches = found.items.map((/** @type {User} */ user) => branch(user, signal));
  const ul = known ?? h("ul", { "aria-label": `Agents of ${owner}` });
  ul.append(...branches);
  if (!known) place.append(ul);
  announce(`${found.items.length} more agents of ${owner}.`);
  // The button that had the focus is gone.
  if (after !== null) branches[0]?.querySelector("a").focus();
  if (found.next !== null) {
    const more = h("button", {
      type: "button", class: "more", onclick: () => { more.remove(); grow(place, owner, String(found.next), signal); },
    }, `More agents of ${owner}`);
    place.append(more);
  }
}

/**
 * @param {User[]} users
 * @param {"agents" | "peers"} which
 */
function list(users, which) {
  const agents = which === "agents";
  return table({
    caption: LISTS[which][0],
    rows: users,
    empty: agents
      ? "There are no agents yet. Make one with “New agent”."
      : [h("p", {}, "There are no peers."), h("p", {}, "A peer is an agent of another domain. It is added with the command ", h("code", {}, "pipelit-agents agents enroll"), ".")],
    columns: [
      { label: "Name", cell: (user) => [account(user.username), " ", !user.active && tag("bad", "inactive")] },
      agents
        ? { label: "Owner", cell: (user) => (user.owner ? account(user.owner) : "–") }
        : { label: "Domain", cell: (user) => chosen(user.domain) },
      { label: "Purpose", cell: (user) => chosen(user.purpose) },
      { label: "Created", cell: (user) => time(user.created_at) },
    ],
  });
}

/**
 * Return the agents of an account, for its own page.
 *
 * @param {string} owner
 * @param {AbortSignal} signal
 */
export function agentsOf(owner, signal) {
  const place = h("div", { class: "tree" });
  fill(place);
  grow(place, owner, null, signal);
  return place;
}
