/* A file of the node, where a link alone could not say who asks. */

import { authorization, keptToken, tellStranger } from "./token.js";

/** Have a link send the token along; `onFailure` gets the text of what went wrong. */
export function downloadWithToken(link, onFailure) {
  link.addEventListener("click", async (event) => {
    if (!keptToken()) return;
    event.preventDefault();
    try {
      const answer = await fetch(link.getAttribute("href"), { headers: authorization(), cache: "no-store" });
      if (answer.status === 401) tellStranger();
      if (!answer.ok) throw new Error(`the node answered with status ${answer.status}`);
      const named = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "");
      save(await answer.blob(), named?.[1] ?? "");
    } catch (error) {
      onFailure(`The file was not saved: ${error.message}.`);
    }
  });
}

/** Have the browser save what was loaded. */
function save(content, name) {
  const address = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
