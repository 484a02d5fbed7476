// What the page does: asks student and teacher about the sentences in the box, and shows what they say.

import { difference, histograms, mean, pairs, quantile, similarities, since } from "./figures.js";
import { ServiceError, ask, curl, read, useKey } from "./service.js";

// by name: sentences, and the task that they are for
const EXAMPLES = {
  "Paraphrases": {
    task: "stsb",
    sentences: [
      "A man is playing a guitar.",
      "Someone plays an instrument.",
      "A woman is slicing an onion.",
      "Somebody is cutting vegetables.",
      "The stock market fell sharply today.",
      "Share prices dropped across the board.",
    ],
  },
  "Support desk": {
    sentences: [
      "How do I reset my password?",
      "I forgot my login and cannot get in.",
      "Where can I find my invoice for March?",
      "Please send me a copy of last month's bill.",
      "The app crashes whenever I open it.",
      "My parcel still has not arrived.",
    ],
  },
  "Film reviews": {
    task: "sst2",
    sentences: [
      "A moving and very funny film.",
      "I laughed, I cried, I want to see it again.",
      "Two hours of my life that I will never get back.",
      "The plot is thin, but the acting saves it.",
      "Not nearly as bad as everybody says.",
      "It promises much and delivers little.",
    ],
  },
  "Commands": {
    task: "snips",
    sentences: [
      "Play some jazz by Miles Davis.",
      "Put on the album that came out last week.",
      "Will it rain in Oslo tomorrow?",
      "Book a table for two at an Italian restaurant.",
      "I would give this novel five stars.",
      "Add this song to my running playlist.",
    ],
  },
  "Hard ones": {
    task: "mrpc",
    sentences: [
      "The dog bit the man.",
      "The man bit the dog.",
      "The bank raised its interest rates.",
      "We had a picnic on the bank of the river.",
      "I like this hotel.",
      "I do not like this hotel.",
    ],
  },
};
const FIRST = "Paraphrases";
const MODELS = ["student", "teacher"];
const SHOWN = 12; // sentences in a matrix: more could not be read
const ALIGNED = 8; // sentences whose list fits beside three matrices
const RUNS = 5; // of which the median is shown
const RUNS_MS = 500; // but none begins after this
const POLL_MS = 5000;
const WAIT_MS = 1500; // while the service is not ready
const WINDOW_MS = 60_000;
const AXIS_MS = [0.1, 1000]; // of the strip that shows p50 to p99
const FAR = 0.25; // a difference of similarities that gets the full colour

const at = (id) => document.getElementById(id);
const refusals = {}; // what the service said where something is not loaded
let tasks = []; // as GET /tasks lists them
let manifests = {}; // of the encoders, by model
let asking = false;
const queued = new Set(); // what was wished for meanwhile
let wanted = EXAMPLES[FIRST].task; // the task to turn to, once it is loaded
let retry = false; // once the service is ready, as it was not

