// The page: what is asked, how it is answered, and the dial that decides when the model thinks.

import {ApiError, keepKey, load, stream} from "./api.js";
import {findResult, renderText} from "./maths.js";

const find = id => document.getElementById(id);
const copy = id => find(id).content.firstElementChild.cloneNode(true);
const question = find("question"), slider = find("threshold"), exact = find("exact");

let model = {id: ""}; // the first entry of /v1/models
let examples = [];
let nextExample = 0;
let threshold = null; // as it was set here; null: the model's own
let turns = []; // {question, expected, answers, element}
const running = new Set(); // answers that are being written

// ---- Numbers as text.

function formatProbability(p) {
  if (p === 0 || p === 1) return String(p);
  const digits = Math.min(7, Math.max(2, 1 - Math.floor(Math.log10(Math.min(p, 1 - p))))); // two that count
  return p < 5e-8 ? "< 0.0000001" : p > 1 - 5e-8 ? "> 0.9999999" : p.toFixed(digits).replace(/(\.\d*?\d)0+$/, "$1");
}

const formatCount = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const formatSeconds = seconds => 0 < seconds && seconds < 0.05 ? "< 0.1" : seconds < 10 ? seconds.toFixed(1)
  : Math.round(seconds).toLocaleString("en");
const formatPercent = share => `${(100 * share).toFixed(share > 0.995 || share < 0.005 ? 0 : 1).replace(/\.0$/, "")}%`;

const NEVER_REACHED = 2; // a threshold for always thinking: P(no_think) may round to 1
// The slider is even in the log-odds: untrained models differ between 0.0001 and 0.001, trained ones near 1.
const toValue = p => Math.max(-6, Math.min(6, Math.log10(p / (1 - Math.min(p, 1)))));
const toProbability = value => value <= -6 ? 0 : value >= 6 ? NEVER_REACHED : Number((1 / (1 + 10 ** -value)).toPrecision(4));
const toPercent = p => (toValue(p) + 6) / 0.12;

// ---- What is requested.

const extension = () => model.x_think ?? null; // null: a server that takes no thresholds
const isDirect = answer => !answer.thinking && answer.mode !== "think";
const average = values => values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : null;

/** The chosen preset: {} (auto), {mode} or {effort, threshold}. */
function readPreset() {
  const [kind, name] = (document.querySelector("[name=effort]:checked")?.value ?? "auto").split(":");
  if (kind === "effort") return {effort: name, threshold: extension().efforts.find(one => one.name === name).threshold};
  return kind === "mode" ? {mode: name} : {};
}

/** The threshold that holds as the page is set. */
function readThreshold() {
  const {mode, effort, threshold: preset} = readPreset();
  if (mode) return mode === "think" ? NEVER_REACHED : 0;
  if (effort) return preset;
  return threshold ?? extension()?.threshold ?? 0.5;
}

function readWanted() {
  const {mode, effort} = readPreset();
  if (mode || effort) return {mode, effort};
  // The model's own threshold need not be sent. Where it has none, the page's is, so that P(no_think) is known.
  const sent = extension() && (threshold !== null || extension().threshold == null);
  return sent ? {threshold: readThreshold()} : {};
}

function makeBody(turn, {mode, effort, threshold}) {
  const before = find("remember").checked ? turns.slice(0, turns.indexOf(turn)) : [];
  const messages = before.flatMap(one => {
    const last = one.answers.findLast(answer => answer.state === "done" && answer.content);
    return last ? [{role: "user", content: one.question}, {role: "assistant", content: last.content}] : [];
  });
  return {
    model: mode ? `${model.id}:${mode}` : model.id,
    messages: [...messages, {role: "user", content: turn.question}],
    stream: true,
    stream_options: {include_usage: true},
    reasoning_format: "separate",
    ...(effort && {x_think: {effort}}),
    ...(threshold !== undefined && {x_think: {threshold}}),
  };
}

// ---- Asking and answering.

