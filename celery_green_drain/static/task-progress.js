/* A progress bar for a task or a group:

     <script type="module" src="task-progress.js"></script>
     <task-progress events="/tasks/ID/events" poll="/tasks/ID/state"></task-progress>

   `events` are those of celery_green_drain.sse.stream(), `poll`, which may be left out, what
   celery_green_drain.sse.poll() says: it is asked while the events do not come, as behind a proxy
   that holds them back. `current` and `total` name what the task reports; the defaults are these
   names. Of a group its members are counted, and it has failed where one of them has. Each state is
   an event of the element, "state" or "end", with the data as its detail. */

//: Milliseconds without events after which is asked, and between two questions without a connection.
const SILENCE = 5000;
const PAUSE = 1000;

/* Have seen(event, data) called for each state, until the last. Returns what ends that. */
export function follow({events, poll}, seen) {
  const source = new EventSource(events);
  let timer = 0;
  let over = false;

  function tell(event, data) {
    if (over) return;
    if (event === "end") stop();
    seen(event, data);
  }

  function askLater(milliseconds) {
    clearTimeout(timer);
    if (poll && !over) timer = setTimeout(ask, milliseconds);
  }

  async function ask() {
    try {
      const answer = await fetch(poll);
      const {event, data} = answer.ok ? await answer.json() : {event: "none"};
      if (event !== "none") tell(event, data);
    } catch {
      // The server is away: it is asked again, as the events are.
    }
    askLater(source.readyState === EventSource.OPEN ? SILENCE : PAUSE);
  }

  function stop() {
    over = true;
    clearTimeout(timer);
    source.close();
  }

  for (const event of ["state", "end"]) {
    source.addEventListener(event, ({data}) => {
      askLater(SILENCE);
      tell(event, JSON.parse(data));
    });
  }
  source.addEventListener("error", () => askLater(PAUSE));
  askLater(SILENCE);
  return stop;
}

class TaskProgress extends HTMLElement {
  connectedCallback() {
    this.bar = document.createElement("progress");
    this.bar.setAttribute("aria-label", this.getAttribute("aria-label") ?? "Progress");
    this.text = document.createElement("output");
    this.replaceChildren(this.bar, " ", this.text);
    const urls = {events: this.getAttribute("events"), poll: this.getAttribute("poll")};
    this.stop = follow(urls, (event, data) => this.show(event, data));
  }

  disconnectedCallback() {
    this.stop();
  }

  show(event, data) {
    const {status, result, done, total} = data;
    // Whoever sends data of their own may not count.
    const failed = data.failed ?? (status === "SUCCESS" ? 0 : 1);
    if (total > 1) {
      this.move(done, total);
    } else if (event === "state") {
      this.move(result?.[this.getAttribute("current") ?? "current"],
        result?.[this.getAttribute("total") ?? "total"]);
    }
    if (event === "end") {
      this.bar.max = this.bar.value = 1;
      this.className = failed ? "failure" : "success";
      if (data.failed && total > 1) this.text.value = `${failed} / ${total} failed`;
      else if (failed) this.text.value = result?.message ?? status;
      else if (typeof result === "string" || typeof result === "number") this.text.value = result;
    }
    this.dispatchEvent(new CustomEvent(event, {detail: data, bubbles: true}));
  }

  move(value, max) {
    if (!(max > 0)) return;
    this.bar.max = max;
    this.bar.value = value;
    this.text.value = `${value} / ${max}`;
  }
}

customElements.define("task-progress", TaskProgress);