// ---- what is shown, made of elements: text never becomes markup

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute === "share") made.style.setProperty("--share", value);
    else if (attribute === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== false) made.setAttribute(attribute, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const unseen = (words) => element("span", { class: "unseen" }, words);
const signed = (value) => (Math.abs(value) < 0.005 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
const plain = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** Three significant digits, as far as milliseconds make sense. */
function milliseconds(value) {
  if (value === null) return "–";
  return `${value.toFixed(value < 1 ? 3 : value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

function copyButton(words, command) {
  const button = element("button", { type: "button", class: "copy" }, words);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
      say("The command is in the clipboard.");
    } catch { // only pages from https or this very machine may write there
      const shown = element("textarea", { class: "command", readonly: true, rows: 3, "aria-label": "Command to copy" });
      shown.value = command;
      button.replaceWith(shown);
      shown.focus();
      shown.select();
      return;
    }
    setTimeout(() => (button.textContent = words), 1500);
  });
  return button;
}

// Only what does not fit needs a stop for the keyboard, to be scrolled from there.
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

function scroller(title, table) {
  const box = element("div", { class: "scrolls", role: "group", "aria-label": title }, table);
  widths.observe(box);
  return box;
}

function say(words) {
  at("said").textContent = words;
}

// ---- similarity

function matrix(title, kind, values, sentences, written) {
  const numbers = sentences.map((_, place) => element("th", { scope: "col" }, unseen("sentence "), String(place + 1)));
  const rows = values.map((row, i) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(i + 1), unseen(`: ${sentences[i]}`)),
      ...row.map((value) => element("td", shade(kind, value), written(value))),
    ),
  );
  return scroller(
    title,
    element(
      "table",
      { class: `matrix ${kind}` },
      element("caption", {}, title),
      element("thead", {}, element("tr", {}, element("td"), ...numbers)),
      element("tbody", {}, ...rows),
    ),
  );
}

function shade(kind, value) {
  if (kind === "heat") return { share: Math.min(1, Math.max(0, value)) };
  return { share: Math.min(1, Math.abs(value) / FAR), class: value < 0 ? "less" : "more" };
}

function scale(kind, from, to) {
  return element("span", { class: "scale" }, from, element("span", { class: `ramp ${kind}`, "aria-hidden": "true" }), to);
}

function showSimilarity(sentences, vectors, cosines) {
  const first = sentences.slice(0, SHOWN);
  const [student, teacher] = vectors.map((all) => all && similarities(all.slice(0, SHOWN)));
  const list = element("ol", { class: "sentences", "aria-label": "Sentences" }, ...first.map((each) => element("li", {}, element("span", {}, each))));
  const shown = [matrix("Student", "heat", student, first, plain)];
  if (teacher) {
    shown.push(matrix("Teacher", "heat", teacher, first, plain));
    shown.push(matrix("Student − teacher", "apart", difference(student, teacher), first, signed));
  }
  at("matrices").classList.toggle("stacked", first.length > ALIGNED);
  at("matrices").replaceChildren(list, ...shown);
  const cut = sentences.length > SHOWN ? ` The first ${SHOWN} of ${sentences.length} sentences are shown.` : "";
  at("similarity-note").replaceChildren(
    scale("heat", "0", "1"),
    " cosine of two sentences’ vectors",
    ...(teacher ? [element("br", { class: "narrow" }), scale("apart", `−${FAR}`, `+${FAR}`), " student less teacher"] : []),
    cut,
  );
  at("fidelity").replaceChildren();
  if (cosines) {
    at("fidelity").append(element("strong", {}, plain(mean(cosines))), " mean cosine of the student’s vectors to the teacher’s");
  }
}

// ---- speed

function showSpeed(count, timings, lead, runs) {
  const longest = Math.max(...timings.map((timing) => timing?.milliseconds ?? 0));
  at("lead").textContent = lead ? `${lead.toFixed(lead < 100 ? 1 : 0)}×` : milliseconds(timings[0].milliseconds);
  at("lead-words").textContent = lead ? "the teacher’s speed" : "by the student alone";
  at("bars").replaceChildren(
    ...MODELS.flatMap((model, place) => {
      const timing = timings[place];
      return [
        element("dt", {}, model, timing ? element("span", { class: "hint" }, ` ${timing.precision}`) : null),
        element(
          "dd",
          { class: model },
          element("span", { class: "track", "aria-hidden": "true" }, timing ? element("span", { class: "bar", share: timing.milliseconds / longest }) : ""),
          element("span", { class: "value" }, timing ? milliseconds(timing.milliseconds) : "not loaded"),
        ),
      ];
    }),
  );
  const median = runs > 1 ? `, the median of ${runs} runs` : "";
  const both = lead ? " One model after the other, through the same code and on the same clock." : "";
  at("speed-note").textContent = `${many(count, "sentence")} tokenised, queued and encoded${median}.${both}`;
}

/** Vectors of both, then their comparison: it comes last, and finds both models awake. */
async function compare(sentences) {
  const [ours, theirs] = MODELS.map((model) => ({ sentences, model }));
  const student = await ask("encode", ours);
  const vectors = student.content.embeddings;
  const notes = student.content.truncated.map((index) => `Sentence ${index + 1} was too long and was cut.`);
  const copies = [copyButton("Copy student’s curl", curl("encode", ours))];
  if (manifests.teacher) {
    const teacher = await ask("encode", theirs);
    const both = async () => (await ask("compare", { sentences })).content;
    const [median, runs] = await medianRun(both, (run) => run.speed_up);
    showSpeed(sentences.length, [median.student, median.teacher], median.speed_up, runs);
    showSimilarity(sentences, [vectors, teacher.content.embeddings], median.results.map((result) => result.cosine));
    at("speed-curl").replaceChildren(copyButton("Copy curl", curl("compare", { sentences })));
    copies.push(copyButton("Copy teacher’s curl", curl("encode", theirs)));
  } else {
    const alone = async () => (await ask("encode", ours)).stages;
    const total = ({ tokenize, queue, inference }) => tokenize + queue + inference;
    const [median, runs] = await medianRun(alone, total);
    showSpeed(sentences.length, [{ precision: manifests.student.precision, milliseconds: total(median) }, null], null, runs);
    showSimilarity(sentences, [vectors, null], null);
    at("speed-curl").replaceChildren();
    notes.push(await refusal("encode", theirs));
  }
  at("similarity-curl").replaceChildren(...copies);
  at("speed-note").append(...notes.map((note) => element("span", { class: "notice" }, coded(note))));
  return `${many(sentences.length, "sentence")} compared. ${at("lead").textContent} ${at("lead-words").textContent}.`;
}

/** Of a few runs the one with the median value, and how many there were: one alone may meet a busy moment. */
async function medianRun(once, value) {
  const runs = [];
  const begun = performance.now();
  do runs.push(await once());
  while (runs.length < RUNS && performance.now() - begun < RUNS_MS);
  runs.sort((one, other) => value(one) - value(other));
  return [runs[Math.floor((runs.length - 1) / 2)], runs.length];
}

/** Why the service will not answer this: its words name the command that helps. Asked once for each path and model. */
async function refusal(path, content) {
  const place = `${path} ${content.model}`;
  refusals[place] ??= await ask(path, content).then(() => "", (error) => {
    if (error.status !== 404) throw error;
    return error.message;
  });
  return refusals[place];
}

/** Commands stand between backticks in the service's messages. */
function coded(words) {
  const made = element("span");
  words.split("`").forEach((part, place) => made.append(place % 2 ? element("code", {}, part) : part));
  return made;
}

// ---- labels

async function classify(sentences) {
  const name = at("task").value;
  const models = MODELS.filter((model) => tasks.some((task) => task.task === name && task.model === model));
  if (!models.length) return;
  const inputs = inputsFor(tasks.find((task) => task.task === name), sentences);
  const single = `classify/${encodeURIComponent(name)}`;
  const [path, content] = models.length > 1 ? ["compare", { ...inputs, task: name }] : [single, { ...inputs, model: models[0] }];
  const answer = (await ask(path, content)).content;
  const predictions = answer.results ?? answer.predictions.map((each) => ({ [models[0]]: each }));
  showLabels(inputs.pairs ?? inputs.sentences, predictions, models);
  at("labels-curl").replaceChildren(copyButton("Copy curl", curl(path, content)));
  const notes = inputs.pairs ? [`${name} takes pairs: lines 1 and 2 are one, lines 3 and 4 the next. `] : [];
  for (const model of MODELS.filter((each) => !models.includes(each))) {
    notes.push(coded(await refusal(single, { ...inputs, model })));
  }
  at("labels-note").replaceChildren(...notes);
}

function inputsFor(task, sentences) {
  if (task.inputs === "sentences") return { sentences };
  if (sentences.length % 2) {
    throw new ServiceError(422, `${task.task} compares two sentences: lines 1 and 2, then 3 and 4. The last line has no partner.`);
  }
  return { pairs: sentences.flatMap((each, place) => (place % 2 ? [] : [[each, sentences[place + 1]]])) };
}

function showLabels(inputs, answers, models) {
  const heads = [inputs[0] instanceof Array ? "Pair" : "Sentence", ...models].map((head) => element("th", { scope: "col" }, head));
  const rows = answers.map((answer, place) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, [inputs[place]].flat().join(" ⟷ ")),
      ...models.map((model) => element("td", { "data-model": model }, prediction(answer[model], model))),
      answer.agree === false ? element("td", { class: "apart" }, "differ") : null,
    ),
  );
  at("labels").replaceChildren(
    scroller(
      "Labels",
      element(
        "table",
        { class: "labels" },
        element("caption", { class: "unseen" }, "Labels with their probabilities"),
        element("thead", {}, element("tr", {}, ...heads)),
        element("tbody", {}, ...rows),
      ),
    ),
  );
}