function ask(text, expected) {
  if (!text.trim() || running.size || !model.id) return false;
  const turn = {question: text.trim(), expected, answers: [], element: copy("turn")};
  turn.element.querySelector(".question").append(turn.question);
  turn.element.querySelector(".again").addEventListener("click", event => {
    const again = event.target.closest("[data-again]")?.dataset.again;
    if (again && !running.size) run(turn, again === "set" ? readWanted() : {mode: again});
  });
  turns.push(turn);
  find("turns").append(turn.element);
  find("welcome").hidden = true;
  find("clear").hidden = false;
  find("another").hidden = !examples.length;
  const wanted = find("both").checked ? [{mode: "no_think"}, {mode: "think"}] : [readWanted()];
  for (const one of wanted) run(turn, one);
  scrollTo({top: document.documentElement.scrollHeight});
  return true;
}

async function run(turn, wanted) {
  const answer = {turn, wanted, thinking: "", content: "", decision: {}, state: "running", stop: new AbortController(),
    element: copy("answer"), began: performance.now()};
  answer.element.querySelector("summary").addEventListener("click", () => { answer.touched = true; });
  turn.answers.push(answer);
  turn.element.querySelector(".answers").append(answer.element);
  running.add(answer);
  updateRunning();
  announce("Reading the question");
  try {
    for await (const chunk of stream(makeBody(turn, wanted), answer.stop.signal)) take(answer, chunk);
    answer.state = "done";
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.state === "failed") {
      if (!(error instanceof ApiError)) console.error(error);
      answer.error = error instanceof ApiError ? error.message : "The page could not read the answer.";
      if (error.status === 401) wantKey();
    }
  }
  answer.ended = performance.now();
  running.delete(answer);
  draw(answer);
  updateRunning();
  updateDial();
  updateSaved();
  const how = answer.element.querySelector("summary").textContent;
  const text = answer.element.querySelector(".content").textContent.slice(0, 500);
  announce(answer.error ?? `${isDirect(answer) ? "Answered directly" : how}: ${text || "no answer"}`);
}

function take(answer, chunk) {
  const now = performance.now(), [choice] = chunk.choices ?? [];
  if (!answer.first) answer.first = now;
  answer.decision = chunk.x_think ?? answer.decision;
  const thinking = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
  const content = choice?.delta?.content ?? "";
  if (thinking && !answer.thinking && !answer.content) announce("Thinking");
  answer.thinking += thinking;
  if (content && !answer.thoughtEnded) answer.thoughtEnded = now;
  answer.content += content;
  answer.mode = choice?.mode ?? answer.mode;
  answer.finish = choice?.finish_reason ?? answer.finish;
  answer.usage = chunk.usage ?? answer.usage;
  if (!answer.drawing) {
    answer.drawing = true;
    requestAnimationFrame(() => {
      answer.drawing = false;
      if (answer.state === "running") draw(answer);
    });
  }
}

function stopAll() {
  for (const answer of running) answer.stop.abort();
}

// ---- Showing an answer.

function draw(answer) {
  const get = query => answer.element.querySelector(query);
  const follow = document.documentElement.scrollHeight - innerHeight - scrollY < 80;
  const runs = answer.state === "running", details = get("details"), box = get(".thinking");
  details.hidden = !answer.thinking;
  get(".badge").hidden = Boolean(answer.thinking) || !answer.content || answer.mode === "think";
  get(".waiting").hidden = !runs || Boolean(answer.thinking || answer.content);
  if (answer.thinking) {
    if (!answer.touched) details.open = runs && !answer.thoughtEnded;
    const down = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.replaceChildren(runs ? answer.thinking : renderText(answer.thinking));
    if (down && runs) box.scrollTop = box.scrollHeight;
    get("summary").textContent = describeThought(answer);
  }
  get(".content").replaceChildren(renderText(answer.content, runs));
  get(".error").hidden = !answer.error;
  get(".error").textContent = answer.error ?? "";
  drawChance(answer, get);
  const cut = answer.finish === "length" ? "cut off at the token limit" : "";
  const note = answer.state === "stopped" ? "stopped" : cut;
  const cost = answer.usage ? [formatCount(answer.usage.completion_tokens, "token")] : [];
  if (!runs && answer.first) cost.push(`${formatSeconds((answer.ended - answer.began) / 1000)} s`);
  get(".cost").textContent = [...cost, note].filter(Boolean).join(" · ");
  const {expected} = answer.turn;
  if (expected && answer.state === "done") {
    const correct = findResult(answer.content) === expected;
    get(".verdict").hidden = false;
    get(".verdict").className = `verdict ${correct ? "correct" : "wrong"}`;
    get(".verdict").textContent = correct ? "✓ correct" : `✗ not correct: it is ${expected}`;
  }
  if (follow) scrollTo({top: document.documentElement.scrollHeight});
}

