// Forms work without this script. With it, answers come into the page, pictures can be dropped, arrow keys walk.
"use strict";

const byId = (id) => document.getElementById(id);
const search = byId("search");

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const place = byId(form.dataset.into || "");
  const button = event.submitter;
  if (!place || button?.hasAttribute("formaction")) return;
  event.preventDefault();
  if (form === search) choose(button);
  place.setAttribute("aria-busy", "true");
  try {
    const body = new FormData(form, button);
    const answer = await fetch(form.action, { method: "POST", body, headers: { "X-Fragment": "1" } });
    if (answer.status === 401) return location.assign("/login");
    place.innerHTML = await answer.text();
  } catch {
    place.innerHTML = '<p class="notice" role="alert">The service does not answer: try again.</p>';
  } finally {
    place.removeAttribute("aria-busy");
  }
  if (form === search) show(place);
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
