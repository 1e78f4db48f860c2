"use strict";
document.documentElement.classList.add("js");

function ready(viewer) {
  const slider = viewer.querySelector("input");
  const move = () => {
    viewer.style.setProperty("--at", slider.value + "%");
    slider.setAttribute("aria-valuetext", `the map covers ${slider.value} % of the image`);
  };
  slider.addEventListener("input", move);
  // Also at the start: a browser that reloads the page keeps the sliders' places.
  move();
}
document.querySelectorAll(".viewer").forEach(ready);

const every = document.getElementById("all-maps");
if (every) {
  const say = () => every.setAttribute("aria-valuetext", `every map covers ${every.value} % of its image`);
  say();
  every.addEventListener("input", () => {
    say();
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

const large = document.getElementById("large");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure").cloneNode(true);
    figure.querySelector(".enlarge").remove();
    large.querySelector(".slot").replaceChildren(figure);
    const viewer = figure.querySelector(".viewer");
    const [width, height] = viewer.style.aspectRatio.split("/").map(Number);
    viewer.style.width = `min(92vw, calc(78vh * ${width / height}))`;
    ready(viewer);
    large.showModal();
  });
}