function describeThought(answer) {
  const end = answer.thoughtEnded ?? answer.ended ?? performance.now();
  const seconds = `${formatSeconds((end - answer.first) / 1000)} s`;
  const tokens = answer.usage?.completion_tokens_details?.reasoning_tokens;
  if (answer.state === "running" && !answer.thoughtEnded) return `Thinking … ${seconds}`;
  return `Thought for ${seconds}${tokens ? ` · ${formatCount(tokens, "token")}` : ""}`;
}

function drawChance(answer, get) {
  const {no_think_probability: p, threshold: cut, reason, effort} = answer.decision;
  const requested = answer.wanted.mode || reason === "request" || (effort && p == null); // efforts of never and always
  const decided = reason === "model" ? "the model's own choice" : effort ? `effort ${effort}` : "";
  const why = requested ? "as requested" : decided;
  get(".chance").hidden = p == null && !why;
  get(".meter").hidden = p == null;
  if (p == null) {
    get(".why").textContent = why;
    return;
  }
  const meter = get(".meter");
  meter.setAttribute("aria-valuenow", p);
  meter.setAttribute("aria-valuetext", formatProbability(p));
  meter.style.setProperty("--at", toPercent(p));
  meter.style.setProperty("--cut", cut == null ? 100 : toPercent(cut));
  const compared = cut == null ? "" : cut > 1 ? ", always thinks"
    : ` ${p >= cut ? "≥" : "<"} ${formatProbability(cut)}`;
  get(".why").textContent = `P(no_think) ${formatProbability(p)}${compared}${why ? `, ${why}` : ""}`;
}

function announce(text) {
  find("status").textContent = text;
}

// ---- The panel.

function showEfforts() {
  const efforts = extension()?.efforts ?? [];
  const ends = {none: ["Never", "answers everything directly"], max: ["Always", "thinks about everything"]};
  const rows = efforts.map(({name, tolerance, accuracy, mean_tokens: tokens, no_think_share: share}) => {
    const facts = [
      accuracy != null && `${formatPercent(accuracy)} right`,
      tokens != null && formatCount(Math.round(tokens), "token"),
    ];
    const loss = [
      tolerance != null && `loses at most ${formatPoints(tolerance)}`,
      share != null && `${Math.round(100 * share)}% directly`,
    ];
    const [title, promise] = ends[name] ?? [name[0].toUpperCase() + name.slice(1), loss.filter(Boolean).join(", ")];
    return [`effort:${name}`, title, promise, facts.filter(Boolean).join(" · ")];
  });
  const auto = ["auto", "Auto", extension() ? "thinks below the threshold" : "the model chooses"];
  const modes = [["mode:no_think", ...ends.none], ["mode:think", ...ends.max]];
  const labels = [auto, ...(rows.length ? rows : modes)].map(([value, title, promise, facts = ""], index) => {
    const label = copy("effort"), radio = label.querySelector("input");
    Object.assign(radio, {value, checked: index === 0});
    radio.setAttribute("aria-label", title);
    radio.setAttribute("aria-description", [promise, facts].filter(Boolean).join(", "));
    label.querySelector("b").append(title);
    label.querySelector(".promise").append(promise);
    label.querySelector(".measured").append(facts);
    return label;
  });
  find("efforts").replaceChildren(...labels);
  find("measured").hidden = !efforts.some(one => one.accuracy != null);
}

