/* Small drawings beside words: they repeat what the words say, so screen readers skip them. */

import { svg } from "./dom.js";

const PATHS = {
  star: "M8 1.2l2 4.3 4.7.6-3.4 3.2.9 4.6L8 11.6l-4.2 2.3.9-4.6L1.3 6.1 6 5.5z",
  good: "M2.5 8.6l3.6 3.6 7.4-8",
  warn: "M8 2v7M8 12.4v.6",
  bad: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  none: "M3 8h10",
  info: "M8 7v6M8 3.4v.4",
};
const FILLED = new Set(["star"]);

/** The path of a drawing on a field of 16 by 16; for pictures that place it themselves. */
export function iconPath(name, properties = {}) {
  return svg("path", {
    d: PATHS[name] ?? PATHS.none,
    class: FILLED.has(name) ? "icon-fill" : "icon-stroke",
    ...properties,
  });
}

/** A drawing in a line of text. */
export function icon(name) {
  return svg(
    "svg",
    { class: `icon icon-${name}`, viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    iconPath(name),
  );
}
