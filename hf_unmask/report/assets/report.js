"use strict";
// Everything that comes from samples reaches the page through textContent, never as markup.

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// ------------------------------------------------------------------------------------------------------------- tables

function sortTable(table, column, ascending) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [Number(key(a)), Number(key(b))];
    return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b), "en", { numeric: true }) : x - y;
  };
  const rows = [...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
  body.append(...rows);
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortTable(table, column, ascending);
    });
  });
}

// -------------------------------------------------------------------------------------------------------------- plots

// The browser shows after a moment what the uppermost point is, and on a touch screen never: below the figure all
// points that are there stand at once.
function sayPoints(chart) {
  const caption = chart.querySelector("figcaption");
  const say = (event) => {
    const here = document.elementsFromPoint(event.clientX, event.clientY);
    const titles = here.filter((one) => one.tagName === "circle").map((one) => one.textContent);
    if (titles.length > 0) caption.textContent = titles.join(" · ");
  };
  for (const kind of ["pointermove", "click"]) chart.addEventListener(kind, say);
}

// ------------------------------------------------------------------------------------------------------------- viewer

const NEVER = -1;
// Controls, and what turns the direction of writing.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

class Pane {
  constructor(root, name, data, onSampler, onStep) {
    this.data = data;
    this.cells = [];
    this.select = element("select", { "aria-label": `${name} sampler` });
    const caption = element("label", {}, `${name} sampler`);
    caption.append(this.select);
    this.facts = element("p", { class: "facts" });
    this.canvas = element("div", { class: "canvas", role: "group", "aria-label": "Canvas" });
    this.opened = element("p", { class: "opened", "aria-live": "polite" });
    this.heat = element("canvas", { class: "heat", role: "img" });
    const note = "Opening order: position from left to right, step from top to bottom; the bluer, the more confidence.";
    root.append(caption, this.facts, this.canvas, this.opened, this.heat, element("p", { class: "note" }, note));
    this.select.addEventListener("change", onSampler);
    this.heat.addEventListener("click", (event) => onStep(this.stepAt(event)));
  }

  // Offer the samplers of a prompt; keep the one that was chosen if it is there.
  offer(task, trajectories, fallback) {
    const chosen = this.select.value;
    this.task = task;
    this.trajectories = new Map(trajectories.map((one) => [String(one.sampler), one]));
    this.select.replaceChildren(...this.options());
    this.select.value = this.trajectories.has(chosen) ? chosen : String(trajectories[fallback].sampler);
    this.load();
  }

  options() {
    const regimes = new Map();
    for (const number of this.trajectories.keys()) {
      const { name, regime } = this.task.samplers[Number(number)];
      if (!regimes.has(regime)) regimes.set(regime, element("optgroup", { label: regime }));
      regimes.get(regime).append(element("option", { value: number }, name));
    }
    return regimes.values();
  }

  load() {
    this.current = this.trajectories.get(this.select.value);
    this.sampler = this.task.samplers[this.current.sampler];
    this.steps = Math.max(...this.current.opened) + 1;
    this.cells = this.current.tokens.map(() => element("span", { class: "cell" }));
    const parts = [];
    this.current.tokens.forEach((token, position) => {
      this.cells[position].append(element("b"), element("small"));
      parts.push(this.cells[position]);
      if (this.piece(token).includes("\n")) parts.push(element("span", { class: "break" }));
    });
    this.canvas.replaceChildren(...parts);
    const { score, nfe, seed } = this.current;
    const judged = (value) => (value >= 1 ? ["good", "correct"] : value <= 0 ? ["bad", "wrong"] : ["bad", `score ${value}`]);
    const verdict = judged(score);
    const beside = Object.entries(this.current.further).flatMap(([name, value]) => {
      const [look, word] = judged(value);
      return [` · ${name} `, element("span", { class: look }, word)];
    });
    this.facts.replaceChildren(
      element("span", { class: verdict[0] }, verdict[1]),
      ...beside,
      ` · ${nfe} NFE · ${this.steps} steps · ${this.sampler.regime} · seed ${seed} · answer: `,
      element("code", {}, this.current.text),
    );
    const label = `Opening order of ${this.current.tokens.length} positions in ${this.steps} steps`;
    this.heat.setAttribute("aria-label", label);
  }

