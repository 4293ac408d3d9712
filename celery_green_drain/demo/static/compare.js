const element = (id) => document.getElementById(id);

const SIDES = {stock: "compare/stock", drained: "compare/run"};
const sources = {};

const ROWS = [
  ["requests answered", ({ended}) => ended.toLocaleString("en")],
  ["failed", ({failed}) => failed.toLocaleString("en")],
  ["connections to Redis", ({connections}) => connections?.toLocaleString("en") ?? "Redis is away"],
  ["drain loops", ({loops}) => loops.toLocaleString("en")],
  ["from the worker to the request, median", ({median}) => time(median)],
  ["slowest", ({slowest}) => time(slowest)],
  ["all of it", ({took}) => time(took)],
];

function start(query) {
  for (const [side, path] of Object.entries(SIDES)) follow(side, `${path}?${query}`);
  say(`${query.get("tasks")} requests in each process …`);
}

function follow(side, url) {
  sources[side]?.close();
  const began = performance.now();
  const source = sources[side] = new EventSource(url);
  const tell = ({data}) => {
    show(side, {...JSON.parse(data), took: (performance.now() - began) / 1000});
  };
  source.addEventListener("figures", tell);
  source.addEventListener("end", (event) => {
    tell(event);
    end(side);
  });
  source.onerror = () => end(side);  // it would connect again, and begin once more
}

function end(side) {
  sources[side].close();
  delete sources[side];
  if (!Object.keys(sources).length) say("Both have ended. Again?");
}

function show(side, figures) {
  const section = element(side);
  const bar = section.querySelector("progress");
  bar.max = figures.tasks;
  bar.value = figures.ended + figures.failed;
  section.querySelector("dl").replaceChildren(...ROWS.map(([name, value]) => {
    const row = document.createElement("div");
    row.append(make("dt", name), make("dd", value(figures)));
    row.dataset.name = name;
    return row;
  }));
  const error = section.querySelector(".error");
  error.hidden = !figures.error;
  error.textContent = figures.error;
}

function make(name, text) {
  return Object.assign(document.createElement(name), {textContent: text});
}

function time(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}

function say(message) {
  element("said").textContent = message;
}

element("run").addEventListener("submit", (event) => {
  event.preventDefault();
  start(new URLSearchParams(new FormData(event.target, event.submitter)));
});

element("restart").addEventListener("click", async () => {
  const answer = await fetch("restart", {method: "POST"});
  say(answer.ok ? "Redis is killed; in two seconds it is started again." : (await answer.json()).error);
});

const nothing = {tasks: 1, ended: 0, failed: 0, connections: 0, loops: 0, median: null,
  slowest: null, took: null, error: ""};
for (const side of Object.keys(SIDES)) show(side, nothing);
