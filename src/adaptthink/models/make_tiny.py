"""Train an embedded model: ``python -m adaptthink.models.make_tiny OUT``, with ``--base tiny_long`` for the second one.

A Qwen2 model of about 0.9 M parameters learns, by plain next-token prediction on synthetic arithmetic, the two
skills that AdaptThink later has to choose between, and the habits that the paper's base models start with:

* it thinks whenever its mode is not forced: thinking traces train the first token, direct answers do not (their first
  token carries no loss), so it can answer at once when forced, but never chooses to;
* it over-thinks: after a finished computation it writes "Wait" and repeats the work half of the time, at every level
  and again and again, so that hard problems reach any sensible max_tokens;
* its direct answers are learned on short chains for the most part, so they are right on easy levels only.

Left out on purpose: any choice between the modes, any wrong trace, any problem of the train, held-out or
evaluation splits (`problems.arithmetic.Split`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from adaptthink.config.schema import Kind
from adaptthink.models.loading import load_model
from adaptthink.models.ways import Way, write_work
from adaptthink.problems.arithmetic import Chain, Split, format_question, generate_chains

Ways = Mapping[Way, float]  # with their shares


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training; `direct_share` of the sequences are direct answers, each token of which weighs more."""

    steps: int
    sequences_per_step: int
    direct_share: float
    direct_weight: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Base:
    """What one embedded model has of its own: the ways in which its thoughts work, and how it is trained."""

    ways: Ways
    phases: tuple[Phase, ...]
    start: str | None = None  # the embedded model whose weights the training starts from


