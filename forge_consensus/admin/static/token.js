/* The token by which the node knows who looks at this page. It is kept for as long as this tab is open, and goes nowhere
 * but into requests to the node that serves the page. */

const PLACE = "forge-consensus.token";
const listeners = [];

/** The token that was given here, "" for none. */
export function keptToken() {
  try {
    return sessionStorage.getItem(PLACE) ?? "";
  } catch {
    return ""; // a browser that keeps nothing for this page
  }
}

/** Keep a token, or forget it with "". */
export function keepToken(text) {
  if (text) sessionStorage.setItem(PLACE, text);
  else sessionStorage.removeItem(PLACE);
}

/** The headers that say who asks. */
export function authorization() {
  const token = keptToken();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Be told when the node does not know who asks. */
export function onStranger(listener) {
  listeners.push(listener);
}

/** Tell that the node does not know who asks. */
export function tellStranger() {
  for (const listener of listeners) listener();
}