/** A label and its probability, of many labels the three best; or a regression task's value. */
function prediction(answer, model) {
  if ("value" in answer) return element("span", { class: "value" }, answer.value.toFixed(3));
  const best = Object.entries(answer.scores).sort(([, one], [, other]) => other - one);
  return element(
    "ul",
    { class: `scores ${model}` },
    ...best.slice(0, best.length > 2 ? 3 : 1).map(([label, score]) =>
      element(
        "li",
        {},
        element("span", { class: "label" }, label),
        element("span", { class: "track", "aria-hidden": "true" }, element("span", { class: "bar", share: score })),
        element("span", { class: "value" }, percent(score)),
      ),
    ),
  );
}

// ---- one run

function sentencesInBox() {
  return at("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean);
}

async function run(...parts) {
  if (asking) {
    for (const part of parts) queued.add(part);
    return;
  }
  asking = true;
  at("run").setAttribute("aria-disabled", "true");
  at("problem").replaceChildren();
  try {
    const sentences = sentencesInBox();
    if (!sentences.length) throw new ServiceError(422, "There is no sentence in the box. Type one, or take an example.");
    await load();
    let summary = "";
    for (const part of parts) summary = (await part(sentences)) ?? summary;
    say(summary);
  } catch (error) {
    showProblem(error);
    retry = error.status === 0 || error.status === 503;
  }
  asking = false;
  if (queued.size) {
    const wished = [...queued];
    queued.clear();
    return run(...wished);
  }
  at("run").removeAttribute("aria-disabled");
  poll();
}

function showProblem(error) {
  if (!(error instanceof ServiceError)) console.error(error);
  const title = error instanceof ServiceError ? error.title : "This page failed";
  at("problem").replaceChildren(element("div", { class: "alert" }, element("strong", {}, title), " ", coded(error.message)));
  at("problem").scrollIntoView({ block: "nearest" });
  if (error.status === 401) askForKey();
}

function askForKey() {
  const field = element("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-hint" });
  const form = element(
    "form",
    { class: "card key" },
    element("label", { for: "key" }, "API key"),
    field,
    element("button", { type: "submit" }, "Use it"),
    element("span", { id: "key-hint", class: "hint" }, "It stays in this page’s memory and is gone when the page is closed."),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(field.value);
    form.remove();
    at("sentences").focus();
    run(compare, classify);
  });
  at("key-place").replaceChildren(form);
}