  piece(token) {
    return this.data.vocabulary[token] ?? String(token);
  }

  // A blank line would be an empty cell, so what cannot be seen gets a sign.
  visible(token) {
    return this.piece(token).replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍")
      .replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  show(step) {
    this.step = Math.min(step, this.steps);
    const news = [];
    this.current.tokens.forEach((token, position) => {
      const at = this.current.opened[position];
      const confidence = this.current.confidence?.[position] ?? null;
      const masked = at === NEVER || at >= step;
      const now = !masked && at === step - 1;
      const text = this.visible(token);
      const cell = this.cells[position];
      const special = !masked && this.special(token);
      cell.className = ["cell", masked && "mask", now && "now", special && "special"].filter(Boolean).join(" ");
      // a mask is as wide as its token will be, so that nothing moves while one scrubs
      cell.firstChild.textContent = masked ? "\u00a0".repeat(text.length) : text;
      cell.lastChild.textContent = now && confidence !== null ? confidence.toFixed(2) : "";
      cell.title = masked ? `position ${position + 1}, masked` : this.describe(position, at, confidence);
      if (now) news.push(`${position + 1} “${text}”${confidence === null ? "" : ` ${confidence.toFixed(3)}`}`);
    });
    this.opened.textContent = this.sentence(step, news);
    this.draw();
  }

  special(token) {
    return this.data.special.includes(token);
  }

  describe(position, at, confidence) {
    const read = confidence === null ? "" : `, confidence ${confidence}`;
    return `position ${position + 1}, opened at step ${at + 1}${read}`;
  }

  sentence(step, news) {
    if (step === 0) return "Before the first step all positions are masked.";
    if (step > this.steps) return `Finished after step ${this.steps}.`;
    return `Step ${step} opened ${news.length}: ${news.join(", ")}`;
  }

  geometry() {
    const width = this.heat.clientWidth || 400;
    const row = Math.max(2, Math.min(14, Math.floor(280 / Math.max(this.steps, 1))));
    return { width, row, height: row * this.steps, column: width / this.current.tokens.length };
  }

  stepAt(event) {
    const { row } = this.geometry();
    return Math.min(Math.floor(event.offsetY / row) + 1, this.steps);
  }

  draw() {
    const { width, row, height, column } = this.geometry();
    const sharp = window.devicePixelRatio || 1;
    this.heat.style.height = `${height}px`;
    this.heat.width = Math.round(width * sharp);
    this.heat.height = Math.max(1, Math.round(height * sharp));
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [low, high] = ["--heat-low", "--heat-high"].map((name) => colour(name).split(",").map(Number));
    const pen = this.heat.getContext("2d");
    pen.scale(sharp, sharp);
    pen.fillStyle = colour("--paper");
    pen.fillRect(0, 0, width, height);
    this.current.opened.forEach((at, position) => {
      if (at === NEVER) return;
      const left = position * column;
      const wide = Math.max(1, column - (column > 4 ? 1 : 0));
      pen.fillStyle = colour("--done");
      pen.fillRect(left, (at + 1) * row, wide, height - (at + 1) * row);
      // half a unit where nothing was read: the place counts, not the shade
      const share = this.current.confidence?.[position] ?? 0.5;
      pen.fillStyle = `rgb(${low.map((from, i) => Math.round(from + (high[i] - from) * share)).join(", ")})`;
      pen.fillRect(left, at * row, wide, Math.max(1, row - (row > 4 ? 1 : 0)));
    });
    this.rule(pen, colour, width, height, column);
    if (this.step > 0) {
      pen.strokeStyle = colour("--bad");
      pen.lineWidth = 2;
      pen.strokeRect(1, (this.step - 1) * row + 0.5, width - 2, row - 1);
    }
  }

  // Lines between blocks.
  rule(pen, colour, width, height, column) {
    const block = this.sampler.block;
    if (!block) return;
    pen.fillStyle = colour("--soft");
    for (let position = block; position * column < width - 1; position += block) {
      pen.fillRect(position * column - 1, 0, 1, height);
    }
  }
}

class Viewer {
  constructor(data) {
    this.data = data;
    const byId = (id) => document.getElementById(id);
    [this.task, this.prompt, this.slider, this.text, this.play] =
      ["task", "prompt", "step", "step-text", "play"].map(byId);
    byId("viewer-body").hidden = false;
    const changed = () => this.changed();
    const go = (step) => this.go(step);
    this.panes = [["pane-a", "Left"], ["pane-b", "Right"]].map(([id, name]) => (
      new Pane(byId(id), name, data, changed, go)
    ));
    this.task.append(...data.tasks.map((task, number) => element("option", { value: number }, task.title)));
    this.task.addEventListener("change", () => this.chooseTask());
    this.prompt.addEventListener("change", () => this.choosePrompt());
    this.slider.addEventListener("input", () => this.go(this.slider.valueAsNumber));
    byId("previous").addEventListener("click", () => this.go(this.slider.valueAsNumber - 1));
    byId("next").addEventListener("click", () => this.go(this.slider.valueAsNumber + 1));
    this.play.addEventListener("click", () => this.setPlaying(!this.timer));
    byId("viewer").addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("resize", () => this.redraw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    this.chooseTask();
    this.go(1);
  }

  chooseTask() {
    const task = this.data.tasks[Number(this.task.value)];
    const options = task.prompts.map((prompt, number) => element("option", { value: number }, String(prompt.id)));
    this.prompt.replaceChildren(...options);
    document.getElementById("shown").textContent = `${task.shown} are shown.`;
    this.panes.forEach((pane) => pane.select.replaceChildren());
    this.choosePrompt();
  }

  choosePrompt() {
    const task = this.data.tasks[Number(this.task.value)];
    const { trajectories } = task.prompts[Number(this.prompt.value)];
    const ends = [0, trajectories.length - 1];
    this.panes.forEach((pane, side) => {
      const opens = trajectories.findIndex((one) => one.sampler === task.opens[side]);
      pane.offer(task, trajectories, opens < 0 ? ends[side] : opens);
    });
    this.changed();
  }

  changed() {
    this.panes.forEach((pane) => pane.load());
    this.slider.max = Math.max(...this.panes.map((pane) => pane.steps));
    this.go(this.slider.valueAsNumber);
  }

  go(step) {
    const last = Number(this.slider.max);
    this.slider.value = Math.max(0, Math.min(step, last));
    this.text.textContent = `${this.slider.value} of ${last}`;
    this.panes.forEach((pane) => pane.show(this.slider.valueAsNumber));
    if (this.slider.valueAsNumber === last) this.setPlaying(false);
  }

  redraw() {
    this.panes.forEach((pane) => pane.draw());
  }

  setPlaying(playing) {
    clearInterval(this.timer);
    this.timer = null;
    if (playing) {
      if (this.slider.valueAsNumber === Number(this.slider.max)) this.go(0);
      this.timer = setInterval(() => this.go(this.slider.valueAsNumber + 1), 350);
    }
    this.play.textContent = playing ? "Pause" : "Play";
    this.play.setAttribute("aria-pressed", String(playing));
  }

  // The slider knows these keys itself; here they also work from buttons and panes. Menus keep them.
  key(event) {
    if (event.target === this.slider || event.target.tagName === "SELECT" || event.altKey || event.ctrlKey) return;
    const at = this.slider.valueAsNumber;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: Number(this.slider.max) };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.go(moves[event.key]);
  }
}

document.querySelectorAll("figure.chart").forEach(sayPoints);
document.querySelectorAll("table.sortable").forEach(makeSortable);
const stored = JSON.parse(document.getElementById("data").textContent);
if (stored.tasks.length > 0) new Viewer(stored);
