// Draws each chart in its place, shows the weight that is chosen, and opens what is folded before the page is printed.
const views = {};
for (const place of document.querySelectorAll(".chart")) {
  const name = place.dataset.chart;
  const chart = JSON.parse(document.getElementById("chart-" + name).textContent);
  views[name] = vegaEmbed(place, chart, { actions: false, renderer: "svg", ast: true }).then((made) => made.view);
}
const choice = document.getElementById("weight");
if (choice) {
  const show = async () => {
    for (const text of document.querySelectorAll("[data-weight]")) text.hidden = text.dataset.weight !== choice.value;
    const view = await views.histogram;
    view.signal("weight", choice.value);
    await view.runAsync();
  };
  choice.addEventListener("change", show);
  show();
}
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
Promise.all(Object.values(views)).then(() => document.documentElement.setAttribute("data-drawn", ""));
