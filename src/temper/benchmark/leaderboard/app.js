"use strict";
{
  const board = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100; // rows shown at once
  const MOST_PINS = 7; // as many colours and dashes as there are
  const MOST_RANKS = 25;
  const FACTORS = ["backbone", "dataset", "objective", "schedule", "protocol"];
  const FILTERS = { protocol: "Protocol", dataset: "Data set", tier: "Tier", type: "Type", objective: "Objective", schedule: "Schedule" };
  const MEDALS = ["gold", "silver", "bronze"];
  const $ = (id) => document.getElementById(id);
  const metrics = board.metrics;
  const metricOf = new Map(metrics.map((metric, index) => [metric.key, { ...metric, index }]));

  // ---- Data: runs, and their means over seeds ----

  const runs = board.runs.map(([identity, values, curves], index) => {
    const run = Object.fromEntries(board.identity.map((name, i) => [name, identity[i]]));
    return Object.assign(run, {
      index,
      values: values.map((parts) => parts && { value: parts[0], low: parts[1], high: parts[2], n: parts[3], unknown: parts[4] }),
      curves,
      words: [run.backbone, run.dataset, run.objective, run.schedule, run.protocol, run.pretraining, run.tier, run.type, run.run]
        .join(" ").toLowerCase(),
    });
  });
  const done = runs.filter((run) => run.status === "done");
  const keyOf = (run, names) => names.map((name) => encodeURIComponent(run[name]).replaceAll("~", "%7E")).join("~");
  const seedsOf = new Map(
    [...grouped(done, ["protocol", "dataset"])].map(([key, members]) => [key, [...new Set(members.map((run) => run.seed))].sort((a, b) => a - b)]),
  );
  const singles = done.map((run) => ({ ...run, key: keyOf(run, [...FACTORS, "seed"]), members: [run], absent: [] }));
  const means = [...grouped(done, FACTORS)].map(([key, members]) => {
    members = [...members].sort((a, b) => a.seed - b.seed);
    const absent = seedsOf.get(keyOf(members[0], ["protocol", "dataset"])).filter((seed) => !members.some((run) => run.seed === seed));
    return {
      ...members[0], key, members, absent, seed: members.length,
      values: metrics.map((_, i) => meanOfSeeds(members.map((run) => run.values[i]))),
      curves: meanCurves(members),
      words: members.map((run) => run.words).join(" "),
    };
  });
  const rowOf = new Map([...means, ...singles].map((row) => [row.key, row]));

  function grouped(items, names) {
    const groups = new Map();
    for (const item of items) {
      const key = keyOf(item, names);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(item);
    }
    return groups;
  }

  function mean(numbers) {
    return numbers.some((each) => each === null) ? null : numbers.reduce((sum, each) => sum + each, 0) / numbers.length;
  }

  // Seeds are tested on the same samples, so their errors go together: the mean of the ends is never too narrow.
  function meanOfSeeds(values) {
    const measured = values.filter(Boolean);
    if (measured.length < values.length) return measured.length ? { partly: `${measured.length} of ${values.length}` } : null;
    const of = (part) => mean(values.map((each) => each[part]));
    return { value: of("value"), low: of("low"), high: of("high"), n: values.every((each) => each.n === values[0].n) ? values[0].n : null, unknown: of("unknown") };
  }

  // Norms in which all members have the same epsilons; a mean over other ones would mix points.
  function meanCurves(members) {
    const shared = Object.entries(members[0].curves).filter(([norm, [grid]]) => members.every((run) => run.curves[norm]?.[0] === grid));
    return Object.fromEntries(shared.map(([norm, [grid, ...axes]]) => [
      norm, [grid, ...axes.map((axis, part) => axis.map((_, i) => mean(members.map((run) => run.curves[norm][part + 1][i]))))],
    ]));
  }

  // ---- State: what is looked at, kept in the address ----

  const protocols = [...new Set(done.map((run) => run.protocol))];
  const leading = ["sum", "expected"].find((key) => metricOf.has(key)) ?? metrics[0].key;
  const defaults = {
    q: "", protocol: protocols[0] ?? "", dataset: "", tier: "", type: "", objective: "", schedule: "",
    by: "", each: "", sort: leading, up: "", hide: "", pin: "",
  };
  let state = { ...defaults };
  let shownRows = PAGE, allRanks = false, written = location.hash, previewed = null;
  const pins = () => (state.pin ? state.pin.split("|") : []);
  const hidden = () => (state.hide ? state.hide.split(",") : []);

  function readAddress() {
    const told = new URLSearchParams(location.hash.slice(1));
    state = { ...defaults };
    for (const name of Object.keys(defaults)) if (told.has(name)) state[name] = told.get(name);
    for (const name of Object.keys(FILTERS)) if (state[name] && !options(name).includes(state[name])) state[name] = defaults[name];
    if (!metricOf.has(state.sort) && ![...FACTORS, "seed"].includes(state.sort)) state.sort = leading;
    state.pin = pins().filter((key) => rowOf.has(key)).slice(-MOST_PINS).join("|");
  }

  function change(parts) {
    Object.assign(state, parts);
    written = `#${new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== defaults[name]))}`;
    location.replace(written);
    tellLinks();
  }

  // A run's page leads back to the view that it was opened from.
  function tellLinks() {
    for (const link of document.querySelectorAll("a.run")) link.hash = written.slice(1);
  }

  function options(name) {
    return [...new Set(done.map((run) => run[name]))].filter((value) => value !== "").sort();
  }

  function passes(row, names = Object.keys(FILTERS)) {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    return names.every((name) => !state[name] || row[name] === state[name]) && words.every((word) => row.words.includes(word));
  }

  // ---- Numbers in words ----

  const format = (number, metric) => (metric.percent ? (100 * number).toFixed(1) : number.toFixed(metric.digits));
  const interval = (value, metric) => (value.low === null ? "" : `${format(value.low, metric)}–${format(value.high, metric)}`);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  function inWords(value, metric, row) {
    const unit = metric.percent ? " %" : "";
    const lines = [`${metric.label}: ${format(value.value, metric)}${unit}`];
    if (value.low !== null) lines.push(`95 % interval ${format(value.low, metric)} to ${format(value.high, metric)}${unit}`);
    if (value.n !== null) lines.push(`n = ${value.n.toLocaleString("en")} samples`);
    if (value.unknown > 0) lines.push(`${(100 * value.unknown).toFixed(1)} % of samples unknown`);
    if (row.members.length > 1) {
      lines.push(...row.members.map((run) => `seed ${run.seed}: ${format(run.values[metric.index].value, metric)}${unit}`));
    }
    return lines.join("\n");
  }

  // ---- Filters ----

  function buildFilters() {
    const form = $("filters");
    for (const [name, label] of Object.entries(FILTERS)) {
      const values = options(name);
      if (values.length < 2) continue;
      form.append(element("label", {}, `${label} `, element("select", { name },
        element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)))));
    }
    form.append(element("button", { type: "reset" }, "Reset"));
    form.addEventListener("input", (event) => {
      shownRows = PAGE;
      change({ [event.target.name]: event.target.value });
      render();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      shownRows = PAGE;
      change({ ...Object.fromEntries(["q", ...Object.keys(FILTERS)].map((name) => [name, defaults[name]])) });
      render();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    $("each").addEventListener("change", (event) => {
      shownRows = PAGE;
      change({ each: event.target.checked ? "1" : "" });
      render();
    });
    for (const metric of metrics) {
      const box = element("input", { type: "checkbox", value: metric.key });
      box.addEventListener("change", () => {
        change({ hide: metrics.map((each) => each.key).filter((key) => (key === metric.key ? !box.checked : hidden().includes(key))).join(",") });
        render();
      });
      $("shown").append(element("label", { class: "check", title: metric.help }, box, ` ${metric.label}`));
    }
  }

  function showFilters() {
    for (const control of $("filters").elements) if (control.name && control.value !== state[control.name]) control.value = state[control.name];
    $("each").checked = state.each === "1";
    for (const box of $("shown").querySelectorAll("input")) box.checked = !hidden().includes(box.value);
  }

  // ---- By configuration ----

  // Scores of the configurations of a protocol by one metric: the mean over data sets of the means over seeds.
  function rankedBy(metric, protocol) {
    const rows = means.filter((row) => row.protocol === protocol && (!state.dataset || row.dataset === state.dataset));
    const datasets = new Set(rows.map((row) => row.dataset));
    const left = [];
    const scored = [...grouped(rows, ["backbone", "objective", "schedule"]).values()].flatMap((members) => {
      const values = members.map((row) => row.values[metric.index]).filter((value) => value && !value.partly);
      if (values.length < datasets.size) {
        left.push(`${nameOf(members[0])} (${values.length} of ${plural(datasets.size, "data set")})`);
        return [];
      }
      const { backbone, objective, schedule } = members[0];
      const score = mean(values.map((value) => value.value));
      const ends = values.every((value) => value.low !== null);
      const reach = (part) => Math.sqrt(values.reduce((sum, value) => sum + (value.value - value[part]) ** 2, 0)) / values.length;
      return [{ backbone, objective, schedule, score, low: ends ? score - reach("low") : null, high: ends ? score + reach("high") : null, first: null,
        short: members.filter((row) => row.absent.length).length }];
    });
    const sign = metric.lower ? -1 : 1;
    for (const row of scored) row.rank = 1 + scored.filter((other) => sign * (other.score - row.score) > 1e-12).length;
    return { rows: scored, left };
  }

  // A name that may be broken behind its punctuation only.
  const breakable = (name) => element("span", { class: "name" }, ...name.split(/(?<=[._/-])/).flatMap((part) => [part, element("wbr")]));
  const nameOf = (row) => `${row.backbone}, ${row.objective}, ${row.schedule}`;

  function choices(protocol) {
    const rankings = board.rankings.filter((ranking) => ranking.protocol === protocol)
      .map((ranking) => ({ id: `rank:${ranking.title}`, label: ranking.title, ranking }));
    return [...rankings, ...metrics.map((metric) => ({ id: metric.key, label: `${metric.label}, mean over data sets`, metric: metricOf.get(metric.key) }))];
  }

  function renderRanks() {
    const place = $("ranks");
    place.replaceChildren();
    $("types").replaceChildren();
    $("medals").hidden = true;
    $("by").parentElement.hidden = !state.protocol;
    if (!state.protocol) {
      place.append(element("p", { class: "soft" }, "Configurations are ranked within one protocol: "),
        element("p", { class: "bar-of-controls" }, ...protocols.map((protocol) => {
          const button = element("button", { type: "button" }, protocol);
          button.addEventListener("click", () => { change({ protocol }); render(); });
          return button;
        })));
      return;
    }
    const found = choices(state.protocol);
    const choice = found.find((each) => each.id === state.by) ?? found[0];
    $("by").replaceChildren(...found.map((each) => element("option", { value: each.id, selected: each === choice }, each.label)));
    const metric = choice.metric;
    const { rows, left } = metric ? rankedBy(metric, state.protocol) : { rows: choice.ranking.rows, left: [] };
    const facts = new Map(done.map((run) => [run.backbone, run]));
    const all = rows.map((row) => {
      const fact = facts.get(row.backbone);
      return { ...row, tier: fact?.tier ?? "", type: fact?.type ?? "", words: `${nameOf(row)} ${fact?.tier ?? ""} ${fact?.type ?? ""} ${fact?.pretraining ?? ""}`.toLowerCase() };
    }).sort((a, b) => a.rank - b.rank || (nameOf(a) < nameOf(b) ? -1 : 1));
    giveMedals(all);
    const shown = all.filter((row) => passes(row, ["tier", "type", "objective", "schedule"]));
    const types = [...new Set(all.map((row) => row.type))].filter(Boolean).sort();
    $("types").replaceChildren(...types.map((type, i) => element("span", {}, element("span", { class: `key round c${i}` }), type)));
    if (shown.length) place.append(rankTable(allRanks ? shown : shown.slice(0, MOST_RANKS), all, types, metric));
    else place.append(element("p", { class: "soft" }, all.length ? "No configuration passes the filters." : "No configuration has all data sets, so none can be ranked."));
    if (shown.length > MOST_RANKS) {
      const button = element("button", { type: "button" }, allRanks ? `Show the first ${MOST_RANKS}` : `Show all ${shown.length}`);
      button.addEventListener("click", () => { allRanks = !allRanks; renderRanks(); });
      place.append(element("p", { class: "more" }, button));
    }
    const notes = [];
    if (shown.length < all.length) notes.push(`Ranks are among all ${plural(all.length, "configuration")} of the protocol, of which ${shown.length} pass the filters.`);
    if (metric) {
      notes.push(state.dataset ? `On ${state.dataset}, mean over seeds.` : "Mean over data sets of the means over seeds. Bars are 95 % intervals over samples.");
      const short = all.filter((row) => row.short).length;
      if (short) notes.push(`${plural(short, "configuration")} marked * lack a seed that others have.`.replace("configuration marked * lack", "configuration marked * lacks"));
    } else {
      notes.push(choice.ranking.note || "Bars are 95 % intervals of the rank.");
      if (state.dataset) notes.push("Over all data sets, whatever the filter says.");
    }
    if (left.length) notes.push(`Not ranked, because they lack results: ${left.join("; ")}.`);
    place.append(element("p", { class: "soft note" }, notes.join(" ")));
    renderMedals(all);
  }

  function rankTable(rows, all, types, metric) {
    const ranked = !metric;
    const ends = all.flatMap((row) => (ranked ? [row.rank, row.low, row.high] : [row.score, row.low, row.high])).filter((each) => each !== null);
    let low = Math.min(...ends), high = Math.max(...ends);
    if (ranked) [low, high] = [0.5, Math.max(high, all.length) + 0.5];
    else [low, high] = [low - (high - low || 0.1) * 0.04, high + (high - low || 0.1) * 0.04];
    const at = (number) => `${(100 * (number - low) / (high - low)).toFixed(2)}%`;
    let marks = ticks(low, high, 6);
    if (ranked) marks = [1, ...ticks(1, high, 6).filter((each) => Number.isInteger(each) && each > 1)];
    const scale = svg("svg", { class: "lane", height: 18, "aria-hidden": "true" }, ...marks.map((each) =>
      svg("text", { class: "tick", x: at(each), y: 13, "text-anchor": "middle" }, ranked ? String(each) : metric.percent ? `${Number((100 * each).toPrecision(6))}` : brief(each))));
    const sure = all.some((row) => row.first !== null);
    const scored = metric ?? { percent: false, digits: 3 };
    const digits = ranked && all.every((row) => Number.isInteger(row.score)) ? 0 : 2;
    const head = element("tr", { role: "row" },
      element("th", { scope: "col", role: "columnheader", class: "number" }, "rank"), element("th", { scope: "col", role: "columnheader" }, "configuration"),
      element("th", { scope: "col", role: "columnheader", class: "lane-cell" }, element("span", { class: "sr" }, ranked ? "rank with its interval" : "score with its interval"), scale),
      element("th", { scope: "col", role: "columnheader", class: "number" }, metric ? (metric.percent ? "score, %" : "score") : "score"),
      element("th", { scope: "col", role: "columnheader", class: "number" }, "95 %"),
      sure ? element("th", { scope: "col", role: "columnheader", class: "number" }, "P(first)") : null);
    const body = rows.map((row) => {
      const middle = ranked ? row.rank : row.score;
      const colour = types.includes(row.type) ? types.indexOf(row.type) : 6;
      const lane = svg("svg", { class: "lane", height: 28, "aria-hidden": "true" },
        ...marks.map((each) => svg("line", { class: "grid", x1: at(each), x2: at(each), y1: 0, y2: "100%" })),
        row.low === null ? null : svg("line", { class: `reach c${colour}`, x1: at(row.low), x2: at(row.high), y1: "50%", y2: "50%" }),
        svg("circle", { class: `dot c${colour}`, cx: at(middle), cy: "50%", r: 4.5 }));
      const reach = row.low === null ? "–" : ranked ? `${brief(row.low)}–${brief(row.high)}` : interval(row, scored);
      return element("tr", { role: "row" },
        element("td", { role: "cell", class: "number rank" }, String(row.rank)),
        element("th", { role: "rowheader", scope: "row" }, breakable(row.backbone), " ", medal(row), " ", element("span", { class: "help" }, `${row.objective} · ${row.schedule}${row.short ? " *" : ""}`)),
        element("td", { role: "cell", class: "lane-cell" }, lane),
        element("td", { role: "cell", class: "number score" }, ranked ? row.score.toFixed(digits) : format(row.score, scored)),
        element("td", { role: "cell", class: "number reach-words" }, reach),
        sure ? element("td", { role: "cell", class: "number first" }, row.first === null ? "–" : chance(row.first)) : null);
    });
    return element("table", { class: "dense ranks", role: "table" }, element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...body));
  }

  const chance = (share) => (share === 0 ? "0" : share < 0.005 ? "<0.01" : share.toFixed(2));

  // The three best of each tier; ties share a medal, and the next places are then left out.
  function giveMedals(rows) {
    for (const row of rows) {
      const better = rows.filter((other) => other.tier === row.tier && other.rank < row.rank).length;
      row.medal = row.tier && better < MEDALS.length ? MEDALS[better] : "";
    }
  }

  function medal(row) {
    if (!row.medal) return null;
    const words = `${row.medal} among ${row.tier} backbones`;
    return element("span", { class: `medal ${row.medal}`, title: words, role: "img", "aria-label": words }, String(MEDALS.indexOf(row.medal) + 1));
  }

  function renderMedals(rows) {
    const found = [...new Set(rows.filter((row) => row.medal).map((row) => row.tier))];
    const known = ["small", "medium", "large"];
    found.sort((a, b) => known.indexOf(a) - known.indexOf(b) || (a < b ? -1 : 1));
    $("medals").hidden = !found.length;
    $("medals").replaceChildren(element("h3", {}, "Best of each tier"), ...found.map((tier) => element("div", {},
      element("h4", {}, tier),
      element("ol", {}, ...rows.filter((row) => row.tier === tier && row.medal).map((row) =>
        element("li", {}, medal(row), element("span", {}, element("b", {}, breakable(row.backbone)), " ", element("span", { class: "help" }, `${row.objective} · ${row.schedule}`)))))),
    ));
  }

  // ---- The table ----

  const columns = () => [
    { key: "backbone", label: "Backbone" }, { key: "dataset", label: "Data set" }, { key: "objective", label: "Objective" },
    { key: "schedule", label: "Schedule" }, ...(state.protocol ? [] : [{ key: "protocol", label: "Protocol" }]),
    { key: "seed", label: state.each ? "Seed" : "Seeds", number: false },
    ...metrics.filter((metric) => !hidden().includes(metric.key)).map((metric) => ({ key: metric.key, label: metric.label, number: true, metric: metricOf.get(metric.key) })),
  ];

  function sorted(rows) {
    const metric = metricOf.get(state.sort);
    const of = (row) => (metric ? row.values[metric.index]?.value ?? null : row[state.sort]);
    const sign = state.up ? 1 : -1;
    return [...rows].sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === y) return a.index - b.index;
      if (x === null || y === null) return x === null ? 1 : -1; // what was not measured comes last, either way
      return x < y ? -sign : sign;
    });
  }

  let visible = []; // rows that pass the filters, in order
  let most = []; // greatest value of each metric, the whole width of a heat bar

  function renderTable() {
    visible = sorted((state.each ? singles : means).filter((row) => passes(row)));
    most = metrics.map((_, i) => Math.max(...visible.map((row) => row.values[i]?.value ?? 0), 1e-9));
    const focused = document.activeElement?.closest?.("#table thead th")?.dataset.key;
    $("table").tHead.rows[0].replaceChildren(...columns().map(header));
    if (focused) $("table").querySelector(`th[data-key="${CSS.escape(focused)}"] button`)?.focus();
    $("table").tBodies[0].replaceChildren(...visible.slice(0, shownRows).map(tableRow));
    const shownRuns = visible.reduce((sum, row) => sum + row.members.length, 0);
    $("count").textContent = visible.length
      ? `${plural(visible.length, "row")} of ${plural(shownRuns, "run")}${state.each ? "" : ", seeds averaged"}${shownRuns < done.length ? `; ${plural(done.length, "finished run")} in all` : ""}`
      : "No run passes the filters.";
    $("more").hidden = visible.length <= shownRows;
    $("more").textContent = `Show ${Math.min(PAGE, visible.length - shownRows)} more of ${visible.length - shownRows}`;
    tellLinks();
    showPins();
  }

  function header({ key, label, number, metric }) {
    const active = state.sort === key;
    const arrow = element("span", { class: "arrow", "aria-hidden": "true" }, active ? (state.up ? "▲" : "▼") : "");
    const button = element("button", { type: "button", title: metric ? metric.help : `Sort by ${label.toLowerCase()}` },
      number ? arrow : null, label, metric?.percent ? element("span", { class: "unit" }, "\u00a0%") : null, number ? null : arrow);
    button.addEventListener("click", () => {
      shownRows = PAGE;
      change({ sort: key, up: active ? (state.up ? "" : "1") : metric && !metric.lower ? "" : "1" });
      renderTable();
    });
    return element("th", { scope: "col", "data-key": key, class: number ? "number" : null, "aria-sort": active ? (state.up ? "ascending" : "descending") : "none" }, button);
  }

  function tableRow(row) {
    const pin = element("button", { type: "button", class: "pin", "aria-pressed": "false", "aria-label": `Pin the curves of ${nameOf(row)} on ${row.dataset}` },
      element("span", { class: "key" }));
    const facts = [row.tier, row.type].filter(Boolean).join(" · ");
    const cells = columns().map(({ key, metric }) => {
      if (metric) return valueCell(row, metric);
      if (key === "backbone") {
        const drawn = Object.keys(row.curves).length > 0;
        return element("th", { scope: "row", title: row.pretraining || null },
          element("div", { class: "first-cell" }, drawn ? pin : norms.length ? element("span", { class: "pin" }) : null,
            element("span", {}, breakable(row.backbone), " ", facts ? element("span", { class: "help" }, facts) : null)));
      }
      if (key === "seed") return seedCell(row);
      return element("td", {}, row[key]);
    });
    return element("tr", { "data-key": row.key }, ...cells);
  }

  function seedCell(row) {
    const links = [...row.members.map((run) => ({ seed: run.seed, run: run.run })), ...row.absent.map((seed) => ({ seed, absent: true }))].sort((a, b) => a.seed - b.seed);
    return element("td", { class: "seeds" }, ...links.flatMap(({ seed, run, absent }) => {
      if (absent) return [element("s", { title: `Seed ${seed} has no finished run here` }, String(seed)), " "];
      if (!run) return [String(seed), " "];
      return [element("a", { class: "run", href: `runs/${run}.html`, "aria-label": `Page of seed ${seed}, ${nameOf(row)} on ${row.dataset}` }, String(seed)), " "];
    }));
  }

  function valueCell(row, metric) {
    const value = row.values[metric.index];
    if (!value) return element("td", { class: "number none", title: `${metric.label}: not measured` }, "–");
    if (value.partly) return element("td", { class: "number none", title: `${metric.label}: measured for ${value.partly} seeds only` }, value.partly);
    const cell = element("td", { class: "number value-cell", title: inWords(value, metric, row) },
      element("span", { class: "main" }, format(value.value, metric), value.unknown > 0 ? element("span", { class: "unknown" }, "?") : null),
      element("span", { class: "range" }, interval(value, metric)));
    cell.style.setProperty("--share", `${Math.max(0, 100 * value.value / most[metric.index]).toFixed(1)}%`);
    return cell;
  }

  // ---- Curves ----

  const norms = [...new Set(done.flatMap((run) => Object.keys(run.curves)))];

  function toggle(key) {
    if (!rowOf.has(key) || !Object.keys(rowOf.get(key).curves).length) return;
    const now = pins();
    change({ pin: (now.includes(key) ? now.filter((each) => each !== key) : [...now, key].slice(-MOST_PINS)).join("|") });
    showPins();
  }

  function showPins() {
    const now = pins();
    for (const line of $("table").tBodies[0].rows) {
      const place = now.indexOf(line.dataset.key);
      line.classList.toggle("pinned", place >= 0);
      const button = line.querySelector("button.pin");
      if (!button) continue;
      button.setAttribute("aria-pressed", String(place >= 0));
      button.firstChild.className = place >= 0 ? `key c${place}` : "key";
    }
    renderCurves();
  }

  function renderCurves() {
    const panel = $("curves");
    if (!norms.length) return;
    panel.hidden = false;
    const now = pins();
    const fresh = previewed && !now.includes(previewed) ? previewed : null;
    panel.classList.toggle("empty", !now.length && !fresh);
    panel.classList.toggle("has-pins", now.length > 0);
    const lines = [...now.map((key, i) => [rowOf.get(key), i]), ...(fresh ? [[rowOf.get(fresh), "x"]] : [])];
    const title = (row) => `${row.backbone} · ${row.dataset}`;
    const small = (row) => [row.objective, row.schedule, row.protocol, row.members.length > 1 ? `${row.members.length} seeds` : `seed ${row.members[0].seed}`].join(" · ");
    const legend = element("ul", { class: "legend" }, ...lines.map(([row, colour]) => {
      const words = element("span", {}, element("b", {}, title(row)), " ", element("span", { class: "help" }, small(row)));
      const off = element("button", { type: "button", class: "off", "aria-label": `Unpin ${title(row)}, ${small(row)}` }, "×");
      off.addEventListener("click", () => { toggle(row.key); $("curves").querySelector(".off")?.focus(); });
      return element("li", {}, dashed(colour), words, colour === "x" ? null : off);
    }));
    const drawn = norms.map((norm) => {
      const axis = epsAxis(norm);
      const series = lines.filter(([row]) => row.curves[norm]).map(([row, colour]) => {
        const [grid, y, low, high] = row.curves[norm];
        return { x: board.grids[grid].map((eps) => eps * axis.scale), y, low, high, colour, name: title(row) };
      });
      return series.length ? chart(series, { title: norm, xLabel: axis.label, domain: [0, 1], percent: true }) : null;
    });
    const clear = element("button", { type: "button" }, "Unpin all");
    clear.addEventListener("click", () => { change({ pin: "" }); showPins(); });
    panel.replaceChildren(
      element("div", { class: "curves-head" }, element("h3", {}, "Accuracy against ε"), now.length > 1 ? clear : null),
      lines.length ? legend : element("p", { class: "soft" }, "Point at a row to see its curves; click it, or press its square, to pin them and compare several."),
      element("div", { class: "charts-in-panel" }, ...drawn.filter(Boolean)));
  }

  function dashed(colour) {
    return svg("svg", { class: `sample c${colour}`, width: 26, height: 12, "aria-hidden": "true" },
      svg("line", { class: `line c${colour}`, x1: 1, x2: 25, y1: 6, y2: 6, "stroke-dasharray": DASHES[colour] || null }));
  }

  function preview(key) {
    if (key === previewed) return;
    previewed = key;
    renderCurves();
  }

  // ---- CSV of what is shown ----

  function csv() {
    const chosen = new Set(visible.flatMap((row) => row.members.map((run) => run.index)));
    const quoted = (cell) => (cell === null ? "" : /[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
    const lines = runs.filter((run) => chosen.has(run.index)).map((run) => [
      ...board.identity.map((name) => run[name]),
      ...run.values.flatMap((value) => (value ? [value.value, value.low, value.high, value.n, value.unknown] : Array(5).fill(null))),
    ]);
    return [board.columns, ...lines].map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  function download() {
    const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    element("a", { href: address, download: "results-shown.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000); // not while the browser still reads it
  }

  // ---- Putting it together ----

  function render() {
    showFilters();
    renderRanks();
    renderTable();
  }

  function buildNavigation() {
    for (const section of document.querySelectorAll("main > section[id]")) {
      $("nav").append(element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
    }
    // The address holds the view, so links within the page scroll without changing it.
    for (const link of document.querySelectorAll('a[href^="#"]')) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        document.getElementById(link.getAttribute("href").slice(1)).scrollIntoView();
      });
    }
  }

  buildFilters();
  buildNavigation();
  $("by").addEventListener("change", (event) => { allRanks = false; change({ by: event.target.value }); renderRanks(); });
  $("more").addEventListener("click", () => {
    const before = shownRows;
    shownRows += PAGE;
    renderTable();
    $("table").tBodies[0].rows[before]?.querySelector("button, a")?.focus();
  });
  $("download").addEventListener("click", download);
  const body = $("table").tBodies[0];
  const rowAt = (event) => event.target.closest("tr")?.dataset.key ?? null;
  body.addEventListener("mouseover", (event) => preview(rowAt(event)));
  body.addEventListener("mouseleave", () => preview(null));
  body.addEventListener("focusin", (event) => preview(rowAt(event)));
  body.addEventListener("focusout", () => preview(null));
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !getSelection().toString()) toggle(rowAt(event));
  });
  addEventListener("hashchange", () => {
    if (location.hash === written || location.hash.length + written.length < 2 || !location.hash.includes("=")) return;
    written = location.hash;
    readAddress();
    render();
  });
  readAddress();
  render();
}
