{
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  let asking = null; // the image that is asked about; a new one takes its place
  let seen = {};

  // --- an image arrives

  by("file").addEventListener("change", () => by("file").files.length && ask(by("file").files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); by("drop").classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) by("drop").classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    by("drop").classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) ask(file);
    else say("what was dropped is no file; save the image first, and drop the file");
  });

  async function ask(file) {
    asking?.abort();
    const mine = (asking = new AbortController());
    clear();
    by("file").value = ""; // so that the same file can be chosen again
    if (file.size > data.largest) return say(`${file.name}: has ${file.size} bytes; at most ${data.largest} are taken`);
    by("state").textContent = "Sending the image";
    try {
      const answer = await fetch("image", { method: "POST", body: file, signal: mine.signal });
      if (!answer.ok) return say(`${file.name}: ${(await answer.json()).error}`);
      let ended = false;
      for await (const event of lines(answer.body)) {
        if (asking !== mine) return;
        show(event);
        ended ||= "done" in event || "error" in event;
      }
      if (!ended) say("the answer ended early; is temper app still running?");
    } catch (error) {
      if (asking === mine) say(`no answer (${error.message}); is temper app still running?`);
    }
  }

  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const whole = (rest + part.value).split("\n");
      rest = whole.pop();
      for (const line of whole) yield JSON.parse(line);
    }
  }

  // --- what is said of it

  function show(event) {
    if ("waiting" in event) by("state").textContent = "Waiting for another image to be done";
    if ("error" in event) say(event.error);
    if ("decision" in event) decided(event.decision);
    if ("verdict" in event) judged(event.verdict);
    if ("attacked" in event) { seen.attacked = event.attacked; by("attacked").hidden = false; }
    if ("nearest" in event) nearest(event.nearest);
    if ("attacked" in event || "nearest" in event) slide();
    if ("progress" in event) by("progress").value = event.progress;
    if ("done" in event) { by("state").textContent = "The search is over."; by("progress").hidden = true; }
  }

  function clear() {
    seen = {};
    by("error").hidden = true;
    for (const id of ["decided", "found", "attacked", "clean"]) by(id).hidden = true;
    by("invite").hidden = by("nothing").hidden = false;
    by("progress").hidden = false;
    by("progress").value = 0;
    curve();
  }

  function say(words) {
    by("error").textContent = words;
    by("error").hidden = false;
    by("progress").hidden = true;
    by("state").textContent = "";
  }

  function decided(decision) {
    seen.decision = decision;
    paint(by("clean"), decision.picture);
    by("clean").hidden = by("decided").hidden = false;
    by("invite").hidden = by("nothing").hidden = true;
    by("choose").textContent = "choose another";
    by("class").textContent = decision.class;
    by("confidence").textContent = percent(decision.confidence);
    by("margin").textContent = brief(decision.margin);
    by("state").textContent = "Attacking it";
  }

  function judged({ kind, headline, reasons }) {
    by("verdict").className = `verdict ${kind}`;
    by("headline").textContent = headline;
    by("reasons").replaceChildren(...reasons.map((each) => element("p", {}, each)));
  }

  function nearest(found) {
    seen.nearest = found;
    by("found").hidden = false;
    by("nearest").replaceChildren(
      panel(seen.decision.picture, "decided as", seen.decision.class),
      panel(found.picture, "decided as", found.class, "changed"),
      panel(found.difference, "difference", `× ${found.factor}`),
    );
    by("away").textContent = `Distance ${found.away}. Mid-grey is no change.`;
    by("state").textContent = "Looking for a nearer one";
  }

  // --- the slider

  by("eps").addEventListener("input", slide);

  function slide() {
    const at = data.radii[by("eps").valueAsNumber];
    by("at").textContent = at.words;
    if (seen.attacked) by("moved").replaceChildren(...moved(at.eps));
    curve();
  }

  function moved(eps) {
    const near = (each) => Math.abs(each.eps - eps) < 1e-9;
    const own = seen.attacked.find(near);
    const flip = seen.nearest && seen.nearest.eps <= eps ? seen.nearest : null;
    const decision = seen.decision;
    if (eps === 0) return [panel(decision.picture, "decided as", sure(decision))];
    const shown = own?.changed ? own : flip ?? own;
    if (!shown) return [element("p", {}, "The model's logits are not finite there.")];
    const words = shown === flip ? ["the nearest change, decided as", flip.class] : ["decided as", sure(shown)];
    return [
      panel(shown.picture, ...words, shown.class === decision.class ? "" : "changed"),
      panel(shown.difference, "difference", `× ${shown.factor}`),
    ];
  }

  // --- the model's curve

  function curve() {
    if (!data.curve) return;
    const { x, y, low, high } = data.curve, { scale, label } = epsAxis(data.norm);
    const at = data.radii[by("eps").valueAsNumber];
    const marks = [{ x: at.eps * scale, name: `ε ${at.words}`, colour: 1 }];
    if (seen.nearest) marks.push({ x: seen.nearest.eps * scale, name: `nearest change, ${seen.nearest.away}`, colour: 2 });
    const series = [{ x: x.map((each) => each * scale), y, low, high, colour: 0, name: "accuracy" }];
    by("curve").replaceChildren(chart(series, { title: "Accuracy against ε", xLabel: label, domain: [0, 1], percent: true, marks }));
    const place = x.reduce((best, each, i) => (Math.abs(each - at.eps) < Math.abs(x[best] - at.eps) ? i : best), 0);
    const beyond = at.eps > x.at(-1) * (1 + 1e-9);
    by("measured").textContent = beyond
      ? `It was not measured beyond ${brief(x.at(-1) * scale)}${scale === 1 ? "" : `/${scale}`}.`
      : `At ε = ${brief(x[place] * scale)}${scale === 1 ? "" : `/${scale}`} ${percent(y[place])} of the test images are decided rightly whatever was tried (${percent(low[place])} to ${percent(high[place])}).`;
  }

  function panel(picture, kind, words, classes = "") {
    return element("div", { class: classes || null }, paint(element("img"), picture), kind, element("b", {}, words));
  }

  function paint(image, { url, alt, pixelated }) {
    image.src = url;
    image.alt = alt;
    image.className = pixelated ? "pixelated" : "";
    return image;
  }

  function sure(decided) {
    return `${decided.class}, ${percent(decided.confidence)} sure`;
  }

  function percent(share) {
    return `${(100 * share).toFixed(1)} %`;
  }

  slide();
}
