/**
 * Who is signed in. The key is in a variable of this module and nowhere else: no cookie, no storage.
 * Leaving or reloading the page forgets it.
 */

/**
 * @typedef {object} Me
 * @property {string} username
 * @property {string} kind
 * @property {string} role
 * @property {{ on: boolean, pending: boolean, recovery_codes: number } | null} second_factor
 * @property {{ id: string, name: string, masked: string, created_at: string,
 *   expires_at: string | null, last_used_at: string | null }} key
 */

/** Seconds without a key press, click or touch after which the person is signed out. */
export const IDLE_LIMIT = 15 * 60;
/** Seconds before that at which a warning appears. */
export const IDLE_WARNING = 60;

let key = "";
/** @type {Me | null} */
let person = null;
let ending = new AbortController();
/** @type {(why: string) => void} */
let whenEnded = () => {};
/** @type {(() => void)[]} */
const forgetters = [];

/** Return the key; an empty string if nobody is signed in. */
export function currentKey() {
  return key;
}

/** Return who is signed in. */
export function me() {
  return person;
}

/** Return whether the person who is signed in is an operator. */
export function isOperator() {
  return person?.role === "operator";
}

/** Return a signal that is aborted when the person is signed out. */
export function sessionSignal() {
  return ending.signal;
}

/**
 * Begin a session.
 *
 * @param {string} newKey
 * @param {Me} newPerson
 */
export function begin(newKey, newPerson) {
  ending.abort();
  ending = new AbortController();
  key = newKey;
  person = newPerson;
}

/**
 * Replace what is known of the person, after a change.
 *
 * @param {Me} newPerson
 */
export function update(newPerson) {
  if (key) person = newPerson;
}

/**
 * Forget the key and everything else, and show the sign-in page.
 *
 * @param {string} why A sentence for the person.
 */
export function end(why) {
  if (key) forget(why);
}

/**
 * Forget all that was typed and displayed, also before anybody signed in.
 *
 * @param {string} why A sentence for the person; "" for none.
 */
export function forget(why) {
  key = "";
  person = null;
  ending.abort();
  for (const each of forgetters) each();
  whenEnded(why);
}

/**
 * Call a function when a session ends.
 *
 * @param {(why: string) => void} listener
 */
export function onEnd(listener) {
  whenEnded = listener;
}

/**
 * Call a function that clears what a module remembered of a session.
 *
 * @param {() => void} listener
 */
export function onForget(listener) {
  forgetters.push(listener);
}

let lastActivity = Date.now();

/** Note that the person did something. */
export function active() {
  lastActivity = Date.now();
}

/**
 * Sign the person out after a time without activity.
 *
 * @param {(secondsLeft: number | null) => void} warn Called each second near the end, and with null
 *   when the warning is over.
 */
export function watchIdleness(warn) {
  let warned = false;
  const look = () => {
    const left = IDLE_LIMIT - (Date.now() - lastActivity) / 1000;
    const near = Boolean(key) && left <= IDLE_WARNING;
    if (near && left <= 0) {
      end("You were signed out after 15 minutes without activity.");
      warn(null);
      warned = false;
    } else if (near || warned) {
      warned = near;
      warn(near ? Math.ceil(left) : null);
    }
  };
  // Timers stand still while a computer sleeps, so look at the clock when the page is seen again.
  setInterval(look, 1000);
  document.addEventListener("visibilitychange", look);
  for (const event of ["pointerdown", "keydown", "wheel", "touchstart"]) {
    document.addEventListener(event, () => { look(); active(); }, { passive: true, capture: true });
  }
}
