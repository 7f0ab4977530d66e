/** The person's second factor: set it up, renew the recovery codes, turn it off. */

import { get, request } from "../api.js";
import { act } from "../actions.js";
import { secret, showOnce } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { codeField, form } from "../forms.js";
import { counted } from "../format.js";
import { facts, note, page, section, tag } from "../layout.js";
import { notice } from "../notice.js";
import { refresh } from "../router.js";
import { update } from "../session.js";
import { qrImage } from "./qr.js";

const PATH = ["me", "second-factor"];

/**
 * @param {import("../router.js").Context} context
 * @returns {Promise<Node>}
 */
export async function secondFactorView({ signal }) {
  const person = await get(["me"], { signal });
  update(person);
  const factor = person.second_factor;
  const options = { title: "Second factor", lead: "A code of an authenticator app, such as Aegis, 2FAS or Google Authenticator. You need it to approve what agents ask, and the desk asks for it before sensitive changes." };
  return page(options, ...(factor?.on ? turnedOn(factor) : turnedOff(factor)));
}

/** @param {{ pending: boolean } | null} factor */
function turnedOff(factor) {
  const place = h("div", { class: "enrolment" });
  const button = form({
    before: factor?.pending && note("info", h("p", {}, "You began to set it up, and didn't confirm it with a code. Begin again: the QR code that you saw before doesn't count any more.")),
    fields: [], submit: "Set up a second factor", busy: "Preparing…",
    action: async () => enrolment(place, await act("POST", PATH)),
  });
  fill(
    place, note("warn", h("p", {}, h("strong", {}, "It is off. "), "Anyone who has your API key can act as you, and you can't approve anything.")), button,
  );
  return [place];
}

/**
 * @param {HTMLElement} place
 * @param {{ provisioning_uri: string, secret: string, qr_svg: string }} made
 */
function enrolment(place, made) {
  const code = codeField({ hint: "6 digits, as the app displays them now.", label: "Code" });
  const heading = h("h2", { tabindex: "-1" }, "Scan and confirm");
  fill(
    place, heading,
    h(
      "ol", { class: "steps" },
      h(
        "li", {}, h("p", {}, "Scan this with your authenticator app."),
        qrImage(made.qr_svg, "QR code for your authenticator app"),
        h("details", { class: "disclosure" }, h("summary", {}, "I can't scan it"),
          h("p", {}, "Type this secret into the app, for a code by time (TOTP)."),
          secret({ label: "Secret", value: made.secret })),
      ),
      h(
        "li", {}, h("p", {}, "Enter the code that the app displays."),
        form({
          fields: [code], submit: "Turn it on", busy: "Confirming…",
          cancel: h("button", { type: "button", onclick: refresh }, "Cancel"),
          action: async (values) => {
            const answer = await request("POST", [...PATH, "confirm"], { body: values });
            fill(place);
            await showRecoveryCodes(answer.recovery_codes, "Your second factor is on");
            notice("Your second factor is on.");
            refresh();
          },
        }),
      ),
    ),
  );
  heading.focus();
}

/**
 * @param {string[]} codes
 * @param {string} title
 */
function showRecoveryCodes(codes, title) {
  return showOnce({
    title, text: "Store these recovery codes apart from your phone. Each works once in place of a code.",
    secrets: [{ label: "Recovery codes", value: codes.join("\n"), area: true }],
  });
}

/** @param {{ recovery_codes: number }} factor */
function turnedOn(factor) {
  const renew = codeField();
  const disable = codeField();
  return [
    facts([
      ["State", tag("good", "on")],
      ["Recovery codes left", [counted(factor.recovery_codes, "code"), " ", factor.recovery_codes < 3 && tag("warn", "few")]],
    ]),
    section(
      "New recovery codes", { lead: "The old ones stop working." },
      form({
        fields: [renew], submit: "Make new recovery codes", busy: "Making…",
        action: async (values) => {
          const answer = await request("POST", [...PATH, "recovery-codes"], { body: values });
          await showRecoveryCodes(answer.recovery_codes, "New recovery codes");
          notice("You have new recovery codes. The old ones don't work any more.");
          refresh();
        },
      }),
    ),
    section(
      "Turn it off", { lead: "To change to another phone: turn it off, and set it up again." },
      form({
        fields: [disable], submit: "Turn it off", busy: "Turning it off…", danger: true,
        action: async (values) => {
          await request("POST", [...PATH, "disable"], { body: values });
          notice("Your second factor is off.");
          refresh();
        },
      }),
    ),
  ];
}
