/* The section "Settings": every setting of the node that serves this page, with the place that had the last word. */

import { get } from "./api.js";
import { byId, fillRows, el, setText } from "./dom.js";
import { count } from "./format.js";
import { problemView } from "./notice.js";

const TAKES_EFFECT = { hot: "at once", restart: "at the next start", founding: "at the founding only" };

/** The value of a setting as text. */
export function settingText(value, unit) {
  if (value === null || value === undefined) return null;
  if (typeof value === "object") return JSON.stringify(value);
  return `${value}${unit && value !== "" ? ` ${unit}` : ""}`;
}

/** When a setting takes another value; and the value that waits for that, if one does. */
export function takesEffect(setting) {
  const when = TAKES_EFFECT[setting.reload] ?? setting.reload;
  return setting.pending === null || setting.pending === undefined ? when : `${when}: ${setting.pending || "nothing"}`;
}

/** Whether a setting has another value than its default. */
export function isChanged(setting) {
  return JSON.stringify(setting.value) !== JSON.stringify(setting.default);
}

export class Settings {
  constructor(context) {
    this.context = context;
    this.settings = null;
    byId("settings-text").addEventListener("input", () => this.show());
    byId("settings-changed").addEventListener("change", () => this.show());
    byId("settings-reload").addEventListener("click", () => this.load());
  }

  /** The section is shown. */
  enter() {
    if (!this.settings) this.load();
  }

  /** Ask for the settings. */
  async load() {
    setText(byId("settings-count"), "Asking …");
    try {
      this.settings = (await get("v1/config")).settings;
      byId("settings-problem").replaceChildren();
    } catch (error) {
      byId("settings-problem").replaceChildren(problemView(error));
    }
    this.show();
  }

  /** Show the settings that the filter lets through. */
  show() {
    const words = byId("settings-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const changed = byId("settings-changed").checked;
    const all = this.settings ?? [];
    const fits = (setting) => {
      const text = `${setting.name} ${settingText(setting.value, setting.unit)} ${setting.origin}`.toLowerCase();
      return (!changed || isChanged(setting)) && words.every((word) => text.includes(word));
    };
    const found = all.filter(fits);
    fillRows(
      byId("settings-body"),
      found.map((setting) => this.cells(setting)),
    );
    setText(byId("settings-count"), this.settings ? `${count(found.length)} of ${count(all.length)} settings.` : "");
  }

  /** The cells of one setting. */
  cells(setting) {
    const value = settingText(setting.value, setting.unit);
    const marked = isChanged(setting) && value !== null ? el("strong", { text: value }) : value;
    return [
      setting.name,
      marked,
      settingText(setting.default, setting.unit),
      setting.origin,
      takesEffect(setting),
    ];
  }
}
