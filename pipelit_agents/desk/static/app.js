/** Start the desk: the frame around the pages, signing in and out, and which page is displayed. */

import { Cancelled, NoAnswer, Problem, wordsOf } from "./api.js";
import { closeQuestions } from "./dialogs.js";
import { fill, h } from "./dom.js";
import { emptyState } from "./layout.js";
import { current, onRoute, refresh, route } from "./router.js";
import { currentKey, end, forget, isOperator, me, onEnd, watchIdleness } from "./session.js";
import { takeNotice } from "./notice.js";
import { accountView } from "./views/account.js";
import { approvalView } from "./views/approval.js";
import { approvalsView, registerView } from "./views/approvals.js";
import { auditView } from "./views/audit.js";
import { checksView } from "./views/checks.js";
import { credentialView } from "./views/credential.js";
import { credentialsView, newCredentialView } from "./views/credentials.js";
import { newAgentView, newPersonView } from "./views/new_account.js";
import { overviewView } from "./views/overview.js";
import { peopleView } from "./views/people.js";
import { personView } from "./views/person.js";
import { secondFactorView } from "./views/second_factor.js";
import { signInView } from "./views/sign_in.js";

const TITLE = "Desk · pipelit-agents";
const root = document.getElementById("desk");
/** @type {AbortController} */
let page = new AbortController();

route("", "overview", overviewView);
route("overview", "overview", overviewView);
route("people", "people", peopleView);
route("people/:name", "people", personView);
route("new-person", "people", newPersonView);
route("new-agent/:owner", "people", newAgentView);
route("credentials/:scope", "credentials", credentialsView);
route("credentials/:scope/:name", "credentials", credentialView);
route("new-credential/:scope", "credentials", newCredentialView);
route("approvals", "approvals", approvalsView);
route("register", "approvals", registerView);
route("approvals/:id", "approvals", approvalView);
route("second-factor", "second-factor", secondFactorView);
route("account", "account", accountView);
route("audit", "audit", auditView);
route("checks", "checks", checksView);

/** @type {[string, string, string, boolean][]} Section, link, words, and whether operators only. */
const SECTIONS = [
  ["overview", "#/overview", "Overview", false],
  ["approvals", "#/approvals", "Approvals", false],
  ["people", "#/people", "People and agents", false],
  ["credentials", "#/credentials/shared", "Credentials", false],
  ["audit", "#/audit", "Audit", true],
  ["checks", "#/checks", "Checks", true],
  ["second-factor", "#/second-factor", "Second factor", false],
  ["account", "#/account", "My account", false],
];

// The role that the frame was made for. It can change while the person is signed in.
let framed = "";

/** Display the frame of somebody who is signed in. */
function displayFrame() {
  framed = me().role;
  const links = SECTIONS.filter(([, , , operators]) => !operators || isOperator()).map(
    ([section, href, words]) => h("li", {}, h("a", { href, "data-section": section }, words)),
  );
  const menu = h("nav", { id: "menu", "aria-label": "Pages" }, h("ul", {}, links));
  const opener = h("button", {
    type: "button", class: "menu-button", "aria-expanded": "false", "aria-controls": "menu",
    onclick: () => openMenu(opener.getAttribute("aria-expanded") !== "true"),
  }, "Menu");
  fill(
    root,
    h("a", { class: "skip", href: "#main", onclick: skip }, "Skip to the content"),
    h(
      "header", { class: "bar" },
      h("a", { class: "brand", href: "#/overview" }, "pipelit-agents", h("span", {}, "desk")),
      opener,
      h(
        "div", { class: "who" }, h("span", { class: "who-name" }, me().username),
        h("span", { class: "quiet" }, me().role),
        h("button", { type: "button", onclick: () => end("You are signed out.") }, "Sign out"),
      ),
    ),
    h("div", { id: "idle", role: "alert" }),
    h(
      "div", { class: "frame" }, menu,
      h("main", { id: "main", tabindex: "-1" }, h("div", { id: "notice", role: "status" }), h("div", { id: "view" })),
    ),
  );
}