const formatPoints = share => formatCount(Number((100 * share).toFixed(2)), "point");

function setThreshold(value) {
  threshold = value;
  document.querySelector("[name=effort][value=auto]").checked = true;
  updateDial();
}

/** Show the threshold that holds, and on which side of it each question's probability lies. */
function updateDial() {
  const {mode, effort} = readPreset(), own = extension()?.threshold, cut = readThreshold();
  find("dial").hidden = !extension();
  slider.value = toValue(cut);
  slider.setAttribute("aria-valuetext", formatProbability(Math.min(cut, 1)));
  slider.style.setProperty("--cut", toPercent(cut));
  if (document.activeElement !== exact) exact.value = Math.min(cut, 1);
  find("reset").hidden = threshold === null || Boolean(mode || effort);
  find("uncertified").hidden = own != null;
  const chances = turns.map(turn => turn.answers.map(one => one.decision.no_think_probability).findLast(p => p != null))
    .filter(p => p != null);
  find("dots").replaceChildren(...chances.map((p, index) => {
    const dot = document.createElement("span");
    dot.className = `dot${p >= cut ? " over" : ""}${index === chances.length - 1 ? " last" : ""}`;
    dot.style.setProperty("--at", toPercent(p));
    return dot;
  }));
  const over = chances.filter(p => p >= cut).length, count = formatCount(chances.length, "question");
  find("dots").setAttribute("aria-label",
    chances.length ? `P(no_think) of ${count}, last ${formatProbability(chances.at(-1))}` : "no question yet");
  find("split").textContent = !chances.length ? "Each question will be a dot above the slider."
    : cut >= 1 ? "Every question is thought about."
    : `With this threshold, ${over} of ${count} would be answered directly.`;
}

/** Sum up what direct answers saved: the server's numbers, else a thought's mean length as it was seen here. */
function updateSaved() {
  const done = turns.map(turn => turn.answers.filter(one => one.state === "done")).filter(answers => answers.length);
  const direct = done.filter(answers => answers.every(isDirect)), all = done.flat();
  const seen = all.map(one => one.usage?.completion_tokens_details?.reasoning_tokens).filter(Boolean);
  const thought = average(seen);
  const tokens = direct.map(answers => answers[0].decision.tokens_saved ?? thought);
  const written = all.filter(one => one.usage?.completion_tokens);
  const speed = average(written.map(one => (one.ended - one.first) / 1000 / one.usage.completion_tokens));
  const known = tokens.every(one => one != null), sum = tokens.reduce((total, one) => total + one, 0);
  find("saved-share").textContent = done.length ? `${direct.length} of ${done.length}` : "–";
  find("saved-tokens").textContent = done.length && known ? Math.round(sum).toLocaleString("en") : "–";
  const seconds = sum ? formatSeconds(sum * speed) : "0";
  find("saved-seconds").textContent = done.length && known && speed != null ? seconds : "–";
  find("saved-note").textContent = !direct.length ? ""
    : !known ? "Known once a thought was seen, for example by “Answer again, thinking”."
    : "Estimated by what a thought takes on average.";
}

function updateRunning() {
  const runs = running.size > 0;
  const held = document.activeElement === find("stop") || document.activeElement === find("send");
  find("stop").hidden = !runs;
  find("send").hidden = runs;
  if (held) (runs ? find("stop") : question).focus();
  for (const button of document.querySelectorAll(".again button, #another")) button.setAttribute("aria-disabled", runs);
}

// ---- Examples and the beginning.

function shuffle(list) {
  return list.map(one => [Math.random(), one]).sort(([a], [b]) => a - b).map(([, one]) => one);
}

