/** Requests that change something. They ask for a code of the second factor where the API wants one. */

import { Cancelled, Problem, request, wordsOf } from "./api.js";
import { askForCode } from "./dialogs.js";

const REQUIRED = "second-factor-required";

/**
 * Send a request that changes something.
 *
 * If the API asks for a code of the second factor, the person is asked for one, and the request is
 * sent again with it. A wrong code can be corrected until the person gives up. Codes aren't kept:
 * each is accepted once.
 *
 * @param {string} method
 * @param {string[]} path
 * @param {unknown} [body]
 * @param {{ onlyNew?: boolean }} [options]
 * @returns {Promise<any>}
 */
export async function act(method, path, body, { onlyNew } = {}) {
  try {
    return await request(method, path, { body, onlyNew });
  } catch (error) {
    if (!(error instanceof Problem) || error.slug !== REQUIRED) throw error;
  }
  /** @type {{ value: any } | null} */
  let done = null;
  const failed = await askForCode(async (code) => {
    try {
      done = { value: await request(method, path, { body, code, onlyNew }) };
      return null;
    } catch (error) {
      if (isAboutTheCode(error)) return wordsOf(error);
      throw error;
    }
  });
  if (failed) throw failed;
  if (!done) throw new Cancelled();
  return done.value;
}

/**
 * Return whether an error is about the code, so that another code may help.
 *
 * @param {unknown} error
 */
function isAboutTheCode(error) {
  if (!(error instanceof Problem)) return false;
  if (error.slug === REQUIRED || error.slug === "code-rejected" || error.status === 429) return true;
  // A code of another form. What else is wrong with a request names its fields.
  return error.status === 422 && error.errors.every(({ field }) => /pipelit-code/i.test(field));
}
