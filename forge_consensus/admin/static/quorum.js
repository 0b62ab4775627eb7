/* The quorum as a bar: one field a voter, and a mark behind as many as a majority needs. Fields behind the mark may fail. */

import { el, setAttribute, setText } from "./dom.js";
import { icon } from "./icons.js";
import { helpOf, nameOf, quorumLine, serves, votersOf } from "./judge.js";

const ORDER = ["helps", "impaired", "silent"];
const LOOKS = {
  helps: ["good", "counts for a majority"],
  impaired: ["warn", "answers, but is no help to a majority"],
  silent: ["bad", "does not answer"],
};
const NAMES_MAX = 9;

/** Show the quorum of the cluster in the bar, and in words below it. */
export function drawQuorum(bar, line, cluster) {
  const voters = votersOf(cluster).sort((one, other) => ORDER.indexOf(helpOf(one)) - ORDER.indexOf(helpOf(other)));
  const text = quorumLine(cluster);
  setText(line, `${text}.`);
  const looks = JSON.stringify([voters.map((node) => [nameOf(node), helpOf(node)]), cluster.required]);
  setAttribute(bar, "data-serves", serves(cluster));
  const told = voters.map((node) => `${nameOf(node)} ${LOOKS[helpOf(node)][1]}`);
  setAttribute(bar, "aria-label", `Quorum: ${text}. ${told.join("; ")}.`);
  if (bar.dataset.looks === looks) return;
  bar.dataset.looks = looks;
  bar.replaceChildren(...voters.map((node, place) => field(node, place + 1 === cluster.required, voters.length)));
}

/** The field of a voter. */
function field(node, last, many) {
  const help = helpOf(node);
  const named = many <= NAMES_MAX ? [icon(LOOKS[help][0]), el("span", { text: nameOf(node) })] : [];
  return el(
    "span",
    { class: `voter voter-${help}${last ? " voter-last-needed" : ""}`, title: `${nameOf(node)} ${LOOKS[help][1]}` },
    ...named,
  );
}
