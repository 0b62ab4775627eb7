/* Making and changing elements. Data reaches the page as text and attributes only, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

/** Give an element its properties: `class`, `text`, `data`, `on`; everything else is an attribute. */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name === "data") for (const [key, text] of Object.entries(value)) element.dataset[key] = text;
    else if (name === "on")
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "style") throw new Error("the content-security policy forbids style attributes");
    else setAttribute(element, name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make an HTML element. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an SVG element. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** The element with this id; it must be in the page. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/** Set, or with null and false remove, an attribute, and touch the element only if that changes it. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Set the text of an element, if it is another one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a value; one that is not known is a dash, which a screen reader hears as "unknown". */
export function setValue(element, text) {
  if (text !== null && text !== undefined && text !== "") {
    if (element.dataset.unknown || element.textContent !== text) {
      delete element.dataset.unknown;
      element.textContent = text;
    }
  } else if (!element.dataset.unknown) {
    element.dataset.unknown = "true";
    element.replaceChildren(...dash());
  }
}

/** What stands for a value that is not known. */
export function dash() {
  return [el("span", { "aria-hidden": "true", text: "–" }), el("span", { class: "vh", text: "unknown" })];
}

/** A table cell or other element with a value that may be unknown. */
export function valued(tag, text, properties = {}) {
  const element = el(tag, properties);
  setValue(element, text);
  return element;
}

/** Show or hide an element. */
export function setShown(element, shown) {
  setAttribute(element, "hidden", !shown);
}

/** A button that does something on this page. */
export function button(text, onClick, properties = {}) {
  return el("button", { type: "button", class: "button", ...properties, on: { click: onClick } }, text);
}

/**
 * A list whose elements stay the same while their items change, so that focus, selection and open details stay.
 * `create(item)` returns `{ element, update(item) }`.
 */
export function keyedList(container, keyOf, create) {
  const present = new Map();
  return {
    update(items) {
      const keys = new Set(items.map((item) => String(keyOf(item))));
      for (const [key, row] of present) {
        if (!keys.has(key)) {
          row.element.remove();
          present.delete(key);
        }
      }
      let place = container.firstElementChild;
      for (const item of items) {
        const key = String(keyOf(item));
        let row = present.get(key);
        if (!row) {
          row = create(item);
          present.set(key, row);
        }
        row.update(item);
        if (row.element === place) place = place.nextElementSibling;
        else container.insertBefore(row.element, place);
      }
    },
  };
}

/** Replace what a table's body has; for tables without controls. Cells are texts, null for unknown, or elements. */
export function fillRows(body, rows) {
  body.replaceChildren(
    ...rows.map((cells) =>
      el(
        "tr",
        {},
        ...cells.map((cell, place) => {
          if (cell instanceof Element) return el(place ? "td" : "th", place ? {} : { scope: "row" }, cell);
          return valued(place ? "td" : "th", cell, place ? {} : { scope: "row" });
        }),
      ),
    ),
  );
}

/** A table in a region of its own that scrolls, also with the keyboard. */
export function scrollingTable(label, heads, rows, properties = {}) {
  const body = el("tbody");
  fillRows(body, rows);
  return el(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": label, ...properties },
    el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))), body),
  );
}
