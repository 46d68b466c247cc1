// Keeps a page fresh without reloading it: follows the job's event stream, fetches the page's content again,
// and changes only what differs. Draws the charts from the figures that the server makes.
"use strict";

(() => {
  const REFRESH_MS = 1000; // at most one refresh in this time,
  const SHARE = 5; // and at least this many times what the last one took
  const RECONNECT_MS = 3000;

  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const notice = document.getElementById("notice");
  const page = () => main.querySelector(".page");

  // ------------------------------------------------------------------ changing what differs

  function morph(from, to) {
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE || from.hasAttribute("data-keep")) return;
    if (from.isEqualNode(to)) return;
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (from.getAttribute(name) !== value && name !== "open") from.setAttribute(name, value);
    }
    if (from.nodeName === "SELECT" || from.nodeName === "INPUT") return; // what the user is about to choose
    morphChildren(from, to);
  }

  function morphChildren(from, to) {
    const known = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      let found = null;
      if (wanted.id) found = known.get(wanted.id);
      else if (at && !at.id && at.nodeName === wanted.nodeName) found = at;
      if (!found) {
        from.insertBefore(wanted, at);
        continue;
      }
      if (found === at) at = at.nextSibling;
      else from.insertBefore(found, at);
      morph(found, wanted);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  // ------------------------------------------------------------------ refreshing

  let timer = null;
  let refreshing = false;
  let again = false;
  let wait = REFRESH_MS;
  let last = 0;

  function wake() {
    if (refreshing) again = true;
    else if (timer === null) timer = setTimeout(refresh, Math.max(0, last + wait - performance.now()));
  }

  async function refresh() {
    clearTimeout(timer);
    timer = null;
    if (refreshing) {
      again = true;
      return;
    }
    refreshing = true;
    const began = performance.now();
    try {
      await Promise.all([refreshContent(), refreshCharts()]);
    } catch {
      say("offline");
    }
    last = performance.now();
    wait = Math.max(REFRESH_MS, SHARE * (last - began));
    refreshing = false;
    if (page()?.dataset.ended) stopFollowing("ended");
    if (again) {
      again = false;
      wake();
    }
  }

  async function refreshContent() {
    const address = location.href;
    const response = await ask(address);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (address !== location.href) return; // the user has gone on meanwhile
    const focused = document.activeElement;
    const old = page();
    const now = fresh.querySelector(".page");
    if (!response.ok || !old || !now) return;
    morph(old, now);
    main.querySelectorAll("details[data-load][open]").forEach(load);
    if (focused && !focused.isConnected) document.querySelector("#actions button")?.focus();
  }

  async function ask(address) {
    const response = await fetch(address, { headers: { "X-Fragment": "1", Accept: "text/html" } });
    if (response.status === 401) location.reload(); // the session has ended: leads to the sign-in page
    return response;
  }

  // ------------------------------------------------------------------ following the events

  let stream = null;

  async function follow() {
    if (stream || !page()?.dataset.job || page().dataset.ended || document.hidden) return;
    const mine = (stream = new AbortController());
    while (!mine.signal.aborted) {
      const { job, seen } = page().dataset;
      try {
        const response = await fetch(`/v1/jobs/${job}/events?after=${seen}`, { signal: mine.signal });
        if (response.status === 401) location.reload();
        const reader = response.ok ? response.body.getReader() : null;
        if (reader) say("live");
        while (reader) {
          const { done } = await reader.read(); // what it says does not matter: it says that there is news
          if (done) break;
          wake();
        }
      } catch {
        if (mine.signal.aborted) return;
      }
      if (mine.signal.aborted) return;
      say("reconnecting");
      await new Promise((resume) => setTimeout(resume, RECONNECT_MS));
      wake();
    }
  }

  function stopFollowing(word) {
    stream?.abort();
    stream = null;
    say(word);
  }

  function say(word) {
    live.hidden = !word || word === "ended";
    live.textContent = word;
    live.dataset.state = word;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopFollowing("");
    else if (page()?.dataset.job && !page().dataset.ended) {
      refresh();
      follow();
    }
  });

  function poll() {
    const every = Number(page()?.dataset.poll);
    if (!every) return;
    setInterval(() => document.hidden || refresh(), every);
  }

  // ------------------------------------------------------------------ charts

  const figures = new Map(); // of each chart: the figure as text, to see whether it has changed
  let asked = 0;

  async function refreshCharts() {
    const charts = main.querySelectorAll("[data-chart]");
    if (!charts.length || !window.Plotly) return;
    const against = main.querySelector("input[name=against]:checked")?.value ?? "";
    const turn = (asked += 1);
    const response = await fetch(`${location.pathname}/charts?against=${encodeURIComponent(against)}`);
    if (!response.ok) return;
    const fresh = await response.json();
    if (turn !== asked) return; // a later question, of another cost maybe, is on its way
    for (const chart of charts) {
      const figure = fresh[chart.dataset.chart];
      const text = JSON.stringify(figure);
      if (!figure || figures.get(chart) === text) continue;
      figures.set(chart, text);
      await draw(chart, figure, chart.dataset.chart === "tradeoff" ? against : "");
    }
  }

  async function draw(chart, figure, revision) {
    const note = document.getElementById(`note-${chart.dataset.chart}`);
    if (note) note.textContent = figure.note ?? "";
    chart.classList.toggle("nothing", Boolean(figure.empty));
    if (figure.empty) {
      Plotly.purge(chart);
      chart.classList.remove("js-plotly-plot");
      chart.textContent = figure.empty;
      return;
    }
    if (!chart.classList.contains("js-plotly-plot")) chart.textContent = "";
    const first = !chart.classList.contains("js-plotly-plot");
    await Plotly.react(chart, figure.data, themed(figure.layout, revision), {
      displaylogo: false,
      responsive: true,
      modeBarButtons: [["toImage", "resetScale2d"]],
    });
    if (first) chart.on("plotly_click", openCandidate);
  }

  function openCandidate({ points }) {
    const id = points[0]?.customdata?.[0];
    if (id) location.href = `/jobs/${page().dataset.job}/candidates/${id}`;
  }

  function themed(layout, revision) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"),
      linecolor: colour("--border"),
      tickcolor: colour("--border"),
      tickfont: { color: colour("--muted") },
    };
    const axes = Object.entries(layout).filter(([name]) => /^[xy]axis\d*$/.test(name));
    return {
      ...layout,
      ...Object.fromEntries(axes.map(([name, given]) => [name, { ...axis, ...given }])),
      uirevision: `${layout.uirevision}/${revision}`,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.fontFamily, size: 12, color: colour("--text") },
      hoverlabel: {
        bgcolor: colour("--surface"),
        bordercolor: colour("--border"),
        font: { family: style.fontFamily, color: colour("--text") },
        align: "left",
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--accent") },
    };
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    figures.clear();
    refreshCharts();
  });

  // ------------------------------------------------------------------ what the user does

  document.addEventListener("click", (event) => {
    const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    const link = event.target.closest("a[data-swap]");
    if (link && plain) {
      event.preventDefault();
      history.pushState(null, "", link.href);
      refresh();
    }
    const button = event.target.closest("button[data-post]");
    if (button && (!button.dataset.confirm || confirm(button.dataset.confirm))) steer(button);
  });

  async function steer(button) {
    button.disabled = true;
    try {
      const response = await fetch(button.dataset.post, { method: "POST" });
      if (response.status === 401) location.reload();
      tell(response.ok ? "" : (await response.json()).detail);
    } catch {
      tell("The server does not answer. Nothing was changed.");
    }
    button.disabled = false;
    refresh();
    follow();
  }

  function tell(words) {
    notice.textContent = words;
    notice.hidden = !words;
    if (words) setTimeout(() => (notice.hidden = true), 8000);
  }

  addEventListener("popstate", refresh);

  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-submit]")) event.target.form.requestSubmit();
    if (event.target.matches("input[name=against]")) refreshCharts();
  });

  document.addEventListener(
    "toggle",
    async (event) => {
      const box = event.target;
      if (box.open && box.dataset?.load) await load(box);
    },
    true, // a toggle does not bubble
  );

  async function load(box) {
    const response = await ask(box.dataset.load);
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    morphChildren(box.querySelector(".loaded"), fresh.body);
  }

  // ------------------------------------------------------------------ a request that is written here

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-json]")) return;
    event.preventDefault();
    submitRequest(event.target);
  });

  async function submitRequest(form) {
    const text = form.querySelector("textarea");
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      JSON.parse(text.value); // its error says where; the server's does not
      const response = await fetch(form.dataset.json, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: text.value,
      });
      if (response.status === 401) location.reload();
      const answer = await response.json();
      if (response.ok) location.href = `/jobs/${answer.id}`;
      else refuse(text, answer.errors?.length ? "The server refuses this request:" : answer.detail, answer.errors ?? []);
    } catch (error) {
      const json = error instanceof SyntaxError;
      refuse(text, json ? `This is not JSON: ${error.message}` : "The server does not answer. Nothing was submitted.", []);
    }
    button.disabled = false;
  }

  function refuse(text, words, errors) {
    const wrong = document.getElementById("wrong");
    wrong.hidden = false;
    wrong.querySelector("p").textContent = words;
    wrong.querySelector("ul").replaceChildren(...errors.map((error) => problem(text, error)));
    text.setAttribute("aria-invalid", "true");
  }

  function problem(text, { field, message }) {
    const line = document.createElement("li");
    const name = document.createElement("button");
    name.type = "button";
    name.className = "field";
    name.textContent = field || "request";
    name.addEventListener("click", () => select(text, field));
    line.append(name, ` ${message}`);
    return line;
  }

  function select(text, field) {
    const parts = field.split(".").filter((part) => Number.isNaN(Number(part)));
    let at = 0;
    let name = "";
    for (const part of parts) {
      const found = text.value.indexOf(`"${part}"`, at);
      if (found < 0) break;
      [at, name] = [found, part];
    }
    text.focus();
    if (name) text.setSelectionRange(at, at + name.length + 2);
  }

  refreshCharts();
  follow();
  poll();
})();
