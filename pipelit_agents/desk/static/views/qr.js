/** QR codes. */

import { h } from "../dom.js";

const NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"';

/**
 * Return an SVG as an image. Within an image, a browser runs no script and loads nothing.
 *
 * @param {string} svg
 * @param {string} words What it is, for a screen reader.
 */
export function qrImage(svg, words) {
  const whole = svg.includes("xmlns=") ? svg : svg.replace("<svg", `<svg ${NAMESPACE}`);
  const src = `data:image/svg+xml,${encodeURIComponent(whole)}`;
  return h("p", { class: "qr" }, h("img", { src, alt: words, width: "220", height: "220" }));
}