/** Learn which models and tasks there are: a reload may have changed them. */
async function load() {
  const { models } = (await ask("models")).content;
  manifests = Object.fromEntries(models.map(({ model, manifest }) => [model, manifest]));
  tasks = (await ask("tasks")).content.tasks;
  at("models").replaceChildren(...models.map(({ model, manifest }) => describe(model, manifest)));
  const names = [...new Set(tasks.map((each) => each.task))];
  const choice = at("task");
  if (names.join() !== [...choice.options].map((option) => option.value).join()) {
    choice.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    choose(wanted);
  }
  choice.disabled = !names.length;
  if (!names.length) {
    at("labels-note").replaceChildren("No task is loaded; ", element("code", {}, "python -m training finetune"), " trains one.");
  }
}

/** Turn to a task, now or once it is loaded. */
function choose(task) {
  wanted = task;
  if (tasks.some((each) => each.task === task)) at("task").value = task;
}

function describe(model, manifest) {
  const facts = ` ${manifest.precision}, ${manifest.dimensions} dimensions, space `;
  return element("p", {}, element("strong", {}, model), facts, element("code", {}, manifest.space));
}

// ---- live

const readings = []; // [time, histograms by model], oldest first, over the last minute
let next;

/** Ask for readiness and metrics now, and then every few seconds while somebody can see the page. */
async function poll() {
  clearTimeout(next);
  if (document.hidden) return;
  let pause = POLL_MS;
  try {
    await read("health/ready");
    const awake = at("health").dataset.state !== "ready";
    showHealth("ready", "ready");
    readings.push([performance.now(), histograms(await read("metrics"), "understudy_request_duration_seconds", "model")]);
    while (readings.length > 2 && readings[1][0] <= readings.at(-1)[0] - WINDOW_MS) readings.shift();
    showLive(readings[0][1], readings.at(-1)[1]);
    if (awake && retry) {
      retry = false;
      run(compare, classify);
    }
  } catch (error) {
    showHealth(error.status ? "waiting" : "gone", error.status ? "not ready" : "not reachable", error.message);
    pause = WAIT_MS;
  }
  clearTimeout(next);
  next = setTimeout(poll, pause);
}

