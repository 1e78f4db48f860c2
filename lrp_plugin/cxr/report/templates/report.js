"use strict";
document.documentElement.classList.add("js");

for (const viewer of document.querySelectorAll(".viewer")) {
  const slider = viewer.querySelector("input");
  const move = () => viewer.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", move);
  // Also at the start: a browser that reloads the page keeps the sliders' places.
  move();
}

const every = document.getElementById("all-maps");
if (every) {
  every.addEventListener("input", () => {
    for (const slider of document.querySelectorAll(".viewer input")) {
      slider.value = every.value;
      slider.dispatchEvent(new Event("input"));
    }
  });
}

const tabs = [...document.querySelectorAll('[role="tab"]')];
function choose(tab, focus) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
}
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab, false));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) choose(tabs[(index + step + tabs.length) % tabs.length], true);
  });
});
if (tabs.length) choose(tabs[0], false);

const outlines = document.getElementById("outlines");
if (outlines) {
  outlines.addEventListener("change", () => {
    document.documentElement.classList.toggle("no-outlines", !outlines.checked);
  });
}
