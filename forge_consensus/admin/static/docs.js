/* The page that shows openapi.json for reading: operations by tag, each with parameters, bodies, answers and a curl line. */

import { get } from "./api.js";
import { byId, el, scrollingTable, setShown, setText } from "./dom.js";
import { count } from "./format.js";
import { problemView } from "./notice.js";
import { curlOf, groupsOf, rowsOf, typeText } from "./openapi.js";

/** A text as paragraphs; what stands between backticks is code. */
function prose(text) {
  return text
    .split(/\n\s*\n/)
    .filter((part) => part.trim())
    .map((part) =>
      el(
        "p",
        {},
        ...part
          .split("`")
          .map((piece, place) => (place % 2 ? el("code", { text: piece }) : piece.replace(/\s+/g, " "))),
      ),
    );
}

/** The address below which the paths lie: that of the first server, else the folder of this page. */
function baseOf(description) {
  const server = description.servers?.[0]?.url;
  const base = new URL(server && server !== "/" ? server : ".", new URL("openapi.json", location.href)).href;
  return base.endsWith("/") ? base : `${base}/`;
}

/** The table of the parameters. */
function parametersOf(description, operation) {
  if (!operation.parameters.length) return [];
  const rows = operation.parameters.map((each) => [
    each.name,
    each.in,
    typeText(description, each.schema),
    each.required ? "yes" : "no",
    el("span", { text: each.description || "–" }),
  ]);
  return [
    el("h4", { text: "Parameters" }),
    scrollingTable(`Parameters of ${title(operation)}`, ["Name", "In", "Type", "Required", "Meaning"], rows),
  ];
}

/** A body: its media types and the fields of each. */
function contentView(description, content, about) {
  const views = content.flatMap(({ type, schema, example }) => {
    const rows = rowsOf(description, schema).map((row) => [
      row.name,
      row.type,
      row.required ? "yes" : "no",
      el("span", { text: row.description || "–" }),
    ]);
    return [
      el("p", {}, el("code", { text: type }), `: ${typeText(description, schema)}`),
      rows.length ? scrollingTable(`Fields of ${about}, ${type}`, ["Field", "Type", "Always", "Meaning"], rows) : null,
      example === undefined
        ? null
        : el("pre", {
            class: "value",
            tabindex: "0",
            role: "region",
            "aria-label": `Example of ${about}, ${type}`,
            text: typeof example === "string" ? example : JSON.stringify(example, null, 2),
          }),
    ];
  });
  return views.filter(Boolean);
}

/** The words for an operation. */
function title(operation) {
  return `${operation.method.toUpperCase()} ${operation.path}`;
}

/** The block of one operation; what is inside is made when it is opened. */
function operationView(description, operation, base) {
  const method = el("span", { class: `method method-${operation.method}`, text: operation.method.toUpperCase() });
  const summary = el(
    "summary",
    {},
    el("h3", {}, method, " ", el("code", { text: operation.path })),
    el("span", { text: operation.summary + (operation.deprecated ? " (deprecated)" : "") }),
  );
  const details = el(
    "details",
    { class: "panel operation", id: operation.id, data: { method: operation.method, path: operation.path } },
    summary,
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const body = operation.body;
    const curl = curlOf(description, operation, base);
    details.append(
      ...prose(operation.description),
      ...parametersOf(description, operation),
      ...(body
        ? [
            el("h4", { text: `Body${body.required ? "" : " (may be left out)"}` }),
            ...prose(body.description),
            ...contentView(description, body.content, `the body of ${title(operation)}`),
          ]
        : []),
      el("h4", { text: "Answers" }),
      ...operation.answers.map((answer) => answerView(description, operation, answer)),
      el("h4", { text: "With curl" }),
      el("pre", {
        class: "curl",
        tabindex: "0",
        role: "region",
        "aria-label": `curl line of ${title(operation)}`,
        text: curl,
      }),
    );
  });
  return details;
}

/** One answer of an operation. */
function answerView(description, operation, answer) {
  const view = el(
    "div",
    { class: "answer" },
    el("p", {}, el("strong", { text: answer.status }), ` ${answer.description}`),
  );
  view.append(...contentView(description, answer.content, `the answer ${answer.status} of ${title(operation)}`));
  if (answer.headers.length) view.append(el("p", { class: "muted", text: `Headers: ${answer.headers.join(", ")}` }));
  return view;
}

/** Show the description, and let the filter work on it. */
function show(description) {
  const base = baseOf(description);
  setText(byId("api-title"), description.info?.title ?? "The HTTP API");
  setText(
    byId("api-version"),
    `Version ${description.info?.version ?? "unknown"}, OpenAPI ${description.openapi ?? "unknown"}, at ${base}`,
  );
  byId("api-about").replaceChildren(...prose(description.info?.description ?? ""));
  const groups = groupsOf(description);
  byId("operations").replaceChildren(
    ...groups.map((group, place) =>
      el(
        "section",
        { class: "tag", "aria-labelledby": `tag-${place}` },
        el("h2", { id: `tag-${place}`, text: group.name }),
        ...prose(group.description),
        ...group.operations.map((operation) => operationView(description, operation, base)),
      ),
    ),
  );
  byId("operations-text").addEventListener("input", filter);
  byId("operations-open").addEventListener("click", () => openAll(true));
  byId("operations-close").addEventListener("click", () => openAll(false));
  filter();
  openNamed();
}

/** Show only the operations that the filter names. */
function filter() {
  const words = byId("operations-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const tag of document.querySelectorAll(".tag")) {
    let inside = 0;
    for (const operation of tag.querySelectorAll(".operation")) {
      const text =
        `${operation.dataset.method} ${operation.firstElementChild.textContent} ${tag.firstElementChild.textContent}`.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      setShown(operation, fits);
      inside += fits;
    }
    setShown(tag, inside > 0);
    shown += inside;
  }
  setText(byId("operations-count"), `${count(shown)} operations.`);
}

/** Open or close all that are shown. */
function openAll(open) {
  for (const operation of document.querySelectorAll(".operation:not([hidden])")) operation.open = open;
}

/** Open the operation that the address names. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!named?.matches(".operation")) return;
  named.open = true;
  named.scrollIntoView();
}

window.addEventListener("hashchange", openNamed);
get("openapi.json")
  .then(show)
  .catch((error) => byId("operations").replaceChildren(problemView(error)));