/** @param {Event} event The link's address would be taken for a page. */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** @param {boolean} opened */
function openMenu(opened) {
  document.querySelector(".menu-button")?.setAttribute("aria-expanded", String(opened));
  document.getElementById("menu")?.classList.toggle("open", opened);
}

/**
 * Display the page of the present address.
 *
 * @param {boolean} kept Whether it is the same page again.
 */
async function display(kept) {
  if (!currentKey()) return;
  page.abort();
  page = new AbortController();
  const { signal } = page;
  const { route: found, params, query } = current();
  const view = document.getElementById("view");
  if (!kept) {
    closeQuestions();
    openMenu(false);
  }
  for (const each of document.querySelectorAll("#menu a")) {
    if (each.getAttribute("data-section") === found?.section) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  // A quick answer needs no word in between.
  const waiting = setTimeout(() => {
    if (kept) view.setAttribute("aria-busy", "true");
    else fill(view, h("p", { class: "loading", role: "status" }, "Loading…"));
  }, 200);
  const content = await contentOf(found, { params, query, signal });
  clearTimeout(waiting);
  if (signal.aborted || !content) return;
  if (me().role !== framed) {
    start();
    return;
  }
  const top = window.scrollY;
  view.removeAttribute("aria-busy");
  fill(view, content);
  fill(document.getElementById("notice"), takeNotice());
  const heading = view.querySelector("h1");
  document.title = heading ? `${heading.textContent} · ${TITLE}` : TITLE;
  if (kept) window.scrollTo(0, top);
  else window.scrollTo(0, 0);
  // Don't take the focus out of a dialog that is still open.
  if (!document.querySelector("dialog[open]")) heading?.focus({ preventScroll: kept });
}

/**
 * @param {import("./router.js").Route | null} found
 * @param {import("./router.js").Context} context
 * @returns {Promise<Node | null>}
 */
async function contentOf(found, context) {
  if (!found) return failed("This page doesn't exist", "Check the address, or choose a page from the menu.", false);
  try {
    return await found.view(context);
  } catch (error) {
    if (error instanceof Cancelled || context.signal.aborted) return null;
    if (!(error instanceof Problem || error instanceof NoAnswer)) console.error(error);
    const status = error instanceof Problem ? error.status : 0;
    const title = { 403: "You may not see this", 404: "There is nothing here" }[status] ?? "This page can't be displayed";
    return failed(title, wordsOf(error), status !== 403 && status !== 404);
  }
}

/**
 * @param {string} title
 * @param {string} text
 * @param {boolean} again
 */
function failed(title, text, again) {
  return h(
    "div", { class: "page" }, h("h1", { tabindex: "-1" }, title),
    emptyState([h("p", {}, text), again && h("button", { type: "button", onclick: refresh }, "Try again")]),
  );
}

/** @param {string} [why] Why the person isn't signed in. */
function displaySignIn(why) {
  page.abort();
  document.title = `Sign in · ${TITLE}`;
  // The last sentence for screen readers may name somebody.
  document.getElementById("polite").textContent = "";
  fill(root, signInView({ why, signedIn: start }));
  root.querySelector("input")?.focus();
}

/** Display the desk to the person who has just signed in. */
function start() {
  displayFrame();
  display(false);
}

/** @param {number | null} left Seconds until the person is signed out. */
function warnOfIdleness(left) {
  const region = document.getElementById("idle");
  if (!region) return;
  if (left === null) {
    fill(region);
  } else if (!region.firstChild) {
    fill(region, h(
      "div", { class: "callout warn idle" },
      h("p", {}, "You will be signed out in less than a minute, because nothing was done for a while."),
      h("button", { type: "button" }, "Stay signed in"),
    ));
  }
}

onRoute(display);
onEnd(displaySignIn);
watchIdleness(warnOfIdleness);
// A page that the back button brings back from memory must not be signed in, nor display a key that
// was made or typed before.
window.addEventListener("pagehide", () => forget(currentKey() ? "You left the page, so you were signed out." : ""));
displaySignIn();