function askExample(example) {
  ask(example.prompt, example.answer);
  if (!matchMedia("(pointer: coarse)").matches) question.focus(); // a phone would open its keyboard
}

function showExamples() {
  const levels = [...new Set(examples.map(one => one.level))];
  const shown = levels.flatMap(level => {
    const some = examples.filter(one => one.level === level);
    return level == null ? some : some.slice(0, 1);
  });
  find("examples").replaceChildren(...shown.map(example => {
    const item = copy("example");
    item.querySelector("small").append(example.level == null ? "" : `Level ${example.level}`);
    item.querySelector("span").append(example.prompt);
    item.querySelector("button").addEventListener("click", () => askExample(example));
    return item;
  }));
}

function wantKey() {
  find("key-form").hidden = false;
  find("key").focus();
}

async function start() {
  const page = await load("page/examples.json");
  examples = shuffle(page.examples);
  examples.sort((a, b) => (a.level ?? 0) - (b.level ?? 0));
  find("about").textContent = page.about;
  find("remember").checked = page.conversation;
  showExamples();
  await connect();
}

async function connect() {
  try {
    model = (await load("v1/models")).data[0];
  } catch (error) {
    if (error.status === 401) return wantKey();
    throw error;
  }
  find("key-form").hidden = true;
  find("model").textContent = model.id;
  document.title = `${model.id} · AdaptThink`;
  showEfforts();
  updateDial();
  updateSaved();
  if (!matchMedia("(pointer: coarse)").matches) question.focus({preventScroll: true});
}

find("composer").addEventListener("submit", event => {
  event.preventDefault();
  if (ask(question.value)) question.value = "";
});
question.addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("composer").requestSubmit();
});
if (!CSS.supports("field-sizing", "content")) {
  question.addEventListener("input", () => {
    question.style.height = "auto";
    question.style.height = `${question.scrollHeight + 2}px`;
  });
}
addEventListener("keydown", event => {
  if (event.key === "Escape") stopAll();
});
find("stop").addEventListener("click", stopAll);
find("another").addEventListener("click", () => {
  if (running.size) return;
  const levels = [...new Set(examples.map(one => one.level))];
  const level = levels[nextExample % levels.length];
  nextExample += 1;
  const fresh = examples.filter(one => !turns.some(turn => turn.question === one.prompt));
  askExample(fresh.find(one => one.level === level) ?? fresh[0] ?? examples[nextExample % examples.length]);
});
find("clear").addEventListener("click", () => {
  stopAll();
  turns = [];
  find("turns").replaceChildren();
  find("welcome").hidden = false;
  find("clear").hidden = true;
  find("another").hidden = true;
  updateDial();
  updateSaved();
  announce("New conversation");
  question.focus();
});
find("panel-button").addEventListener("click", () => {
  const open = find("panel").classList.toggle("open");
  find("panel-button").setAttribute("aria-expanded", open);
  if (open) scrollTo({top: 0});
});
find("efforts").addEventListener("change", updateDial);
slider.addEventListener("input", () => setThreshold(toProbability(Number(slider.value))));
exact.addEventListener("input", () => {
  if (exact.value !== "" && exact.validity.valid) setThreshold(Number(exact.value));
});
exact.addEventListener("blur", updateDial);
find("reset").addEventListener("click", () => {
  setThreshold(null);
  slider.focus();
});
find("key-form").addEventListener("submit", event => {
  event.preventDefault();
  keepKey(find("key").value);
  find("key-error").textContent = "";
  connect().then(() => {
    if (!find("key-form").hidden) find("key-error").textContent = "The server does not know this key.";
  }, fail);
});
setInterval(() => {
  for (const answer of running) if (answer.thinking && !answer.thoughtEnded) draw(answer); // the seconds go on
}, 100);

function fail(error) {
  if (!(error instanceof ApiError)) console.error(error);
  find("failure").hidden = false;
  find("failure").textContent = `The page could not begin: ${error.message}`;
}

start().catch(fail);
