// A model's text as nodes: its mathematics as MathML, code and bold as elements, and all else as text, never as markup.

const SPACE = "http://www.w3.org/1998/Math/MathML";
const DEEPEST = 40; // nested groups; what is deeper stays as it was written

// Without a prototype: a model may write \constructor.
const SYMBOLS = {
  __proto__: null,
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ϵ", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ",
  vartheta: "ϑ", iota: "ι", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ",
  upsilon: "υ", phi: "ϕ", varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ",
  Xi: "Ξ", Pi: "Π", Sigma: "Σ", Phi: "Φ", Psi: "Ψ", Omega: "Ω", infty: "∞", emptyset: "∅", varnothing: "∅", ell: "ℓ",
  hbar: "ℏ", Re: "ℜ", Im: "ℑ", angle: "∠", triangle: "△", degree: "°", circ: "∘", dots: "…", ldots: "…", cdots: "⋯",
  vdots: "⋮", ddots: "⋱", prime: "′", "%": "%", "#": "#", $: "$", "&": "&", _: "_", checkmark: "✓",
};
const OPERATORS = {
  __proto__: null,
  times: "×", cdot: "⋅", div: "÷", pm: "±", mp: "∓", ast: "∗", star: "⋆", le: "≤", leq: "≤", leqslant: "≤", ge: "≥",
  geq: "≥", geqslant: "≥", ne: "≠", neq: "≠", approx: "≈", equiv: "≡", cong: "≅", sim: "∼", simeq: "≃", propto: "∝",
  ll: "≪", gg: "≫", lt: "<", gt: ">", to: "→", rightarrow: "→", longrightarrow: "⟶", leftarrow: "←",
  leftrightarrow: "↔", Rightarrow: "⇒", implies: "⟹", Leftarrow: "⇐", Leftrightarrow: "⇔", iff: "⟺", mapsto: "↦",
  in: "∈", notin: "∉", ni: "∋", subset: "⊂", subseteq: "⊆", supset: "⊃", supseteq: "⊇", cup: "∪", cap: "∩",
  setminus: "∖", land: "∧", wedge: "∧", lor: "∨", vee: "∨", neg: "¬", lnot: "¬", forall: "∀", exists: "∃",
  therefore: "∴", because: "∵", mid: "∣", nmid: "∤", parallel: "∥", perp: "⟂", partial: "∂", nabla: "∇", oplus: "⊕",
  otimes: "⊗", bmod: "mod", colon: ":", "{": "{", "}": "}", "|": "‖", lbrace: "{", rbrace: "}", langle: "⟨",
  rangle: "⟩", lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", lvert: "|", rvert: "|", vert: "|", Vert: "‖",
};
const LARGE = { // with their limits below and above
  __proto__: null,
  sum: "∑", prod: "∏", coprod: "∐", bigcup: "⋃", bigcap: "⋂", lim: "lim", max: "max", min: "min", sup: "sup",
  inf: "inf", limsup: "lim sup", liminf: "lim inf", gcd: "gcd",
};
const INTEGRALS = {__proto__: null, int: "∫", iint: "∬", iiint: "∭", oint: "∮"};
const FUNCTIONS = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp det dim ker deg arg lcm"
  .split(" "));
const ACCENTS = {__proto__: null, hat: "^", widehat: "^", bar: "¯", vec: "→", tilde: "~", widetilde: "~", dot: "˙", ddot: "¨",
  overline: "‾", overrightarrow: "→", overbrace: "⏞"};
const SPACES = {__proto__: null, ",": "0.17em", ":": "0.22em", ";": "0.28em", "!": "-0.17em", " ": "0.33em", quad: "1em", qquad: "2em"};
const DOUBLE = {__proto__: null, R: "ℝ", N: "ℕ", Z: "ℤ", Q: "ℚ", C: "ℂ", P: "ℙ"};
const IGNORED = new Set(["displaystyle", "textstyle", "limits", "nolimits", "big", "Big", "bigg", "Bigg", "bigl", "bigr",
  "Bigl", "Bigr", "biggl", "biggr", "middle", "hline", "nonumber", "boldsymbol", "mathstrut"]);
const FENCES = {__proto__: null, matrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"],
  cases: ["{", ""]};
const TOKEN = /\\([a-zA-Z]+|[^])|\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?|\.\d+|\s+|[^]/uy;

