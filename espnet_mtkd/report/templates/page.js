"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (tag, text = "", properties = {}) =>
  Object.assign(document.createElement(tag), { textContent: text }, properties);

// Tables: a click on a column's title sorts by it, another one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((x) => x.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value ?? cell.textContent.trim();
      };
      const compare = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // nothing comes last
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return up ? order : -order;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
    });
  });
}

const data = read("data");
const audio = read("audio");
const fill = (select, titles, chosen) =>
  select.replaceChildren(
    ...titles.map((title, i) => make("option", title, { value: i, selected: i === chosen }))
  );

// Utterances: what two rows heard.
const PAGE = 10; // utterances that are shown at once
const picked = document.forms["pick-utterances"].elements;
const list = document.getElementById("utterance-list");
const more = document.getElementById("more-utterances");
let found = [];

function alignedWords(reference, [text, ops]) {
  const line = document.createElement("dd");
  const words = (x) => (x ? x.split(" ") : []);
  const [refs, hyps] = [words(reference), words(text)];
  if (!ops) {
    line.append(text || "(nothing)");
    return line;
  }
  let r = 0;
  let h = 0;
  for (const op of ops) {
    const ref = op === "I" ? "" : refs[r++];
    const hyp = op === "D" ? "" : hyps[h++];
    if (op === "C") line.append(hyp);
    else if (op === "S") line.append(make("mark", hyp, { title: `for ${ref}` }));
    else if (op === "I") line.append(make("ins", hyp, { title: "extra word" }));
    else line.append(make("del", ref, { title: "missing word" }));
    line.append(" ");
  }
  return line;
}

function utteranceItem(set, [name, reference, heard], a, b) {
  const item = document.createElement("li");
  const head = make("div", "", { className: "utterance-head" });
  const [before, after] = [heard[a][2], heard[b][2]];
  const plural = (n) => `${n} ${n === 1 ? "error" : "errors"}`;
  head.append(make("span", name, { className: "quiet" }));
  const verdict = after < before ? "better" : after > before ? "worse" : "";
  const alike = a === b ? plural(after) : `${plural(after)} in both`;
  const text = after === before ? alike : `${before} → ${plural(after)}`;
  head.append(make("span", text, { className: `change ${verdict}` }));
  const sound = audio.sounds[set][name];
  if (sound) {
    const player = make("audio", "", { controls: true, preload: "none" });
    player.src = `data:audio/ogg;codecs=opus;base64,${sound}`;
    player.setAttribute("aria-label", `audio of ${name}`);
    head.append(player);
  }
  const lines = make("dl", "", { className: "heard" });
  lines.append(make("dt", "reference"), make("dd", reference));
  const titles = data.sets[set].decodings;
  for (const i of a === b ? [a] : [a, b])
    lines.append(make("dt", titles[i]), alignedWords(reference, heard[i]));
  item.append(head, lines);
  return item;
}

function showMore() {
  const [set, a, b] = [picked.set, picked.a, picked.b].map((x) => Number(x.value));
  const start = list.children.length;
  list.append(...found.slice(start, start + PAGE).map((x) => utteranceItem(set, x, a, b)));
  more.hidden = list.children.length >= found.length;
}

function showUtterances() {
  const [set, a, b] = [picked.set, picked.a, picked.b].map((x) => Number(x.value));
  const same = a === b; // a row by itself: all of it
  picked.show.disabled = same;
  const change = (x) => x[2][b][2] - x[2][a][2]; // errors: below 0 is better
  const weight = same ? (x) => x[2][a][2] : (x) => Math.abs(change(x));
  const show = {
    changed: (x) => x[2][a][0] !== x[2][b][0],
    better: (x) => change(x) < 0,
    worse: (x) => change(x) > 0,
    all: () => true,
  }[same ? "all" : picked.show.value];
  const { utterances, total } = data.sets[set];
  found = utterances.filter(show).sort((x, y) => weight(y) - weight(x));
  const better = utterances.filter((x) => change(x) < 0).length;
  const worse = utterances.filter((x) => change(x) > 0).length;
  const all = total === utterances.length ? `${total}` : `the ${utterances.length} most changed of ${total}`;
  document.getElementById("utterance-count").textContent = same
    ? `${all} utterances, those with most errors first.`
    : `Of ${all} utterances B makes fewer errors in ${better} and more in ${worse}. Listed: ${found.length}.`;
  list.replaceChildren();
  showMore();
}

function showSet() {
  const { decodings, best } = data.sets[Number(picked.set.value)];
  fill(picked.a, decodings, 0);
  fill(picked.b, decodings, best || decodings.length - 1); // the first is A already
  for (const x of [picked.b, picked.show])
    x.closest("label").hidden = decodings.length === 1;
  showUtterances();
}

fill(picked.set, data.sets.map((x) => x.name), 0);
picked.set.addEventListener("change", showSet);
for (const x of [picked.a, picked.b, picked.show]) x.addEventListener("change", showUtterances);
more.addEventListener("click", showMore);
document.getElementById("audio-words").textContent = audio.words;
showSet();

// Configs: the keys in which two rows differ.
const chosen = document.forms["pick-configs"].elements;
function showConfigs() {
  const [a, b] = [chosen.a, chosen.b].map((x) => data.configs[Number(x.value)].config);
  const part = (key) => key.split(": ")[0]; // the training that it is of
  const [inA, inB] = [a, b].map((x) => new Set(Object.keys(x).map(part)));
  const all = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  const keys = all.filter((key) => inA.has(part(key)) && inB.has(part(key)));
  const different = keys.filter((key) => a[key] !== b[key]);
  const body = document.querySelector("#config-differences tbody");
  body.replaceChildren(
    ...different.map((key) => {
      const row = document.createElement("tr");
      row.append(make("th", key, { scope: "row" }), make("td", a[key] ?? ""), make("td", b[key] ?? ""));
      return row;
    })
  );
  document.getElementById("config-differences").hidden = different.length === 0;
  document.getElementById("config-count").textContent =
    [
      `${different.length} of ${keys.length} values differ.`,
      ...[["A", inA, inB], ["B", inB, inA]].map(([row, own, other]) => {
        const parts = [...own].filter((x) => !other.has(x));
        return parts.length ? `Only ${row} has ${parts.join("; ")}: see below.` : "";
      }),
    ].join(" ");
}
const titles = data.configs.map((x) => x.title);
document.getElementById("configs").hidden = titles.length === 1; // none to compare with
fill(chosen.a, titles, 0);
fill(chosen.b, titles, titles.length - 1);
for (const x of [chosen.a, chosen.b]) x.addEventListener("change", showConfigs);
showConfigs();