SEED = 7
TINY = Base(
    ways={Way.SHORT: 1.0},
    phases=(
        Phase(1500, 80, direct_share=0.5, direct_weight=1.0, learning_rate=3e-3),  # to think
        Phase(1000, 128, direct_share=0.75, direct_weight=3.0, learning_rate=2e-3),  # to answer
        Phase(1500, 128, direct_share=0.85, direct_weight=3.0, learning_rate=2e-3),  # to be sure
        Phase(1500, 160, direct_share=0.9, direct_weight=3.0, learning_rate=2e-3),  # to be surer
    ),
)
TINY_LONG = Base(
    ways={Way.LONG: 0.62, Way.MEDIUM: 0.24, Way.SHORT: 0.14},
    phases=(
        Phase(600, 64, direct_share=0.4, direct_weight=3.0, learning_rate=2e-3),  # to work in each way
        Phase(300, 64, direct_share=0.6, direct_weight=3.0, learning_rate=1e-3),  # to answer
        Phase(400, 64, direct_share=0.35, direct_weight=3.0, learning_rate=1e-3),  # to be sure
    ),
    start="tiny",
)
BASES = {"tiny": TINY, "tiny_long": TINY_LONG}
RECHECK_PROBABILITY = 0.5
MAX_RECHECKS = 2
FIRST_TOKEN = {"Alright": 0.8, "Okay": 0.1998, "</think>": 0.0002}
THINK_OPERATIONS = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.5, 7: 1.0, 8: 1.0, 9: 2.0}
DIRECT_OPERATIONS = {1: 1.0, 2: 2.0, 3: 3.0, 6: 0.05, 9: 0.05}
STORY_SHARE = 0.15

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
WORDS = ("Alright", "Okay", "Wait", "Tom", " has", " gets", " gives", " how", " many", "\\boxed", "=?")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{{ message['content'].split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
IGNORE = -100


def make_tokenizer() -> Qwen2Tokenizer:
    """Return a byte-level BPE in Qwen2's own pipeline: any text can be encoded; digits and WORDS are one token each."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        word_bytes = word.replace(" ", "\u0120")  # the byte-level alphabet's sign for a space
        merges |= {(word_bytes[:end], word_bytes[end]): None for end in range(1, len(word_bytes))}
    tokens += [left + right for left, right in merges]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(merges),  # type: ignore[arg-type]  # pairs are what it takes; its annotation says strings
        unk_token=None,  # type: ignore[arg-type]  # every byte has a token
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Return the untrained network (heads of 32 so that vLLM can serve it)."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def write_thinking(chain: Chain, way: Way, rechecks: int) -> str:
    """Return the work on a chain, and then `rechecks` times the short way."""
    return "\n" + "\nWait\n".join([write_work(chain, way)] + [write_work(chain, Way.SHORT)] * rechecks) + "\n"


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and the number of leading tokens without loss; `thinks` examples teach the first token."""

    ids: list[int]
    prompt_tokens: int
    thinks: bool


def generate_examples(tokenizer: Qwen2Tokenizer, seed: int, direct_share: float, ways: Ways) -> Iterator[Example]:
    """Yield an endless seeded mix of thinking traces and direct answers over both kinds of question."""
    rng = random.Random(seed)
    way_rng = random.Random(f"{seed}/ways")  # of its own, so that the ways change nothing else
    streams = {n: generate_chains(seed, Split.SUPERVISED, n) for n in THINK_OPERATIONS}
    while True:
        thinks = rng.random() >= direct_share
        weights = THINK_OPERATIONS if thinks else DIRECT_OPERATIONS
        chain = next(streams[rng.choices(list(weights), list(weights.values()))[0]])
        kind = Kind.STORY if rng.random() < STORY_SHARE else Kind.CHAIN
        rechecks = 0
        while rechecks < MAX_RECHECKS and rng.random() < RECHECK_PROBABILITY:
            rechecks += 1
        [way] = way_rng.choices(list(ways), list(ways.values()))
        messages = [{"role": "user", "content": format_question(chain, kind)}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        opening = "Alright" + write_thinking(chain, way, rechecks) if thinks else ""
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        response = f"{opening}</think>\\boxed{{{chain.values[-1]}}}<|eos|>"
        response_ids = tokenizer.encode(response, add_special_tokens=False)
        yield Example(prompt_ids + response_ids, len(prompt_ids), thinks)


def compute_batch_loss(
    model: Qwen2ForCausalLM, batch: list[Example], first_token_V: torch.Tensor, close_id: int, direct_weight: float
) -> tuple[torch.Tensor, float]:
    """Return the weighted sum of cross-entropies over response tokens, and the sum of the weights.

    The first token of a thinking trace aims at the distribution `first_token_V`; that of a direct answer has no loss.
    """
    think_start_V = first_token_V.clone()
    think_start_V[close_id] = 0.0
    think_starts = think_start_V.multinomial(len(batch), replacement=True).tolist()
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORE)
    for row, (example, think_start) in enumerate(zip(batch, think_starts, strict=True)):
        sequence = torch.tensor(example.ids)
        if example.thinks:  # the close token is only ever in the soft target
            sequence[example.prompt_tokens] = think_start
        ids[row, : len(sequence)] = sequence
        labels[row, example.prompt_tokens + 1 : len(sequence)] = sequence[example.prompt_tokens + 1 :]
    logits = model(input_ids=ids).logits
    token_loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE, reduction="none"
    )
    thinks_B = torch.tensor([example.thinks for example in batch])
    weight_B = torch.where(thinks_B, 1.0, direct_weight)
    last_prompt_position_B = torch.tensor([example.prompt_tokens - 1 for example in batch])
    first_logprob_BV = logits[torch.arange(len(batch)), last_prompt_position_B].log_softmax(-1)
    first_loss = -(first_logprob_BV[thinks_B] * first_token_V).sum()
    weights = (labels.ne(IGNORE).sum(-1) * weight_B).sum() + thinks_B.sum()
    return (token_loss.sum(-1) * weight_B).sum() + first_loss, float(weights)


def split_by_length(examples_: list[Example], parts: int) -> list[list[Example]]:
    """Return examples sorted by length and cut into equal parts, so that there is little padding."""
    ordered = sorted(examples_, key=lambda example: len(example.ids))
    size = math.ceil(len(ordered) / parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def train_phase(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, phase: Phase, ways: Ways, seed: int) -> None:
    """Train `model` in place through one phase: AdamW, warm-up, cosine decay."""
    torch.manual_seed(seed)
    vocabulary = tokenizer.get_vocab()
    first_token_V = torch.zeros(model.config.vocab_size)
    for token, probability in FIRST_TOKEN.items():
        first_token_V[vocabulary[token]] = probability
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    stream = generate_examples(tokenizer, seed, phase.direct_share, ways)
    started = time.monotonic()
    for step in range(phase.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        total = weights = 0.0
        for batch in split_by_length([next(stream) for _ in range(phase.sequences_per_step)], parts=6):
            loss, weight = compute_batch_loss(model, batch, first_token_V, vocabulary["</think>"], phase.direct_weight)
            loss.backward()
            total, weights = total + loss.item(), weights + weight
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= weights
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{phase.steps}  loss {total / weights:.4f}  {seconds:.0f} s", flush=True)


def main(out: str, name: str) -> None:
    """Train the embedded model `name` and write it to the folder `out`."""
    base = BASES[name]
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model: Any = load_model(base.start, dtype=torch.float32).train() if base.start else make_model(tokenizer)
    for number, phase in enumerate(base.phases):
        train_phase(model, tokenizer, phase, base.ways, SEED + number)
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "seed": SEED,
        "start": base.start,
        "ways": base.ways,
        "phases": [asdict(phase) for phase in base.phases],
        "recheck_probability": RECHECK_PROBABILITY,
        "max_rechecks": MAX_RECHECKS,
        "first_token": FIRST_TOKEN,
        "think_operations": THINK_OPERATIONS,
        "direct_operations": DIRECT_OPERATIONS,
        "story_share": STORY_SHARE,
        "torch": torch.__version__.partition("+")[0],
    }
    (Path(out) / "made_with.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m adaptthink.models.make_tiny")
    parser.add_argument("out", help="the folder to write")
    parser.add_argument("--base", choices=BASES, default="tiny")
    arguments = parser.parse_args()
    main(arguments.out, arguments.base)