function showHealth(state, words, why = "") {
  const health = at("health");
  if (health.textContent !== words) health.textContent = words; // announced only when it changes
  health.dataset.state = state;
  health.title = why;
}

function showLive(before, now) {
  const span = readings.length > 1 ? "in the last minute" : "from now on";
  const recent = Object.fromEntries(MODELS.map((model) => [model, readings.length > 1 ? since(before[model], now[model]) : null]));
  at("live").replaceChildren(liveTable(`Since the service started`, now), liveTable(`Seen here ${span}`, recent));
}

function liveTable(title, byModel) {
  const rows = MODELS.map((model) => {
    const histogram = byModel[model];
    const [p50, p99] = [0.5, 0.99].map((share) => {
      const seconds = histogram && quantile(histogram, share);
      return seconds === null ? null : 1000 * seconds;
    });
    return element(
      "tr",
      { class: model },
      element("th", { scope: "row" }, model),
      element("td", {}, milliseconds(p50)),
      element("td", {}, milliseconds(p99)),
      element("td", { class: "strip", "aria-hidden": "true" }, p50 === null ? "" : strip(p50, p99)),
      element("td", {}, histogram ? histogram.get(Infinity).toLocaleString("en") : "0"),
    );
  });
  const axis = element("span", { class: "ends" }, ...AXIS_MS.map((value) => element("span", {}, value < 1000 ? `${value} ms` : `${value / 1000} s`)));
  const ends = element("td", { class: "strip", "aria-hidden": "true" }, axis);
  const heads = ["Model", "p50", "p99"].map((head) => element("th", { scope: "col" }, head));
  return element(
    "table",
    { class: "latencies" },
    element("caption", {}, title),
    element("thead", {}, element("tr", {}, ...heads, ends, element("th", { scope: "col" }, "Requests"))),
    element("tbody", {}, ...rows),
  );
}

/** A line from p50 to p99 on a logarithmic axis that all rows share. */
function strip(p50, p99) {
  const [low, high] = AXIS_MS.map(Math.log);
  const place = (value) => Math.min(1, Math.max(0, (Math.log(value) - low) / (high - low)));
  const line = element("span", { class: "span" });
  line.style.setProperty("--from", place(p50));
  line.style.setProperty("--to", place(p99));
  return element("span", { class: "axis" }, line);
}

// ---- beginning

function begin() {
  const box = at("sentences");
  for (const [name, { task, sentences }] of Object.entries(EXAMPLES)) {
    const take = () => {
      box.value = sentences.join("\n");
      choose(task ?? wanted);
      run(compare, classify);
    };
    at("examples").append(element("button", { type: "button", onclick: take }, name));
  }
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    run(compare, classify);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(compare, classify);
  });
  at("task").addEventListener("change", (event) => {
    choose(event.target.value);
    run(classify);
  });
  document.addEventListener("visibilitychange", poll);
  box.value = EXAMPLES[FIRST].sentences.join("\n");
  poll();
  run(compare, classify);
}

begin();
