/** The person's own account. */

import { get } from "../api.js";
import { chosen } from "../exact.js";
import { time } from "../format.js";
import { facts, page, section } from "../layout.js";
import { update } from "../session.js";
import { keysOf } from "./keys.js";

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function accountView({ query, signal }) {
  const after = query.get("after");
  const person = await get(["me"], { signal });
  update(person);
  const keys = await get(["users", person.username, "keys"], { query: { limit: 50, after }, signal });
  const factor = person.second_factor;
  return page(
    { title: "My account", lead: "Who you are here, and the keys that sign you in." },
    section("Account", {}, facts([
      ["Username", person.username],
      ["Role", person.role],
      ["Second factor", factor?.on ? "on" : factor?.pending ? "not confirmed yet" : "off"],
      ["Key of this session", [chosen(person.key?.name, { none: "without a name" }), " ", chosen(person.key?.masked)]],
      ["That key expires", time(person.key?.expires_at, { relative: true })],
      ["Created", time(person.created_at)],
    ])),
    section(
      "API keys", { lead: "Use a key of its own on each device. If one is lost or stolen, revoke it here at once: that asks for no code." },
      keysOf({ username: person.username, found: keys, path: ["account"], after, active: true }),
    ),
  );
}
