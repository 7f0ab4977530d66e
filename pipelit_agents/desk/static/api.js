/** Requests to the API, and its errors. */

import { currentKey, end, sessionSignal } from "./session.js";
import { duration } from "./format.js";

// Beside this module, whatever prefix the desk is mounted below.
const BASE = new URL("../api/v1/", import.meta.url);
const PROBLEM = "urn:pipelit-agents:problem:";
/** Seconds to wait for an answer. */
const READ_TIMEOUT = 30;
const WRITE_TIMEOUT = 90;
const DOWNLOAD_TIMEOUT = 3600;
export const SIGNED_OUT = "You were signed out, because this key isn't accepted any more.";

/**
 * @typedef {object} Options
 * @property {Record<string, string | number | boolean | null | undefined>} [query]
 * @property {unknown} [body]
 * @property {AbortSignal} [signal]
 * @property {string} [code] A code of the second factor.
 * @property {boolean} [onlyNew] Replace nothing that is there already; then the answer is a 412.
 * @property {string} [key] Another key than that of the session, to sign in.
 * @property {number} [within] Seconds to wait for the whole answer.
 */

/** An answer that is an error: a problem of RFC 9457. */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {Record<string, any>} fields
   */
  constructor(status, fields) {
    super(fields.detail || fields.title || `The server answered with HTTP ${status}.`);
    this.name = "Problem";
    this.status = status;
    /** What kind of problem it is, such as `not-permitted`. */
    this.slug = String(fields.type ?? "").replace(PROBLEM, "");
    /** @type {{ field: string, message: string }[]} */
    this.errors = Array.isArray(fields.errors) ? fields.errors : [];
    /** @type {number | null} Seconds. */
    this.retryAfter = Number.isFinite(fields.retry_after) ? fields.retry_after : null;
  }
}

/** No answer came: the server can't be reached, or took too long. */
export class NoAnswer extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "NoAnswer";
  }
}

/** The person or a change of the page ended it. Nothing has to be said. */
export class Cancelled extends Error {
  constructor() {
    super("cancelled");
    this.name = "Cancelled";
  }
}

/**
 * Return the sentences about an error for the person.
 *
 * @param {unknown} error
 */
export function wordsOf(error) {
  if (error instanceof Problem) {
    const wait = error.retryAfter ? ` Try again in ${duration(error.retryAfter)}.` : "";
    return capitalised(error.message) + wait;
  }
  if (error instanceof NoAnswer) return error.message;
  return `The page made a mistake: ${error instanceof Error ? error.message : String(error)}`;
}

