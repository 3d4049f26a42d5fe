// Points of any photo light up in all the others. Without this script the page shows the numbered points alone.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("matches").textContent);
  const explorer = document.getElementById("explorer");
  const status = document.getElementById("status");
  const pictures = [...explorer.querySelectorAll("svg[data-photo]")];
  document.documentElement.classList.add("scripted");

  // Points of every photo were followed, or of some: elsewhere those of the reference photo are pointed at.
  const home = (photo) => (data.sources.includes(photo) ? photo : data.reference);
  const point = (source, photo, index) => {
    const [x, y, sure] = data.points[data.sources.indexOf(source)][photo].slice(3 * index, 3 * index + 3);
    return { x, y, sure };
  };
  const count = (source) => data.colours[data.sources.indexOf(source)].length;

  function nearest(photo, x, y) {
    const source = home(photo);
    let best = 0, least = Infinity;
    for (let index = 0; index < count(source); index++) {
      const place = point(source, photo, index);
      const distance = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (distance < least) [best, least] = [index, distance];
    }
    return best;
  }

  let shown = "";
  function show(source, index) {
    if (shown === `${source} ${index}`) return;
    shown = `${source} ${index}`;
    explorer.classList.add("exploring");
    let found = 0;
    pictures.forEach((picture, target) => {
      const { x, y, sure } = point(source, target, index);
      const longest = Math.max(picture.viewBox.baseVal.width, picture.viewBox.baseVal.height);
      const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      circle.setAttribute("cx", x);
      circle.setAttribute("cy", y);
      const strength = Math.min(sure / data.sure, 1);
      circle.setAttribute("r", longest * (0.02 + 0.012 * strength));
      circle.setAttribute("opacity", 0.5 + 0.5 * strength);
      circle.classList.toggle("guess", sure < data.guess);
      circle.style.setProperty("--hue", data.colours[data.sources.indexOf(source)][index]);
      picture.querySelector(".live").replaceChildren(circle);
      if (target !== source && sure >= data.guess) found++;
    });
    status.textContent = `A point of photo ${data.names[source]}: found with confidence in ${found} of ${pictures.length - 1} others.`;
  }

  function clear() {
    shown = "";
    explorer.classList.remove("exploring");
    pictures.forEach((picture) => picture.querySelector(".live").replaceChildren());
    status.textContent = "";
  }

  pictures.forEach((picture, photo) => {
    const source = home(photo);
    let current = 0;
    const move = (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      current = nearest(photo, place.x, place.y);
      show(source, current);
    };
    picture.addEventListener("pointermove", move);
    picture.addEventListener("pointerdown", move);
    picture.addEventListener("focus", () => { if (picture.matches(":focus-visible")) show(source, current); });
    picture.addEventListener("blur", clear);
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") clear();
      if (!step) return;
      event.preventDefault();
      current = neighbour(photo, current, step);
      show(source, current);
    });
  });
  explorer.addEventListener("pointerleave", clear);

  // The closest point that lies rather in the direction of the arrow key than to its side; the same one where there is none.
  function neighbour(photo, index, [dx, dy]) {
    const source = home(photo);
    const here = point(source, photo, index);
    let best = index, least = Infinity;
    for (let other = 0; other < count(source); other++) {
      const place = point(source, photo, other);
      const along = (place.x - here.x) * dx + (place.y - here.y) * dy;
      const aside = Math.abs((place.x - here.x) * dy) + Math.abs((place.y - here.y) * dx);
      if (along > 0 && along >= aside && along + 2 * aside < least) [best, least] = [other, along + 2 * aside];
    }
    return best;
  }
})();
