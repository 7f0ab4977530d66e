/** Which page is displayed: the part of the address after `#`. It never holds anything secret. */

/**
 * @typedef {object} Context
 * @property {Record<string, string>} params What the pattern names.
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal Aborted when another page is displayed.
 */
/** @typedef {(context: Context) => Node | Promise<Node>} View */
/** @typedef {{ pattern: string[], view: View, section: string }} Route */

/** @type {Route[]} */
const routes = [];

/**
 * Add a page.
 *
 * @param {string} pattern For example `people/:name`.
 * @param {string} section The link of the navigation that it belongs to.
 * @param {View} view
 */
export function route(pattern, section, view) {
  routes.push({ pattern: pattern.split("/"), view, section });
}

/**
 * Return the link to a page.
 *
 * @param {string[]} path
 * @param {Record<string, string | null | undefined>} [query] Empty values are left out.
 */
export function link(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value);
  const search = new URLSearchParams(/** @type {[string, string][]} */ (kept)).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

/**
 * Go to a page.
 *
 * @param {string[]} path
 * @param {Record<string, string | null | undefined>} [query]
 */
export function go(path, query) {
  const target = link(path, query);
  if (location.hash === target) refresh();
  else location.hash = target;
}

/**
 * Go to a page in place of this one, so that the back button doesn't return here.
 *
 * @param {string[]} path
 */
export function goInstead(path) {
  history.replaceState(null, "", link(path));
  refresh();
}

/** @type {(kept: boolean) => void} */
let display = () => {};

/**
 * Call a function when another page is to be displayed.
 *
 * @param {(kept: boolean) => void} listener `kept`: it is the same page again.
 */
export function onRoute(listener) {
  display = listener;
  window.addEventListener("hashchange", () => display(false));
}

/** Display the present page again, with fresh data. */
export function refresh() {
  display(true);
}

/**
 * Return the page of the present address.
 *
 * @returns {{ route: Route | null, params: Record<string, string>, query: URLSearchParams }}
 */
export function current() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const query = new URLSearchParams(search);
  let parts;
  try {
    parts = path.split("/").map(decodeURIComponent);
  } catch {
    return { route: null, params: {}, query };
  }
  for (const each of routes) {
    const params = matched(each.pattern, parts);
    if (params) return { route: each, params, query };
  }
  return { route: null, params: {}, query };
}

/**
 * @param {string[]} pattern
 * @param {string[]} parts
 * @returns {Record<string, string> | null}
 */
function matched(pattern, parts) {
  if (pattern.length !== parts.length) return null;
  /** @type {Record<string, string>} */
  const params = {};
  for (const [index, each] of pattern.entries()) {
    if (each.startsWith(":") && parts[index]) params[each.slice(1)] = parts[index];
    else if (each !== parts[index]) return null;
  }
  return params;
}
