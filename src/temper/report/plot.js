"use strict";
// Elements by hand: text is set as text, never parsed, so that a name may hold anything.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  return filled(made, attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// At most about `most` + 1 round numbers from low to high.
function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const DASHES = ["", "7 3", "2 2.5", "8 3 2 3", "12 4", "4 2", "1 3"];

// Epsilon in the unit of its norm.
function epsAxis(norm) {
  const linf = norm.toLowerCase() === "linf";
  return { scale: linf ? 255 : 1, label: linf ? "ε in Linf, n/255" : `ε in ${norm}` };
}

// A line chart. series: [{ x, y, low, high, colour, name }], bands where there are low and high; colour is an index.
// marks: [{ x, name, colour }], upright lines where x is in sight.
function chart(series, { title, xLabel, domain = null, percent = false, xWhole = false, marks = [] }) {
  const [width, height, left, right, top, bottom] = [360, 204, 44, 10, 30, 34];
  const finite = (values) => values.filter((value) => value !== null && Number.isFinite(value));
  const xs = series.flatMap((each) => finite(each.x));
  const ys = series.flatMap((each) => finite([...each.y, ...(each.low ?? []), ...(each.high ?? [])]));
  const xLow = Math.min(...xs), xHigh = Math.max(...xs);
  let [yLow, yHigh] = domain ?? [Math.min(...ys), Math.max(...ys)];
  if (yLow === yHigh) [yLow, yHigh] = [yLow - (Math.abs(yLow) || 1) * 0.1, yHigh + (Math.abs(yHigh) || 1) * 0.1];
  const atX = (x) => left + ((x - xLow) / (xHigh - xLow || 1)) * (width - left - right);
  const atY = (y) => height - bottom - ((y - yLow) / (yHigh - yLow)) * (height - top - bottom);
  const root = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(series, title, percent) });
  root.append(svg("text", { x: 0, y: 12, class: "chart-title" }, title));
  for (const y of ticks(yLow, yHigh, 5)) {
    root.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: atY(y), y2: atY(y) }),
      svg("text", { class: "tick", x: left - 6, y: atY(y) + 4, "text-anchor": "end" }, percent ? `${Math.round(100 * y)} %` : brief(y)),
    );
  }
  for (const x of ticks(xLow, xHigh, 8).filter((each) => !xWhole || Number.isInteger(each))) {
    root.append(
      svg("line", { class: "axis", x1: atX(x), x2: atX(x), y1: height - bottom, y2: height - bottom + 4 }),
      svg("text", { class: "tick", x: atX(x), y: height - bottom + 16, "text-anchor": "middle" }, brief(x)),
    );
  }
  root.append(
    svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    svg("text", { class: "tick", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, xLabel),
  );
  const path = (x, y) => x.map((each, i) => (y[i] === null ? null : `${atX(each).toFixed(1)},${atY(y[i]).toFixed(1)}`)).filter(Boolean).join(" ");
  for (const each of series.filter((one) => one.low && one.high)) {
    const back = [...each.x].reverse();
    root.append(svg("polygon", { class: `band c${each.colour}`, points: `${path(each.x, each.high)} ${path(back, [...each.low].reverse())}` }));
  }
  for (const each of series) {
    root.append(svg("polyline", { class: `line c${each.colour}`, "stroke-dasharray": DASHES[each.colour] || null, points: path(each.x, each.y) }));
    if (each.x.length < 25) {
      each.x.forEach((x, i) => {
        if (each.y[i] === null) return;
        const words = `${each.name}: ${percent ? `${(100 * each.y[i]).toFixed(1)} %` : brief(each.y[i])} at ${brief(x)}`;
        root.append(svg("circle", { class: `dot c${each.colour}`, cx: atX(x), cy: atY(each.y[i]), r: 2.2 }, svg("title", {}, words)));
      });
    }
  }
  for (const { x, name, colour } of marks.filter((each) => each.x >= xLow && each.x <= xHigh)) {
    root.append(svg("line", { class: `mark c${colour}`, x1: atX(x), x2: atX(x), y1: top - 4, y2: height - bottom }, svg("title", {}, name)));
  }
  return root;
}

function brief(number) {
  return String(Number(number.toPrecision(3)));
}

function describe(series, title, percent) {
  const show = (y) => (y === null ? "nothing" : percent ? `${(100 * y).toFixed(1)} %` : brief(y));
  const lines = series.map((each) => `${each.name}: ${show(each.y[0])} at ${brief(each.x[0])}, ${show(each.y.at(-1))} at ${brief(each.x.at(-1))}`);
  return `${title}. ${lines.join("; ")}`;
}
