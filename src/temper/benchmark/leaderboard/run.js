"use strict";
{
  const { curves, history } = JSON.parse(document.getElementById("data").textContent);
  for (const [norm, [eps, y, low, high]] of Object.entries(curves)) {
    const axis = epsAxis(norm);
    const series = [{ x: eps.map((each) => each * axis.scale), y, low, high, colour: 0, name: norm }];
    document.getElementById("accuracy").append(figure(series, { title: norm, xLabel: axis.label, domain: [0, 1], percent: true }));
  }
  if (history.epoch.length) {
    const line = (name, colour, label) => ({ x: history.epoch, y: history[name], colour, name: label });
    const accuracy = [line("train_accuracy", 0, "training"), line("validation_accuracy", 1, "validation")];
    const measured = accuracy.filter((each) => each.y.some((y) => y !== null));
    const lines = [
      ["Accuracy", measured, { domain: [0, 1], percent: true }],
      ["Training loss", [line("train_loss", 0, "loss")], {}],
      ["ε of training, in pixel units", [line("eps", 0, "ε")], {}],
      ["Learning rate", [line("lr", 0, "learning rate")], {}],
    ];
    for (const [title, series, options] of lines) {
      if (series.some((each) => each.y.some((y) => y !== null)))
        document.getElementById("history").append(figure(series, { title, xLabel: "epoch", ...options }));
    }
  }
  // The view that a reader came from is in the address, so that the way back leads there.
  document.getElementById("back").href += location.hash;

  function figure(series, options) {
    const legend = series.length < 2 ? null : element("figcaption", { class: "keys" },
      ...series.map((each) => element("span", {}, element("span", { class: `key c${each.colour}` }), each.name)));
    return element("figure", { class: "card" }, chart(series, options), legend);
  }
}
