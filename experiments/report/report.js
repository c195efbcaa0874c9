// Readers who asked their system for less motion start the films themselves.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
if (still) {
  for (const video of document.querySelectorAll("video")) {
    video.removeAttribute("autoplay");
    video.pause();
  }
}

// What is folded on the screen is printed in full.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

// Tables sort by the column whose heading is pressed: numbers by their value, the largest first, the rest as text.
const words = new Intl.Collator("en", { numeric: true });
function order(cell) {
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
}
function sortBy(table, head, column) {
  const rows = [...table.tBodies[0].rows];
  const numbers = rows.every((row) => row.cells[column].dataset.value !== undefined);
  const down = numbers ? head.ariaSort !== "descending" : head.ariaSort === "ascending";
  rows.sort((a, b) => {
    const [x, y] = [order(a.cells[column]), order(b.cells[column])];
    return (down ? -1 : 1) * (numbers ? (x < y ? -1 : x > y ? 1 : 0) : words.compare(x, y));
  });
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}
for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, head, column));
  });
}

// Films are chosen by outcome, policy and task; those that are not chosen stand still.
for (const form of document.querySelectorAll("form.choices")) {
  const films = [...form.parentElement.querySelectorAll(".film")];
  const choose = () => {
    let count = 0;
    for (const film of films) {
      const fits = [...form.querySelectorAll("select")].every(
        (list) => list.value === "" || (film.dataset[list.name] ?? list.value) === list.value,
      );
      const video = film.querySelector("video");
      film.hidden = !fits;
      if (!video) continue;
      count += fits;
      if (!fits) video.pause();
      else if (!still && video.paused) video.play().catch(() => {});
    }
    for (const group of form.parentElement.querySelectorAll(".rollout")) {
      group.hidden = !group.querySelector(".film:not([hidden])");
    }
    form.querySelector("output").textContent = count === 1 ? "1 film" : `${count} films`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", choose);
  form.reset();
  choose();
}
