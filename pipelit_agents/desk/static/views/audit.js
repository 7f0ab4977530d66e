/** The audit: entries with filters, an export, and whether the chain of seals is intact. */

import { Cancelled, download, get, request, wordsOf } from "../api.js";
import { fill, h } from "../dom.js";
import { chosen } from "../exact.js";
import { areaField, FieldError, form, selectField, textField } from "../forms.js";
import { counted, time } from "../format.js";
import { facts, note, page, pager, section, table, tag } from "../layout.js";
import { go, link } from "../router.js";

const PATH = ["audit"];
// The API takes no more.
const MOST_HEADS = 100;
const FILTERS = ["subject", "actor", "action", "outcome", "person", "since"];

/** @typedef {{ id: number, at: string, actor: string, subject: string, action: string,
 *   outcome: string, reason: string, run: string, node: string, thread: string, person: string }} Entry */

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function auditView({ query, signal }) {
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]));
  const after = query.get("after");
  const [found, head] = await Promise.all([
    get(PATH, { query: { ...filters, limit: 50, after }, signal }), get(["audit", "head"], { signal }),
  ]);
  const filtered = FILTERS.some((name) => filters[name]);
  return page(
    { title: "Audit", lead: "Each decision: who asked for what, the outcome, and the true reason. It holds no secrets." },
    section("The chain of seals", {}, chain(head, signal)),
    section(
      "Entries", { actions: exportButton(filters, signal) },
      h("details", { class: "disclosure", open: filtered }, h("summary", {}, filtered ? "Filters (on)" : "Filters"), filterForm(filters, filtered)),
      table({
        caption: "Entries of the audit", rows: /** @type {Entry[]} */ (found.items),
        empty: emptyWords(filtered, found.next !== null),
        columns: [
          { label: "Time", cell: (each) => [time(each.at, { seconds: true }), h("span", { class: "quiet number" }, ` #${each.id}`)] },
          { label: "Action", cell: (each) => h("span", { class: "mono" }, chosen(each.action)), whole: true },
          { label: "Outcome", cell: (each) => tag(each.outcome === "ok" ? "good" : "bad", each.outcome) },
          { label: "Actor", cell: (each) => chosen(each.actor) },
          { label: "Subject", cell: (each) => chosen(each.subject) },
          { label: "Reason", cell: reason },
        ],
      }),
      pager(PATH, { ...filters, after }, found.next, { first: "Newest entries", more: "Older entries" }),
    ),
  );
}

/**
 * @param {boolean} filtered
 * @param {boolean} more Whether older entries weren't looked at. A page looks at so many only.
 */
function emptyWords(filtered, more) {
  if (more) return "No entry fits these filters among those that were looked at. Older ones may.";
  return filtered ? "No entry fits these filters." : "Nothing was recorded yet.";
}

/** @param {Entry} entry */
function reason(entry) {
  const where = /** @type {[string, string][]} */ ([
    ["for", entry.person], ["run", entry.run], ["node", entry.node], ["thread", entry.thread],
  ]).filter(([, value]) => value);
  return [
    entry.reason ? chosen(entry.reason) : !where.length && h("span", { class: "quiet" }, "–"),
    where.length > 0 && h("p", { class: "quiet" }, where.map(([name, value], index) => [index > 0 && " · ", `${name} `, chosen(value)])),
  ];
}

/**
 * @param {Record<string, string | null>} filters
 * @param {boolean} filtered
 */
function filterForm(filters, filtered) {
  const text = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string} */ hint = "") => textField({
    name, label, hint, value: filters[name] ?? "", maxlength: 149,
  });
  const since = textField({
    name: "since", label: "Since", value: local(filters.since), hint: "Year-month-day, with a time if you like: 2026-05-31 14:00.",
  });
  const element = form({
    fields: [
      text("subject", "Subject", "The account or credential that it is about."), text("actor", "Actor", "Who asked."),
      text("action", "Action", "Such as verify.audience, or a group that ends with a dot: verify."),
      selectField({ name: "outcome", label: "Outcome", value: filters.outcome ?? "", options: [["", "Any"], ["ok", "ok"], ["refused", "refused"]] }),
      text("person", "Person", "For whom a credential was opened."), { ...since, read: () => utc(since.read()) },
    ],
    submit: "Apply the filters", action: async (values) => go(PATH, values),
    cancel: filtered && h("a", { class: "button", href: link(PATH) }, "Remove the filters"),
  });
  element.classList.add("grid");
  return element;
}

/** @param {string} text */
function utc(text) {
  if (!text) return "";
  const form = /^(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}(?::\d{2})?))?$/.exec(text);
  const moment = new Date(form ? `${form[1]}T${form[2] ?? "00:00"}` : Number.NaN);
  if (Number.isNaN(moment.getTime())) throw new FieldError("Write it as 2026-05-31 or 2026-05-31 14:00, in your time zone.");
  return moment.toISOString();
}

