/* Problems and outcomes, shown in place: title, detail, code and the id of the request, by which the node's log has it. */

import { Problem } from "./api.js";
import { button, el } from "./dom.js";
import { icon } from "./icons.js";

/** A box with what went wrong; it can take the focus. */
export function problemView(error) {
  const problem = Problem.of(error);
  const facts = [];
  if (problem.status) facts.push(["Status", String(problem.status)]);
  if (problem.code) facts.push(["Code", problem.code]);
  if (problem.requestId) facts.push(["Request id", problem.requestId]);
  if (problem.retryable === true) facts.push(["Again", "the same request may succeed later"]);
  const list = el(
    "dl",
    { class: "facts" },
    ...facts.map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text }))),
  );
  return el(
    "div",
    { class: "box box-bad", tabindex: "-1", data: { problem: problem.code || problem.kind } },
    el("p", { class: "box-title" }, icon("bad"), el("strong", { text: problem.title })),
    problem.detail ? el("p", { text: problem.detail }) : null,
    facts.length ? list : null,
  );
}

/** A box with an outcome; it can take the focus. */
export function outcomeView(text, tone = "good", more = []) {
  return el(
    "div",
    { class: `box box-${tone}`, tabindex: "-1" },
    el("p", { class: "box-title" }, icon(tone), el("strong", { text })),
    ...more,
  );
}

/** Show a box in the page's place for notices until it is closed or replaced. */
export function notify(region, view) {
  const close = button("Close", () => region.replaceChildren(), {
    class: "button button-quiet",
    "aria-label": "Close this notice",
  });
  region.replaceChildren(el("div", { class: "notice" }, view, close));
}