function make(name, children = [], attributes = {}) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const row = nodes => nodes.length === 1 ? nodes[0] : make("mrow", nodes);
const fence = text => make("mo", [text], {fence: "true", stretchy: "true"});

/** LaTeX in, MathML nodes out. An open group ends with the text, so half of a formula can be read too. */
class Reader {
  constructor(source, start = 0) {
    this.source = source;
    this.at = start;
    this.depth = 0;
    this.unclosed = false; // whether the text ended within a group
  }

  enter() {
    if (++this.depth > DEEPEST) throw new RangeError("too many groups within each other");
  }

  peek() {
    TOKEN.lastIndex = this.at;
    return TOKEN.exec(this.source)?.[0] ?? "";
  }

  next() {
    const token = this.peek();
    this.at += token.length;
    return token;
  }

  skipSpace() {
    while (/^\s/.test(this.source[this.at] ?? "")) this.at += 1;
  }

  /** Everything up to one of these tokens, which is not taken. */
  readRow(...ends) {
    this.enter();
    const nodes = [];
    while (this.at < this.source.length && !ends.includes(this.peek())) {
      const node = this.readScripted();
      if (node) nodes.push(node);
    }
    this.depth -= 1;
    return nodes;
  }

  readGroup() {
    this.next();
    const nodes = this.readRow("}");
    if (!this.next()) this.unclosed = true;
    return make("mrow", nodes);
  }

  /** An argument: a group, or the next sign alone, a digit of a number too. */
  readArgument() {
    this.skipSpace();
    if (this.peek() === "{") return this.readGroup();
    if (/\d/.test(this.source[this.at] ?? "")) return make("mn", [this.source[this.at++]]);
    if (this.at >= this.source.length || this.peek() === "}") return make("mrow");
    this.enter();
    const node = this.readAtom() ?? make("mrow");
    this.depth -= 1;
    return node;
  }

  /** An argument as it was written. */
  readRaw() {
    this.skipSpace();
    if (this.peek() !== "{") return this.next();
    const start = this.at + 1;
    let open = 0;
    do {
      const token = this.next();
      open += (token === "{") - (token === "}");
    } while (open && this.at < this.source.length);
    return this.source.slice(start, open ? this.at : this.at - 1);
  }

  /** One thing with what stands at its upper and lower right. */
  readScripted() {
    const base = this.readAtom();
    let below, above;
    for (;;) {
      const start = this.at;
      this.skipSpace();
      const sign = this.peek();
      if (sign === "'") {
        let primes = "";
        while (this.peek() === "'") primes += this.next() && "′";
        above = above ? make("mrow", [make("mo", [primes]), above]) : make("mo", [primes]);
      } else if (sign === "_" && !below) {
        this.next();
        below = this.readArgument();
      } else if (sign === "^" && !above) {
        this.next();
        above = this.readArgument();
      } else {
        this.at = start; // the space belongs to what follows
        break;
      }
    }
    if (!below && !above) return base;
    const [one, other, both] = base?.getAttribute("movablelimits")
      ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    const parts = [base ?? make("mrow"), below, above].filter(Boolean);
    return make(below && above ? both : below ? one : other, parts);
  }

  readAtom() {
    if (this.peek() === "{") return this.readGroup();
    const token = this.next();
    if (token[0] === "\\" && token.length > 1) return this.readCommand(token.slice(1));
    if (/^\s/.test(token)) return null;
    if (token === "~") return make("mspace", [], {width: "0.33em"});
    if (/^\.?\d/.test(token)) return make("mn", [token]);
    if (/^\p{L}/u.test(token)) return make("mi", [token]);
    if (/^[()[\]|]/.test(token)) return make("mo", [token], {stretchy: "false"});
    return make("mo", [token === "-" ? "−" : token === "*" ? "∗" : token]);
  }