/** @param {string | null} iso */
function local(iso) {
  const moment = new Date(iso ?? "");
  if (Number.isNaN(moment.getTime())) return "";
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${two(moment.getHours())}:${two(moment.getMinutes())}`;
}

/**
 * @param {Record<string, string | null>} filters
 * @param {AbortSignal} signal
 */
function exportButton(filters, signal) {
  let waiting = false;
  const state = h("span", { class: "quiet", "aria-live": "polite" });
  const button = h("button", {
    type: "button",
    onclick: async () => {
      if (waiting) return;
      waiting = true;
      button.setAttribute("aria-disabled", "true");
      try {
        const blob = await download(["audit", "export"], {
          query: filters, signal, progress: (bytes) => fill(state, `${(bytes / 1e6).toFixed(1)} MB…`),
        });
        save(blob, `audit-${new Date().toISOString().slice(0, 10)}.jsonl`);
        fill(state, `Saved, ${(blob.size / 1e6).toFixed(1)} MB.`);
      } catch (error) {
        if (!(error instanceof Cancelled)) fill(state, wordsOf(error));
      } finally {
        waiting = false;
        button.removeAttribute("aria-disabled");
      }
    },
  }, "Export as JSON lines");
  return [state, button];
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function save(blob, name) {
  const href = URL.createObjectURL(blob);
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** @typedef {{ number: number, last_id: number, digest: string, at: string }} Head */

/**
 * Return a head as the command `audit head` prints it.
 *
 * @param {Head} head
 */
function lineOf({ number, last_id, digest, at }) {
  return JSON.stringify({ number, last_id, digest, at });
}

/**
 * Return the heads in some lines, of which each has one.
 *
 * @param {string} text
 * @returns {Head[]}
 */
function headsIn(text) {
  const lines = text.split("\n").map((each) => each.trim()).filter(Boolean);
  if (lines.length > MOST_HEADS) throw new FieldError(`Paste at most ${MOST_HEADS} heads.`);
  return lines.map((line, index) => {
    const head = headIn(line);
    if (!head) throw new FieldError(`Line ${index + 1} isn't a head: it must be a line that audit head printed, with number, last_id, digest and at.`);
    return head;
  });
}

/**
 * @param {string} line
 * @returns {Head | null}
 */
function headIn(line) {
  let found;
  try {
    found = JSON.parse(line);
  } catch {
    return null;
  }
  const { number, last_id, digest, at } = found ?? {};
  const fits = Number.isSafeInteger(number) && number >= 0 && Number.isSafeInteger(last_id)
    && typeof digest === "string" && /^[0-9a-f]{0,64}$/.test(digest) && typeof at === "string" && at.length <= 64;
  return fits ? { number, last_id, digest, at } : null;
}

/**
 * @param {Head} head
 * @param {AbortSignal} signal
 */
function chain(head, signal) {
  let waiting = false;
  const result = h("div", { class: "result", "aria-live": "polite" });
  const button = h("button", {
    type: "button",
    onclick: async () => {
      if (waiting) return;
      kept.complain("");
      /** @type {Head[]} */
      let heads;
      try {
        heads = headsIn(kept.read());
      } catch (error) {
        if (!(error instanceof FieldError)) throw error;
        kept.complain(error.message);
        disclosure.open = true;
        kept.focus();
        return;
      }
      waiting = true;
      button.setAttribute("aria-disabled", "true");
      fill(button, "Verifying…");
      try {
        fill(result, report(await request("POST", ["audit", "verify"], { body: { heads }, signal, within: 600 })));
      } catch (error) {
        if (!(error instanceof Cancelled)) fill(result, note("bad", h("p", {}, wordsOf(error))));
      } finally {
        waiting = false;
        button.removeAttribute("aria-disabled");
        fill(button, "Verify the chain");
      }
    },
  }, "Verify the chain");
  const kept = areaField({
    name: "heads", label: "Heads that you kept", code: true, rows: 3,
    hint: "One JSON line each, as pipelit-agents audit head prints it and as it is displayed here. With them, a deletion of the newest seals is detected too.",
  });
  const disclosure = /** @type {HTMLDetailsElement} */ (h(
    "details", { class: "disclosure" }, h("summary", {}, "Compare with heads that you kept"), kept.element,
  ));
  return [
    head?.number
      ? facts([
        ["Newest seal", `number ${head.number}, over the entries up to #${head.last_id}`],
        ["Sealed", time(head.at, { relative: true })],
        ["Digest", h("span", { class: "mono" }, chosen(head.digest))],
      ])
      : note("info", h("p", {}, "No entry is sealed yet, so changes to them can't be detected. Run ", h("code", {}, "pipelit-agents audit seal"), " from a timer.")),
    head?.number > 0 && [
      h("p", { class: "hint" }, "Keep a copy of this line where the database's users can't write: only then does it show if the newest seals are deleted."),
      h("p", {}, h("code", {}, chosen(lineOf(head)))),
    ],
    disclosure,
    h("div", { class: "buttons" }, button), result,
  ];
}

/**
 * @param {{ sealed: number }} found
 * @param {string[]} problems
 */
function verdict(found, problems) {
  if (problems.length > 0) {
    return note("bad", h("p", {}, h("strong", {}, `${counted(problems.length, "sign", "signs")} of changes.`)), h("ul", {}, problems.map((each) => h("li", {}, chosen(each)))));
  }
  if (found.sealed === 0) {
    return note("info", h("p", {}, h("strong", {}, "Nothing is sealed, "), "so it isn't known whether the trail is intact."));
  }
  return note("good", h("p", {}, h("strong", {}, "The chain is intact. "), `${counted(found.sealed, "entry", "entries")} under valid seals.`));
}

/** @param {{ sealed: number, unsealed: number, pruned: number, problems: string[], doubtful: number,
 *   outside: number, notes: string[], unlisted?: number }} found */
function report(found) {
  const problems = found.problems ?? [];
  return [
    verdict(found, problems),
    facts([
      ["Sealed", found.sealed], ["Not sealed yet", found.unsealed], ["Deleted on purpose", found.pruned],
      ["Under seals that aren't valid", found.doubtful || null], ["Outside of the numbering", found.outside || null],
    ]),
    found.unlisted > 0 && h("p", {}, `${counted(found.unlisted, "more problem or note", "more problems and notes")} aren't listed.`),
    found.notes?.length > 0 && h("ul", { class: "quiet" }, found.notes.map((each) => h("li", {}, chosen(each)))),
  ];
}
