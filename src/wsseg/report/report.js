"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("items");
  if (!list) return;
  const items = Array.from(list.children);

  // Filters and order
  const tools = document.querySelector(".tools");
  tools.hidden = false;
  tools.addEventListener("submit", (event) => event.preventDefault());
  const doubt = (item) => (item.dataset.doubt === "" ? null : Number(item.dataset.doubt));
  const byName = (a, b) => (a.dataset.name < b.dataset.name ? -1 : 1);
  const byDoubt = (sign) => (a, b) => {
    const x = doubt(a), y = doubt(b);
    if (x === null || y === null) return x === y ? byName(a, b) : x === null ? 1 : -1;
    return x === y ? byName(a, b) : sign * (x - y);
  };
  const orders = { worst: byDoubt(-1), best: byDoubt(1), name: byName };
  const update = () => {
    const wanted = byId("f-class").value, split = byId("f-split").value;
    const part = byId("f-name").value.trim().toLowerCase();
    let shown = 0;
    for (const item of items) {
      const classes = item.dataset.classes.split(" ");
      const fits = (!wanted || classes.includes(wanted)) &&
        (!split || item.dataset.split === split) &&
        item.dataset.name.toLowerCase().includes(part);
      item.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    byId("f-count").textContent = `${shown} of ${items.length} shown`;
    byId("f-empty").hidden = shown > 0;
  };
  const reorder = () => {
    list.append(...[...items].sort(orders[byId("f-order").value]));
  };
  for (const id of ["f-class", "f-split"]) byId(id).addEventListener("change", update);
  byId("f-name").addEventListener("input", update);
  byId("f-order").addEventListener("change", reorder);
  reorder();
  update();

  // Enlarged view: a click or Enter opens it, arrow keys and buttons walk through what is shown
  const box = byId("lightbox"), image = byId("lb-image");
  let current = null;
  const tiles = () =>
    Array.from(list.querySelectorAll(".item:not([hidden]) .tile")).filter((tile) => tile.querySelector("img"));
  const show = (tile) => {
    const source = tile.querySelector("img");
    current = tile;
    image.style.setProperty("--ratio", source.naturalWidth / source.naturalHeight);
    image.src = source.src;
    image.alt = source.alt;
    image.hidden = false;
    byId("lb-title").textContent =
      `${tile.querySelector("figcaption").textContent} · ${tile.closest(".item").dataset.name}`;
    if (!box.open) box.showModal();
  };
  const step = (by) => {
    const all = tiles();
    show(all[(all.indexOf(current) + by + all.length) % all.length]);
  };
  for (const tile of list.querySelectorAll(".tile")) {
    if (!tile.querySelector("img")) continue;
    tile.tabIndex = 0;
    tile.setAttribute("role", "button");
    tile.addEventListener("click", () => show(tile));
    tile.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(tile);
    });
  }
  byId("lb-prev").addEventListener("click", () => step(-1));
  byId("lb-next").addEventListener("click", () => step(1));
  byId("lb-close").addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => { if (current) current.focus({ preventScroll: true }); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
})();