/** @param {string} sentence The library's messages begin with a small letter and have no full stop. */
function capitalised(sentence) {
  // A name or a setting at the beginning stays as it is.
  const word = /^[a-z]+(?=[ ,']|$)/.test(sentence);
  const begun = word ? sentence[0].toUpperCase() + sentence.slice(1) : sentence;
  return /[.!?:…]$/.test(begun) ? begun : `${begun}.`;
}

/**
 * Return the address of an endpoint.
 *
 * @param {string[]} path Its parts; each is escaped.
 * @param {Options["query"]} query
 */
function addressOf(path, query = {}) {
  // A browser would take these parts out of the address, and ask another endpoint.
  if (path.some((each) => ["", ".", ".."].includes(each))) throw new Problem(404, { detail: "there is nothing here" });
  const url = new URL(path.map(encodeURIComponent).join("/"), BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
  }
  return url;
}

/**
 * Send one request and return its answer.
 *
 * @param {string} method
 * @param {string[]} path
 * @param {Options} options
 * @returns {Promise<Response>}
 */
async function send(method, path, { query, body, signal, code, onlyNew, key, within }) {
  const address = addressOf(path, query);
  const used = key ?? currentKey();
  const reading = method === "GET";
  const limit = AbortSignal.timeout((within ?? (reading ? READ_TIMEOUT : WRITE_TIMEOUT)) * 1000);
  const signals = [limit, ...(key ? [] : [sessionSignal()]), ...(signal ? [signal] : [])];
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (used) headers.Authorization = `Bearer ${used}`;
  if (code) headers["Pipelit-Code"] = code;
  if (onlyNew) headers["If-None-Match"] = "*";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  /** @type {Response} */
  let response;
  try {
    response = await fetch(address, {
      method, headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any(signals),
      // A redirect could lead the key elsewhere.
      cache: "no-store", credentials: "omit", mode: "same-origin", redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    throw unanswered(limit, signals, reading, error);
  }
  if (response.ok) return response;
  const problem = new Problem(response.status, await fieldsOf(response));
  if (problem.retryAfter === null) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
    if (seconds > 0) problem.retryAfter = seconds;
  }
  // The session may be another one by now.
  if (response.status === 401 && !key && used === currentKey()) end(SIGNED_OUT);
  throw problem;
}

/**
 * @param {AbortSignal} limit
 * @param {AbortSignal[]} signals
 * @param {boolean} reading
 * @param {unknown} error
 */
function unanswered(limit, signals, reading, error) {
  if (signals.some((each) => each !== limit && each.aborted)) return new Cancelled();
  if (limit.aborted) {
    return new NoAnswer(
      reading
        ? "The server took too long to answer. Try again."
        : "The server took too long to answer. The change may have been made: look before you repeat it.",
    );
  }
  if (error instanceof TypeError && !/fetch|network|load/i.test(error.message)) return error;
  return new NoAnswer(
    reading
      ? "The server can't be reached. Check that it is running, and try again."
      : "The connection to the server broke. The change may have been made: look before you repeat it.",
  );
}

/**
 * @param {Response} response
 * @returns {Promise<Record<string, any>>}
 */
async function fieldsOf(response) {
  try {
    const fields = await response.json();
    return fields !== null && typeof fields === "object" ? fields : {};
  } catch {
    return {};
  }
}

/**
 * Send a request and return the JSON of its answer; null if it has none.
 *
 * @param {string} method
 * @param {string[]} path
 * @param {Options} [options]
 * @returns {Promise<any>}
 */
export async function request(method, path, options = {}) {
  const text = await textOf(await send(method, path, options), options);
  return text ? JSON.parse(text) : null;
}

/**
 * Read an endpoint.
 *
 * @param {string[]} path
 * @param {Options} [options]
 * @returns {Promise<any>}
 */
export function get(path, options) {
  return request("GET", path, options);
}

/**
 * Read an endpoint, and return its text also, for values that must be shown exactly.
 *
 * @param {string[]} path
 * @param {Options} [options]
 * @returns {Promise<{ value: any, text: string }>}
 */
export async function getExactly(path, options = {}) {
  const text = await textOf(await send("GET", path, options), options);
  return { value: JSON.parse(text), text };
}

/**
 * Download an endpoint into a Blob, piece by piece.
 *
 * @param {string[]} path
 * @param {Options & { progress?: (bytes: number) => void }} options
 * @returns {Promise<Blob>}
 */
export async function download(path, { progress, ...options }) {
  const response = await send("GET", path, { within: DOWNLOAD_TIMEOUT, ...options });
  const reader = response.body.getReader();
  const parts = [];
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      bytes += value.length;
      progress?.(bytes);
    }
  } catch {
    if (options.signal?.aborted || sessionSignal().aborted) throw new Cancelled();
    throw new NoAnswer("The download broke off, so nothing was saved. Try again.");
  }
  return new Blob(parts, { type: response.headers.get("Content-Type") ?? "" });
}

/**
 * @param {Response} response
 * @param {Options} options
 */
async function textOf(response, options) {
  try {
    return await response.text();
  } catch {
    if (options.signal?.aborted) throw new Cancelled();
    throw new NoAnswer("The answer broke off. If you changed something, look before you repeat it.");
  }
}