  readCommand(name) {
    if (name in SYMBOLS) return make("mi", [SYMBOLS[name]], {mathvariant: "normal"});
    if (name in OPERATORS) {
      return make("mo", [OPERATORS[name]], /[{}|]/.test(OPERATORS[name]) ? {stretchy: "false"} : {});
    }
    if (name in LARGE) {
      const word = /[a-z]/.test(LARGE[name]) && {lspace: "0", rspace: "0.17em"};
      return make("mo", [LARGE[name]], {movablelimits: "true", ...word});
    }
    if (name in INTEGRALS) return make("mo", [INTEGRALS[name]]);
    if (name in SPACES) return make("mspace", [], {width: SPACES[name]});
    if (FUNCTIONS.has(name)) return make("mrow", [make("mi", [name]), make("mspace", [], {width: "0.17em"})]);
    if (name in ACCENTS) {
      return make("mover", [this.readArgument(), make("mo", [ACCENTS[name]], {stretchy: String(/^over/.test(name))})],
        {accent: "true"});
    }
    if (IGNORED.has(name)) return null;
    switch (name) {
      case "frac": case "dfrac": case "tfrac": case "cfrac":
        return make("mfrac", [this.readArgument(), this.readArgument()]);
      case "binom": case "dbinom": case "tbinom": {
        const over = make("mfrac", [this.readArgument(), this.readArgument()], {linethickness: "0"});
        return make("mrow", [fence("("), over, fence(")")]);
      }
      case "sqrt": {
        this.skipSpace();
        if (this.peek() !== "[") return make("msqrt", [this.readArgument()]);
        this.next();
        const degree = row(this.readRow("]"));
        this.next();
        return make("mroot", [this.readArgument(), degree]);
      }
      case "boxed": case "fbox": case "framebox":
        return make("mrow", [name === "boxed" ? this.readArgument() : make("mtext", [this.readRaw()])],
          {class: "boxed"});
      case "text": case "textrm": case "textit": case "mbox": case "textnormal":
        return make("mtext", [this.readRaw().replaceAll(" ", "\u00a0")]);
      case "textbf":
        return make("mtext", [this.readRaw().replaceAll(" ", "\u00a0")], {class: "bold"});
      case "mathrm": case "operatorname": case "mathit": case "mathsf": case "mathtt":
        return make("mi", [this.readRaw().trim()], {mathvariant: "normal"});
      case "mathbf": case "bm":
        return make("mrow", [this.readArgument()], {class: "bold"});
      case "mathbb":
        return make("mi", [[...this.readRaw().trim()].map(letter => DOUBLE[letter] ?? letter).join("")],
          {mathvariant: "normal"});
      case "mathcal": case "mathfrak": case "mathscr": case "cancel":
        return this.readArgument();
      case "underline": case "underbrace":
        return make("munder",
          [this.readArgument(), make("mo", [name === "underline" ? "_" : "⏟"], {stretchy: "true"})]);
      case "overset": case "stackrel": {
        const above = this.readArgument();
        return make("mover", [this.readArgument(), above]);
      }
      case "underset": {
        const below = this.readArgument();
        return make("munder", [this.readArgument(), below]);
      }
      case "pmod":
        return make("mrow", [make("mspace", [], {width: "0.5em"}), make("mo", ["("], {stretchy: "false"}),
          make("mi", ["mod"]), make("mspace", [], {width: "0.33em"}), this.readArgument(),
          make("mo", [")"], {stretchy: "false"})]);
      case "left": {
        const open = this.readDelimiter();
        const inner = this.readRow("\\right", "}");
        if (this.peek() === "\\right") this.next();
        return make("mrow", [open && fence(open), ...inner, this.readDelimiter()].map(one =>
          typeof one === "string" ? one && fence(one) : one).filter(Boolean));
      }
      case "right":
        return fence(this.readDelimiter());
      case "begin":
        return this.readTable(this.readRaw());
      case "\\":
        return make("mspace", [], {linebreak: "newline"});
      case "color": case "tag": case "label":
        this.readRaw();
        return null;
      default:
        return make("mtext", [`\\${name}`]);
    }
  }

  readDelimiter() {
    this.skipSpace();
    const token = this.at < this.source.length ? this.next() : "";
    if (token === "." || token === "}") return "";
    return token[0] === "\\" ? OPERATORS[token.slice(1)] ?? "" : token;
  }

  readTable(name) {
    if (name === "array" || name === "alignedat") this.readRaw(); // how the columns are set
    const rows = [[]];
    while (this.at < this.source.length) {
      rows.at(-1).push(make("mtd", this.readRow("&", "\\\\", "\\end")));
      const end = this.next();
      if (end === "\\\\") rows.push([]);
      else if (end !== "&") break;
    }
    this.readRaw(); // the name behind \end
    const left = /^(align|cases|split|gather)/.test(name);
    const filled = rows.filter(cells => cells.some(cell => cell.childNodes.length));
    const table = make("mtable", filled.map(cells => make("mtr", cells)), {class: left ? "aligned" : ""});
    const [open, close] = FENCES[name] ?? ["", ""];
    return make("mrow", [open && fence(open), table, close && fence(close)].filter(Boolean));
  }
}

