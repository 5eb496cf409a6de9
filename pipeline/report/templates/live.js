"use strict";
(() => {
  const strip = document.querySelector("[data-version]");
  const said = strip.querySelector("[role=status]");
  const place = `where ${location.pathname}`;
  const folds = () => [...document.querySelectorAll("details")];

  const all = (what) => [...document.querySelectorAll(what)];
  const chips = () => all(".filter .chips button");
  const chip = (button) => `${button.parentElement.dataset.of}=${button.dataset.value}`;
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";

  // A page that was remade is longer or shorter, and its figures come late: the reader stays where they were.
  function keepPlace() {
    const kept = {
      top: scrollY,
      open: folds().map((fold) => fold.open),
      sorted: all(".sortable [aria-sort]").map((heading) => [
        all(".sortable").indexOf(heading.closest("table")), heading.cellIndex, heading.getAttribute("aria-sort"),
      ]),
      words: all(".filter input").map((input) => input.value),
      chips: chips().filter(isPressed).map(chip),
      metrics: all(".switch").map((group) => [...group.children].findIndex(isPressed)),
    };
    try { sessionStorage.setItem(place, JSON.stringify(kept)); } catch {}
  }

  function returnToTables(kept) {
    for (const [table, column, direction] of kept.sorted) {
      const heading = all(".sortable")[table]?.querySelectorAll("th")[column];
      // Once for the first direction, again for the other.
      for (let i = 0; i < 2 && heading && heading.getAttribute("aria-sort") !== direction; i += 1) {
        heading.querySelector("button").click();
      }
    }
    chips().filter((button) => isPressed(button) !== kept.chips.includes(chip(button))).forEach((button) => button.click());
    all(".filter input").forEach((input, i) => {
      input.value = kept.words[i] ?? "";
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  function returnToMetrics(kept) {
    all(".switch").forEach((group, i) => {
      const button = group.children[kept.metrics[i]];
      if (button && !isPressed(button) && document.getElementById(group.dataset.for)?.data) button.click();
    });
  }

  function returnToPlace() {
    let kept = null;
    try {
      kept = JSON.parse(sessionStorage.getItem(place));
      sessionStorage.removeItem(place);
    } catch {}
    if (!kept) return;
    history.scrollRestoration = "manual";
    folds().forEach((fold, i) => { fold.open = kept.open[i] ?? fold.open; });
    returnToTables(kept);
    const until = performance.now() + 5000;
    const seen = [...document.querySelectorAll("[data-figure]")].filter((each) => !each.closest("details:not([open])"));
    const drawn = () => seen.every((figure) => figure.data);
    const scroll = () => {
      if (!drawn() && performance.now() < until) return setTimeout(scroll, 50);
      returnToMetrics(kept);
      window.scrollTo({ top: kept.top, behavior: "instant" });
    };
    scroll();
  }

  async function look() {
    if (document.hidden) return;
    try {
      const answer = await fetch("version", { cache: "no-store" });
      const found = await answer.json();
      said.textContent = found.now;
      if (found.version === strip.dataset.version) return;
      keepPlace();
      location.reload();
    } catch {
      said.textContent = "The server does not answer. This page is as it last was.";
    }
  }

  addEventListener("DOMContentLoaded", returnToPlace);
  document.addEventListener("visibilitychange", look);
  setInterval(look, 4000);
})();
