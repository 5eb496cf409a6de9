"use strict";
(() => {
  const strip = document.querySelector("[data-version]");
  const said = strip.querySelector("[role=status]");
  const place = `where ${location.pathname}`;
  const folds = () => [...document.querySelectorAll("details")];

  // A page that was remade is longer or shorter, and its figures come late: the reader stays where they were.
  function keepPlace() {
    const open = folds().map((fold) => fold.open);
    try { sessionStorage.setItem(place, JSON.stringify({ top: scrollY, open })); } catch {}
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
    const until = performance.now() + 5000;
    const seen = [...document.querySelectorAll("[data-figure]")].filter((each) => !each.closest("details:not([open])"));
    const drawn = () => seen.every((figure) => figure.data);
    const scroll = () => {
      if (!drawn() && performance.now() < until) return setTimeout(scroll, 50);
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
