// Forms work without this script. With it, answers come into the page, pictures can be dropped, arrow keys walk.
"use strict";

const byId = (id) => document.getElementById(id);
const search = byId("search");
const asked = new Map(); // the newest request for each place: what an older one brings is not shown

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const place = byId(form.dataset.into || "");
  const button = event.submitter;
  if (!place || button?.hasAttribute("formaction")) return;
  event.preventDefault();
  if (form === search) choose(button);
  else if (asked.has(place)) return; // one decision at a time
  asked.get(place)?.abort();
  const turn = new AbortController();
  asked.set(place, turn);
  place.setAttribute("aria-busy", "true");
  let [text, well] = ['<p class="notice" role="alert">The service does not answer: try again.</p>', false];
  try {
    const body = new FormData(form, button);
    const headers = { "X-Fragment": "1" };
    const answer = await fetch(form.action, { method: "POST", body, headers, signal: turn.signal });
    if (answer.status === 401) return location.assign("/login");
    [text, well] = [await answer.text(), answer.ok];
  } catch {}
  if (asked.get(place) !== turn) return;
  asked.delete(place);
  place.removeAttribute("aria-busy");
  place.querySelector(":scope > .notice")?.remove();
  if (well || form === search) place.innerHTML = text;
  else form.insertAdjacentHTML("beforebegin", text); // it can be decided again
  if (form === search) show(place);
  else if (well) stay(place);
});

function choose(button) {
  if (button?.name === "pick") {
    byId("item").value = button.value;
    byId("image").value = "";
    const picture = button.querySelector("img");
    byId("preview").replaceChildren(picture ? picture.cloneNode() : "");
  }
  if (button?.dataset.tick) byId(button.dataset.tick).checked = true;
}

function stay(place) {
  place.tabIndex = -1; // the button that had the focus has been replaced
  place.focus({ preventScroll: true });
}

function show(results) {
  results.focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  results.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

document.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const other = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
  if (!step || other || event.target.matches("input, select, textarea, summary")) return;
  const stops = [...document.querySelectorAll("[data-walk]")];
  const here = stops.indexOf(document.activeElement);
  const next = here < 0 ? stops[0] : stops[here + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

if (search) {
  const drop = byId("drop");
  const input = byId("image");
  const take = (files) => {
    const file = [...(files || [])].find((candidate) => candidate.type.startsWith("image/"));
    if (!file) return;
    const list = new DataTransfer();
    list.items.add(file);
    input.files = list.files;
    preview(file);
  };
  input.addEventListener("change", () => input.files[0] && preview(input.files[0]));
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
}

async function preview(file) {
  byId("item").value = "";
  const place = byId("preview");
  try {
    const bitmap = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, 400 / bitmap.height);
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `The chosen picture ${file.name}`);
    place.replaceChildren(canvas);
  } catch {
    place.textContent = file.name;
  }
}
