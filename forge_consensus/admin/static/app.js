/* The start of the dashboard: it asks the node for the cluster every second, follows the events, and shows the section
 * that the address names. The node and everything on the page are of one cluster; nothing is kept beyond the page. */

import { Announcer } from "./announce.js";
import { request } from "./api.js";
import { byId, setAttribute, setShown } from "./dom.js";
import { Events } from "./events.js";
import { Feed } from "./feed.js";
import { History } from "./history.js";
import { Keys } from "./keys.js";
import { Members } from "./members.js";
import { notify, outcomeView } from "./notice.js";
import { Overview } from "./overview.js";
import { Poller } from "./poller.js";
import { Settings } from "./settings.js";
import { SignIn } from "./signin.js";
import { SnapshotsPage } from "./snapshots.js";
import { Store } from "./store.js";
import { showConnection, showSummary } from "./summary.js";

const TICK_MS = 1_000;
const FIRST = "overview";

const store = new Store();
const feed = new Feed();
const history = new History();
const notices = byId("notices");
const context = { store, feed, history, notices, act, refresh };

const pages = {
  overview: new Overview(context),
  members: new Members(context),
  events: new Events(context),
  keys: new Keys(context),
  snapshots: new SnapshotsPage(context),
  settings: new Settings(context),
};
const announcer = new Announcer(byId("announcer"));
let present = null;
let wanted = null;

const clusterPoller = new Poller({
  load: () => request("GET", "v1/cluster"),
  onData: ({ data, headers }) => {
    const wasLost = store.connection().state === "lost";
    history.takeDate(headers.get("Date"));
    history.takeCluster(data);
    store.set({ cluster: data, clusterAt: performance.now(), clusterProblem: null });
    if (wasLost) feed.open(); // a stream over a dead connection does not notice it by itself
    openWanted();
  },
  onFailure: (problem) => store.set({ clusterProblem: problem }),
});
const nodePoller = new Poller({
  load: () => request("GET", "v1/node"),
  onData: ({ data }) => {
    history.takeNode(data);
    store.set({ node: data, nodeAt: performance.now(), nodeProblem: null });
  },
  onFailure: (problem) => store.set({ nodeProblem: problem }),
});

/** Do something that needs the cluster; without a connection say that it cannot be done now. */
function act(action) {
  if (store.cluster && store.connection().state !== "lost") action();
  else {
    notify(notices, outcomeView("This cannot be done now, because there is no connection to the node.", "bad"));
    notices.querySelector(".box").focus();
  }
}

/** Something was changed: look at everything again. */
function refresh() {
  clusterPoller.soon();
  nodePoller.soon();
  pages[present]?.refresh?.();
}

/** Show what is known. */
function show() {
  showConnection(store);
  showSummary(store);
  announcer.watch(store);
  pages[present]?.update?.();
  if (present !== "events") pages.events.update();
}

/** Show the section that the address names; the focus goes to its heading if somebody chose it. */
function route(chosen) {
  const [name, ...rest] = location.hash.slice(1).split("/").map(decoded);
  const next = name in pages ? name : FIRST;
  if (next !== present) {
    pages[present]?.leave?.();
    for (const id of Object.keys(pages)) {
      setShown(byId(`page-${id}`), id === next);
      setAttribute(document.querySelector(`#sections a[href="#${id}"]`), "aria-current", id === next ? "page" : null);
    }
    present = next;
    pages[present].enter();
    if (chosen) {
      byId(`page-${next}`).querySelector("h2").focus({ preventScroll: true });
      window.scrollTo(0, 0); // what comes first on every section is how the cluster is
    }
  }
  wanted = next === "members" && rest.length ? rest : null;
  openWanted();
}

/** A part of an address as text; one that is not encoded well stays as it is. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Open the dialog that the address names, such as #members/n2/remove, once the cluster is known. */
function openWanted() {
  if (!wanted || !store.cluster) return;
  const [id, action] = wanted;
  wanted = null;
  const back = () => window.history.replaceState(null, "", "#members");
  const open = pages.members.open(id, action, back);
  if (open) act(open);
  else back();
}

new SignIn(context, byId("signin"), () => {
  feed.open();
  refresh();
});
store.subscribe(show);
feed.subscribe({ onEvent: (event) => history.takeEvent(event) });
window.addEventListener("hashchange", () => route(true));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part of the address behind # names a section
  byId("main").focus();
});
route(false);
showConnection(store);
setInterval(() => {
  showConnection(store);
  showSummary(store);
  announcer.watch(store);
}, TICK_MS);
clusterPoller.start();
nodePoller.start();
feed.open();
