const element = (id) => document.getElementById(id);

// -- tasks, whose states come as Server-Sent Events

let source = null;
let run = null;

function start(query) {
  stop();
  const tasks = Number(query.get("tasks"));
  run = {tasks, ended: 0, failed: 0, began: performance.now(), told: 0};
  element("progress").max = tasks;
  element("progress").value = 0;
  element("tasks").className = tasks > 100 ? "many" : tasks > 1 ? "some" : "";
  element("tasks").replaceChildren(...Array.from({length: tasks}, (_, i) => tile(i + 1)));
  element("stop").disabled = false;
  say(`Starting ${count(tasks, "task")} …`);

  source = new EventSource(`squares?${query}`);
  source.addEventListener("figures", ({data}) => showFigures(JSON.parse(data)));
  source.addEventListener("state", ({data}) => showState(JSON.parse(data)));
  source.addEventListener("end", ({data}) => {
    showState(JSON.parse(data));
    const failed = run.failed ? `, ${run.failed} of them failed` : "";
    end(`${count(run.ended, "task")} ended${failed}, after ${seconds(performance.now() - run.began)}.`);
  });
  source.addEventListener("timeout", () => end("Some results have not come: see the worker's log."));
  // Left alone, the browser would connect again, and so start the tasks again.
  source.onerror = () => end("The web server does not answer.");
}

function showState({number, status, result, done, seconds}) {
  const item = element("tasks").children[number - 1];
  run.ended = done;
  if (status === "SUCCESS") {
    change(item, "success", result.square, "");
    note(1000 * seconds);
  } else if (status === "FAILURE") {
    run.failed += 1;
    change(item, "failure", "failed", result.message);
  } else {
    item.style.setProperty("--part", `${100 * result.part}%`);
    change(item, "running", "", `${Math.round(100 * result.part)} %`);
  }
  element("progress").value = done;
  say(`${done} of ${run.tasks} have ended.`, performance.now() - run.told > 1000);
}

function tile(number) {
  const item = document.createElement("li");
  const name = make("small", number);
  name.prepend(make("span", "Task "));
  item.append(name, make("b", ""), make("i", "waiting"));
  return item;
}

function change(item, name, text, more) {
  const [, value, rest] = item.children;
  item.className = name;
  value.textContent = text;
  rest.textContent = more;
}

function end(message) {
  stop();
  say(message);
  look();
}

function stop() {
  source?.close();
  source = null;
  element("stop").disabled = true;
}

/* Show it, and have it read out, unless it is one of many: a reader is told once a second at most. */
function say(message, aloud = true) {
  element("status").textContent = message;
  if (!aloud) return;
  element("said").textContent = message;
  if (run) run.told = performance.now();
}

element("run").addEventListener("submit", (event) => {
  event.preventDefault();
  start(new URLSearchParams(new FormData(event.target, event.submitter)));
});
element("stop").addEventListener("click", () => {
  end(`Watched until ${run.ended} of ${run.tasks} had ended; the others go on.`);
});

// -- figures of the web process

let outage = null;

function showFigures(figures) {
  figures.drainers = figures.drainer ? 1 : 0;
  figures.reconnects = Math.max(0, figures.connects - 1);
  for (const item of document.querySelectorAll("[data-figure]")) {
    item.textContent = figures[item.dataset.figure].toLocaleString("en");
  }
  element("pid").textContent = figures.pid;
  element("redis").hidden = !figures.restartable;
  element("compare").hidden = !figures.compares;
  showOutage(figures);
}

function showOutage({pid, connections, connects}) {
  if (!outage) return;
  if (connections === 0 && !outage.seen) {
    outage.seen = true;
    element("outage").textContent = "Redis is gone. The drainer tries to connect again …";
  } else if (outage.pid === pid && connects > outage.connects && connections > 0) {
    element("outage").textContent = `Connected again after ${seconds(performance.now() - outage.began)}.`;
    element("restart").disabled = false;
    outage = null;
  }
}

element("restart").addEventListener("click", async () => {
  const before = await ask("statistics");
  const {error} = await ask("restart", {method: "POST"});
  element("outage").textContent = error ?? "Killed.";
  if (error || before.error || !before.drainer) return;
  outage = {...before, began: performance.now(), seen: false};
  element("restart").disabled = true;
});

async function look() {
  const figures = await ask("statistics");
  if (!figures.error) showFigures(figures);
}

look();
// While tasks are watched the figures come with their states.
setInterval(() => source ?? look(), 1000);

// -- latency: one dot a result, on a logarithmic scale

const LATENCIES = 500;
const DECADES = [[1, "1 ms"], [10, "10 ms"], [100, "100 ms"], [1000, "1 s"], [10000, "10 s"]];
const latencies = [];
let drawn = true;

function note(milliseconds) {
  latencies.push(milliseconds);
  if (latencies.length > LATENCIES) latencies.shift();
  if (drawn) setTimeout(draw, 200);
  drawn = false;
}

function draw() {
  drawn = true;
  const sorted = latencies.toSorted((a, b) => a - b);
  if (sorted.length) {
    const median = sorted[Math.floor(sorted.length / 2)];
    element("latency").textContent =
      `Of the last ${count(sorted.length, "result")}: median ${time(median)}, slowest ${time(sorted.at(-1))}.`;
  }
  element("chart").replaceChildren(
    ...DECADES.flatMap(([value, label]) => [
      shape("line", {x1: 44, x2: 320, y1: height(value), y2: height(value)}),
      shape("text", {x: 0, y: height(value) + 3}, label),
    ]),
    ...latencies.map((value, i) =>
      shape("circle", {cx: 50 + (266 * i) / LATENCIES, cy: height(value), r: 2})),
  );
}

function height(milliseconds) {
  return 120 - 27.5 * Math.log10(Math.min(Math.max(milliseconds, 1), 10000));
}

draw();

// -- one task, waited for in the request

element("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const began = performance.now();
  element("sum").textContent = "…";
  const body = new URLSearchParams(new FormData(event.target));
  const answer = await ask("add", {method: "POST", body});
  element("sum").textContent = answer.error ?? `= ${answer.sum}, after ${time(performance.now() - began)}`;
  look();
});

// -- helpers

async function ask(path, options) {
  try {
    return await (await fetch(path, options)).json();
  } catch {
    return {error: "The web server does not answer."};
  }
}

function make(name, text) {
  return Object.assign(document.createElement(name), {textContent: text});
}

function shape(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

function time(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : seconds(milliseconds);
}