/** A formula as a <math> element; RangeError where it is nested too deeply. */
export function renderMaths(source, display = false) {
  return wrap(new Reader(source).readRow(), source, display);
}

function wrap(nodes, source, display) {
  return make("math", nodes, {display: display ? "block" : "inline", alttext: source.trim()});
}

const PAIRS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
const BARE = /\\(?:boxed|[dt]?frac|sqrt)\s*[{[]/y; // outside of any formula, as models write answers

/** A model's text as a fragment. With `streaming` its end may be missing, and half a command is not shown. */
export function renderText(text, streaming = false) {
  const whole = document.createDocumentFragment();
  if (streaming) text = text.replace(/(?:\\[a-zA-Z]*|\$\$?)$/, "");
  // Every other piece is a block of code; its first line names the language.
  const pieces = text.split(/^[ \t]*```/m);
  pieces.forEach((piece, index) => {
    if (index % 2) {
      const block = document.createElement("pre");
      block.append(piece.slice(piece.indexOf("\n") + 1).trimEnd());
      whole.append(block);
    } else {
      const begun = index ? piece.replace(/^[^\S\n]*\n/, "") : piece; // without the line breaks around blocks
      renderInline(index < pieces.length - 1 ? begun.replace(/\n$/, "") : begun, whole, streaming, true);
    }
  });
  return whole;
}

function renderInline(text, parent, streaming, bold) {
  const absent = new Set(); // closing marks that do not come any more: each is sought in vain once
  const find = (mark, from) => {
    if (absent.has(mark)) return -1;
    const found = text.indexOf(mark, from);
    if (found < 0) absent.add(mark);
    return found;
  };
  let at = 0, plain = 0;
  const take = (node, end, block = false) => { // a block begins and ends a line by itself
    const before = text.slice(plain, at), after = block ? /^[ \t]*\n/.exec(text.slice(end, end + 80)) : null;
    parent.append(block ? before.replace(/\n[ \t]*$/, "") : before, node);
    at = plain = end + (after ? after[0].length : 0);
  };
  while (at < text.length) {
    const sign = text[at];
    if (sign === "`") {
      const end = find("`", at + 1);
      if (end > at + 1) {
        const code = document.createElement("code");
        code.append(text.slice(at + 1, end));
        take(code, end + 1);
        continue;
      }
    } else if (sign === "*" && bold && text.startsWith("**", at) && /\S/.test(text[at + 2] ?? " ")) {
      const end = find("**", at + 2);
      if (end > at + 2) {
        const strong = document.createElement("strong");
        renderInline(text.slice(at + 2, end), strong, streaming, false);
        take(strong, end + 2);
        continue;
      }
    } else if (sign === "$" || sign === "\\") {
      const found = readFormula(text, at, find, streaming);
      if (found) {
        take(found.node, found.end, found.node.getAttribute("display") === "block");
        continue;
      }
      if (sign === "\\" && "$\\".includes(text[at + 1] ?? " ")) at += 1; // \$ is no formula's beginning
    }
    at += 1;
  }
  if (plain < at) parent.append(text.slice(plain));
}

function readFormula(text, at, find, streaming) {
  try {
    const pair = PAIRS.find(([open]) => text.startsWith(open, at));
    if (pair) {
      const [open, close, display] = pair;
      const start = at + open.length, end = find(close, start);
      const source = text.slice(start, end);
      if (end < 0 || !source.trim()) return null;
      // Amounts of money are no formula: "$5 and $6".
      if (open === "$" && (/^\s|\s$|\n\n/.test(source) || /\d/.test(text[end + 1] ?? ""))) return null;
      return {node: renderMaths(source, display), end: end + close.length};
    }
    BARE.lastIndex = at;
    if (!BARE.test(text)) return null;
    const reader = new Reader(text, at);
    const node = reader.readScripted();
    if (reader.unclosed && !streaming) return null;
    return {node: wrap([node], text.slice(at, reader.at), false), end: reader.at};
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return null;
  }
}

/** What an answer says in the end: what its last box holds, else all of it. */
export function findResult(text) {
  const start = text.lastIndexOf("\\boxed");
  return (start < 0 ? text : new Reader(text, start + "\\boxed".length).readRaw()).trim();
}
