"use strict";
// Files go to v1/predict, beside the page, one by one, verdicts come back; nothing is kept on either side.

const input = document.getElementById("files");
const drop = document.getElementById("drop");
const said = document.getElementById("status");
const results = document.getElementById("results");
let token = sessionStorage.getItem("token") || "";

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// What the server says of one file. Throws an Error with a sentence when it says nothing of it.
async function post(path, file) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted picture");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { method: "POST", body: form, headers });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.status === 401) {
    token = prompt("This server wants a token:") || "";
    sessionStorage.setItem("token", token);
    if (token) return post(path, file);
  }
  const answer = await response.json().catch(() => ({}));
  if (answer.results) return answer.results[0];
  if (answer.evidence) return answer;
  throw new Error(answer.error || `The server failed to answer (${response.status}).`);
}

function preview(file) {
  const figure = make("figure");
  const picture = make(file.type.startsWith("video/") ? "video" : "img");
  const url = URL.createObjectURL(file);
  if (picture.tagName === "VIDEO") {
    picture.controls = picture.muted = true;
    picture.setAttribute("aria-label", file.name || "video");
  } else {
    picture.alt = "";
    picture.addEventListener("load", () => URL.revokeObjectURL(url));
  }
  picture.addEventListener("error", () => {
    URL.revokeObjectURL(url);
    picture.replaceWith(make("div", "no-preview small", "This browser cannot show it."));
  });
  picture.src = url;
  figure.append(picture);
  return figure;
}

const LEAST = 0.001;  // of P(fake): what changes it less is not worth a colour

// Lays the map over the picture, the strongest part opaque; returns what it shows in words.
function paint(figure, evidence) {
  const strongest = Math.max(...evidence.flat().map(Math.abs));
  if (strongest < LEAST) return `Covering any one part changes P(fake) by less than ${LEAST}: no part decides alone.`;
  const cells = evidence.length;
  const canvas = make("canvas");
  canvas.width = canvas.height = cells;
  const pen = canvas.getContext("2d");
  evidence.forEach((row, y) => row.forEach((value, x) => {
    const colour = value > 0 ? "213, 94, 0" : "0, 114, 178";
    pen.fillStyle = `rgba(${colour}, ${Math.abs(value) / strongest})`;
    pen.fillRect(x, y, 1, 1);
  }));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Orange parts speak for fake, blue ones for real");
  figure.querySelector(".no-preview")?.replaceChildren();
  figure.append(canvas);
  return "Orange parts speak for fake, blue ones for real; "
    + `covering the strongest changes P(fake) by ${strongest.toFixed(3)}.`;
}

function whereButton(file, figure) {
  const button = make("button", "", "Where?");
  button.type = "button";
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Looking …";
    let words;
    try {
      words = paint(figure, (await post("v1/explain", file)).evidence);
    } catch (error) {
      words = error.message;
    }
    button.replaceWith(make("div", "small", words));
    said.textContent = words;
  });
  return button;
}

// Fills the item of a file; returns what it says in a few words.
function show(item, file, verdict) {
  const [figure, text] = item.children;
  if (verdict.error) {
    figure.replaceChildren(make("div", "no-preview small", "No verdict"));
    text.append(make("div", "error", verdict.error));
  } else {
    text.append(make("div", `verdict ${verdict.label}`, verdict.label + (verdict.is_unsure ? " (unsure)" : "")));
    const meter = make("meter", verdict.label);
    meter.min = 0; meter.max = 1; meter.value = verdict.p_fake;
    meter.setAttribute("aria-label", "P(fake)");
    const mean = verdict.frames ? `, the mean of ${verdict.frames} frames` : "";
    text.append(meter, make("div", "", `P(fake) = ${verdict.p_fake.toFixed(4)}${mean}`));
    text.append(make("div", "small", `Called fake from ${verdict.threshold} on.`));
  }
  if (verdict.model) text.append(make("div", "small", `${verdict.model} version ${verdict.version}`));
  if (verdict.frames === null && !verdict.error) text.append(whereButton(file, figure));
  item.removeAttribute("aria-busy");
  return verdict.error ? "no verdict" : verdict.label;
}

async function ask(files) {
  const rows = [...files].map((file) => {
    const item = make("li");
    const name = file.name || "pasted picture";
    const text = make("div");
    text.append(make("div", "name", name));
    item.append(preview(file), text);
    item.setAttribute("aria-busy", "true");
    return { file, name, item };
  });
  results.prepend(...rows.map((row) => row.item));
  const verdicts = [];
  for (const { file, name, item } of rows) {
    said.textContent = `Asking about ${name} (${verdicts.length + 1} of ${rows.length}) …`;
    const verdict = await post("v1/predict", file).catch((error) => ({ error: error.message }));
    verdicts.push(`${name}: ${show(item, file, verdict)}`);
  }
  if (rows.length) said.textContent = `${verdicts.join(", ")}.`;
}

input.addEventListener("change", () => { ask(input.files); input.value = ""; });
for (const name of ["dragover", "dragenter"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  ask(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => ask(event.clipboardData.files));

const model = document.getElementById("model");
fetch("readyz").then((response) => response.json()).then((loaded) => {
  model.textContent = loaded.version === undefined
    ? "No model is ready yet." : `${loaded.model} version ${loaded.version} answers.`;
}).catch(() => { model.textContent = "The server does not answer."; });
