"use strict";
// Pictures go to /v1/predict, verdicts come back; nothing is kept on either side.

const input = document.getElementById("files");
const drop = document.getElementById("drop");
const status = document.getElementById("status");
const results = document.getElementById("results");
let token = sessionStorage.getItem("token") || "";

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

async function post(path, files) {
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name || "pasted");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { method: "POST", body: form, headers });
  if (response.status === 401) {
    token = prompt("This server wants a token:") || "";
    sessionStorage.setItem("token", token);
    if (token) return post(path, files);
  }
  const answer = await response.json();
  if (!answer.results && answer.p_fake === undefined) throw new Error(answer.error || `answer ${response.status}`);
  return answer;
}

function paint(figure, evidence) {
  const cells = evidence.length;
  const canvas = make("canvas");
  canvas.width = canvas.height = cells;
  const strongest = Math.max(...evidence.flat().map(Math.abs), 1e-9);
  const pen = canvas.getContext("2d");
  evidence.forEach((row, y) => row.forEach((value, x) => {
    const colour = value > 0 ? "213, 94, 0" : "0, 114, 178";
    pen.fillStyle = `rgba(${colour}, ${Math.abs(value) / strongest})`;
    pen.fillRect(x, y, 1, 1);
  }));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Orange parts speak for fake, blue ones for real");
  figure.querySelector("canvas")?.remove();
  figure.append(canvas);
}

function show(file, verdict) {
  const item = make("li");
  const figure = make("figure");
  const text = make("div");
  text.append(make("div", "name", file.name || "pasted picture"));
  if (verdict.error) {
    text.append(make("div", "error", verdict.error));
  } else {
    const picture = make("img");
    picture.alt = "";
    picture.src = URL.createObjectURL(file);
    figure.append(picture);
    text.append(make("div", `verdict ${verdict.label}`, verdict.label + (verdict.is_unsure ? " (unsure)" : "")));
    const meter = make("meter");
    meter.min = 0; meter.max = 1; meter.value = verdict.p_fake;
    meter.setAttribute("aria-label", "P(fake)");
    text.append(meter, make("div", "", `P(fake) = ${verdict.p_fake.toFixed(4)}, called fake from ${verdict.threshold} on`));
    const button = make("button", "", "Where?");
    button.type = "button";
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Looking …";
      try {
        paint(figure, (await post("/v1/explain", [file])).evidence);
        button.textContent = "Orange: fake, blue: real";
      } catch (error) {
        button.textContent = error.message;
      }
    });
    text.append(button);
  }
  text.append(make("div", "version", `${verdict.model} version ${verdict.version}`));
  item.append(figure, text);
  results.prepend(item);
}

async function ask(files) {
  files = [...files];
  if (!files.length) return;
  status.textContent = `Asking about ${files.length} picture${files.length > 1 ? "s" : ""} …`;
  try {
    const answer = await post("/v1/predict", files);
    answer.results.forEach((verdict, index) => show(files[index], verdict));
    const said = answer.results.map((verdict) => verdict.error ? "unreadable" : verdict.label);
    status.textContent = `Done: ${said.join(", ")}.`;
  } catch (error) {
    status.textContent = error.message;
  }
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

fetch("/readyz").then((response) => response.json()).then((loaded) => {
  document.getElementById("model").textContent = loaded.version === undefined
    ? "No model is ready yet." : `${loaded.model} version ${loaded.version} answers.`;
}).catch(() => { document.getElementById("model").textContent = "The server does not answer."; });
