"use strict";
(() => {
  const figures = [...document.querySelectorAll("[data-figure]")];
  // As in the style: what is laid out otherwise where there is little room.
  const phone = matchMedia("(max-width: 40rem)");

  // Whatever the theme decides in a figure is read from the page's style, so that both always agree.
  function theme(place) {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const axis = (name) => ({
      [`${name}.gridcolor`]: read("--grid"),
      [`${name}.zerolinecolor`]: read("--soft"),
      [`${name}.linecolor`]: read("--rule"),
    });
    // Labels hide the grid behind them.
    const labels = (place.layout.annotations ?? []).map((_, i) => [`annotations[${i}].bgcolor`, read("--paper")]);
    return {
      ...Object.fromEntries(labels),
      "font.color": read("--ink"),
      "font.family": getComputedStyle(document.body).fontFamily,
      "font.size": 13,
      "hoverlabel.bgcolor": read("--raised"),
      "hoverlabel.bordercolor": read("--rule"),
      "hoverlabel.font.color": read("--ink"),
      ...axis("xaxis"),
      ...axis("yaxis"),
    };
  }

  // A figure says itself what is to change on a phone; turned on its side, it goes back.
  function room(place) {
    const narrow = place.layout.meta?.narrow ?? {};
    place.wide ??= Object.fromEntries(Object.keys(narrow).map((key) => [key, valueAt(place.layout, key)]));
    return phone.matches ? narrow : place.wide;
  }

  function valueAt(layout, key) {
    return key.split(/[.[\]]+/).filter(Boolean).reduce((value, part) => value?.[part], layout);
  }

  async function draw() {
    for (const place of figures) {
      // What is folded has no width yet, and what is drawn stays.
      if (place.closest("details:not([open])") || place.data) continue;
      const { data, layout } = JSON.parse(document.getElementById(place.dataset.figure).textContent);
      // A narrow legend is a tall one; the curves keep their height.
      const entries = data.filter((trace) => trace.showlegend !== false && trace.visible !== false).length;
      if (place.clientWidth < 560 && layout.showlegend !== false) layout.height += Math.max(110, 19 * entries - 40);
      await Plotly.newPlot(place, data, layout, { responsive: true, displayModeBar: false });
      await Plotly.relayout(place, { ...theme(place), ...room(place) });
    }
  }

  function drawn() {
    return figures.filter((place) => place.data);
  }

  function switchMetric(group, button) {
    const figure = document.getElementById(group.dataset.for);
    for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
    const shown = figure.data.map((trace) => trace.meta.metric === button.dataset.metric);
    Plotly.update(figure, { visible: shown }, { "yaxis.title.text": button.dataset.label, "yaxis.autorange": true });
  }

  function sortBy(heading) {
    const table = heading.closest("table");
    const column = [...heading.parentElement.children].indexOf(heading);
    const numeric = heading.classList.contains("n");
    // Numbers first fall, since the best is what one looks for; words first rise.
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const direction = heading.getAttribute("aria-sort") === first ? second : first;
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (one, two) => {
      const [a, b] = [key(one), key(two)];
      // What has no value stands last in either direction.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }

  // Rows that hold every word of the text, and of each group of buttons one that is pressed; no button is as all.
  function filterRows(filter) {
    const words = filter.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const groups = [...filter.querySelectorAll(".chips")].map((group) => [
      group.dataset.of,
      [...group.querySelectorAll('[aria-pressed="true"]')].map((button) => button.dataset.value),
    ]);
    const text = (row) => [...row.cells].filter((cell) => !cell.classList.contains("n"))
      .map((cell) => cell.textContent).join(" ").toLowerCase();
    const fits = (row) => groups.every(([of, values]) => !values.length || values.includes(row.dataset[of])) &&
      words.every((word) => text(row).includes(word));
    let shown = 0, all = 0;
    for (const table of document.querySelectorAll(`[data-filter="${filter.id}"]`)) {
      for (const row of table.tBodies[0].rows) {
        row.hidden = !fits(row);
        shown += !row.hidden;
        all += 1;
      }
      table.classList.toggle("none", [...table.tBodies[0].rows].every((row) => row.hidden));
    }
    filter.querySelector("output").textContent = `${shown} of ${all}`;
  }

  function readToken(event) {
    const token = event.target.closest(".tokens .token");
    if (!token) return;
    const method = token.closest(".row").querySelector(".method b").textContent;
    const reading = token.closest(".sample").querySelector(".reading");
    reading.textContent = `${method}: “${token.textContent.trim()}” ${token.title}`;
  }

  for (const heading of document.querySelectorAll(".sortable th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }
  for (const group of document.querySelectorAll(".switch")) {
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) switchMetric(group, button);
    });
  }
  for (const filter of document.querySelectorAll(".filter")) {
    filter.hidden = false;
    filter.addEventListener("input", () => filterRows(filter));
    filter.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      filterRows(filter);
    });
    filterRows(filter);
  }
  document.addEventListener("pointerover", readToken);
  document.addEventListener("click", readToken);
  if (figures.length) {
    draw();
    for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const place of drawn()) Plotly.relayout(place, theme(place));
    });
    phone.addEventListener("change", () => {
      for (const place of figures) Plotly.relayout(place, room(place));
    });
  }
})();
