/* What comes first on every section: the connection, how the cluster is, who leads, how many may fail, what to do. */

import { byId, el, setAttribute, setShown, setText, setValue } from "./dom.js";
import { count, known } from "./format.js";
import { icon } from "./icons.js";
import { capital, healthSentence, leaderSentence, serves, spareSentence } from "./judge.js";

const TONES = { healthy: "good", degraded: "warn", unhealthy: "bad" };
const MARKS = { live: "good", stale: "warn", lost: "bad", waiting: "none" };
const WORDS = { live: "Live", stale: "Not up to date", lost: "No connection", waiting: "Connecting" };

/** Show how the connection is; what is shown of the cluster turns grey without one. */
export function showConnection(store) {
  const { state, text } = store.connection();
  const chip = byId("connection");
  if (chip.dataset.state !== state) {
    chip.dataset.state = state;
    chip.replaceChildren(icon(MARKS[state]), el("span", { text: WORDS[state] }));
  }
  const banner = byId("stale");
  setShown(banner, state === "stale" || state === "lost");
  setText(byId("stale-text"), state === "live" || state === "waiting" ? "" : text);
  document.body.classList.toggle("is-stale", state === "stale" || state === "lost");
  document.body.classList.toggle("is-waiting", state === "waiting" || !store.cluster);
}

/** Show the judgement of the cluster. */
export function showSummary(store) {
  const { cluster, node } = store;
  if (!cluster) return;
  const { state } = store.connection();
  const past = state === "live" ? "" : "When last seen: ";
  const tone = TONES[cluster.health] ?? "none";
  setText(byId("cluster-id"), cluster.cluster_id);
  showFact("health", tone, `${past}${capital(cluster.health)}. ${healthSentence(cluster)}`);
  setAttribute(byId("health"), "data-health", cluster.health);
  showFact("leader", known(cluster.leader_id) ? "star" : "bad", past + leaderSentence(cluster));
  setAttribute(byId("leader"), "data-leader", cluster.leader_id ?? "");
  showFact("spare", !serves(cluster) ? "bad" : cluster.can_lose > 0 ? "good" : "warn", past + spareSentence(cluster));
  setAttribute(byId("spare"), "data-can-lose", serves(cluster) ? cluster.can_lose : null);
  showWarnings(cluster);
  setText(byId("change-text"), cluster.change ?? "");
  setShown(byId("change"), known(cluster.change));
  setValue(byId("served-by"), node?.node_id ?? null);
  setValue(byId("program"), cluster.version);
  const short = state === "live" ? `${capital(cluster.health)} · ${cluster.leader_id ?? "no leader"}` : WORDS[state];
  document.title = `${short} · ${cluster.cluster_id}`;
}

/** Show a sentence with a drawing. */
function showFact(id, tone, text) {
  const place = byId(id);
  if (place.dataset.tone !== tone) {
    place.dataset.tone = tone;
    place.firstElementChild.replaceChildren(icon(tone));
  }
  setText(place.lastElementChild, text);
}

/** Show the warnings, the most important first, and the advice. */
function showWarnings(cluster) {
  const texts = cluster.warnings ?? [];
  const list = byId("warnings-list");
  if (list.dataset.texts !== texts.join("\n")) {
    list.dataset.texts = texts.join("\n");
    list.replaceChildren(...texts.map((text) => el("li", { text })));
  }
  setText(byId("warnings-title"), texts.length === 1 ? "1 warning" : `${count(texts.length)} warnings`);
  setText(byId("advice-text"), cluster.advice ?? "");
  setShown(byId("advice"), known(cluster.advice));
  setShown(byId("warnings-list"), texts.length > 0);
  setShown(byId("warnings-title"), texts.length > 0);
  setAttribute(byId("warnings"), "class", `box box-${cluster.health === "unhealthy" ? "bad" : "warn"}`);
  setShown(byId("warnings"), texts.length > 0 || known(cluster.advice));
}
