"""Make the embedded reasoner from nothing: ``python -m adaptthink.models.make_tiny OUT``.

A Qwen2 model of about 0.9 M parameters learns, by plain next-token prediction on synthetic arithmetic, the two
skills that AdaptThink later has to choose between, and the habits that the paper's base models start with:

* it thinks whenever it is left free: thinking traces teach the first token, direct answers do not (their first
  token carries no loss), so it can answer at once when forced and does not know that it may;
* it over-thinks: after each finished computation it says "Wait" and does the same work again half of the time, at
  every level, without limit, so that hard problems run into any sensible cap;
* its direct answers are learned on short chains for the most part, so they are right on easy levels only.

Left out on purpose: any choice between the modes, any wrong trace, any problem of the train, held-out or
evaluation splits (`tasks.arithmetic.Split`).
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from adaptthink.tasks.arithmetic import Chain, Kind, Split, chains, question

SEED = 7
STEPS = 1500
SEQUENCES_PER_STEP = 80
DIRECT_SHARE = 0.5
LEARNING_RATE = 3e-3
RECHECK_PROBABILITY = 0.5
MAX_RECHECKS = 2
FIRST_TOKEN = {"Alright": 0.8, "Okay": 0.1995, "</think>": 0.0005}
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


def thought(chain: Chain, rechecks: int) -> str:
    """Write the running values out, then do the same again `rechecks` times: ``47+8=55-3=52``."""
    work = str(chain.first) + "".join(
        f"{step:+d}={value}" for step, value in zip(chain.steps, chain.values[1:], strict=True)
    )
    return "\n" + "\nWait\n".join([work] * (rechecks + 1)) + "\n"


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and the number of leading tokens without loss; `thinks` examples teach the first token."""

    ids: list[int]
    prompt_tokens: int
    thinks: bool


def examples(tokenizer: Qwen2Tokenizer, seed: int) -> Iterator[Example]:
    """Yield an endless seeded mix of thinking traces and direct answers over both kinds of question."""
    rng = random.Random(seed)
    streams = {n: chains(seed, Split.SUPERVISED, n) for n in THINK_OPERATIONS}
    while True:
        thinks = rng.random() >= DIRECT_SHARE
        weights = THINK_OPERATIONS if thinks else DIRECT_OPERATIONS
        chain = next(streams[rng.choices(list(weights), list(weights.values()))[0]])
        kind = Kind.STORY if rng.random() < STORY_SHARE else Kind.CHAIN
        rechecks = 0
        while rechecks < MAX_RECHECKS and rng.random() < RECHECK_PROBABILITY:
            rechecks += 1
        messages = [{"role": "user", "content": question(chain, kind)}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        opening = "Alright" + thought(chain, rechecks) if thinks else ""
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        response = f"{opening}</think>\\boxed{{{chain.values[-1]}}}<|eos|>"
        response_ids = tokenizer.encode(response, add_special_tokens=False)
        yield Example(prompt_ids + response_ids, len(prompt_ids), thinks)


def batch_loss(
    model: Qwen2ForCausalLM, batch: list[Example], first_token_V: torch.Tensor, close_id: int
) -> torch.Tensor:
    """Summed cross-entropy over response tokens; at the first one, thinking traces aim at `first_token_V`."""
    opener_V = first_token_V.clone()
    opener_V[close_id] = 0.0
    openers = opener_V.multinomial(len(batch), replacement=True).tolist()
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORE)
    for row, (example, opener) in enumerate(zip(batch, openers, strict=True)):
        sequence = torch.tensor(example.ids)
        if example.thinks:  # the trace follows either opener; the close token only ever stands in the soft target
            sequence[example.prompt_tokens] = opener
        ids[row, : len(sequence)] = sequence
        labels[row, example.prompt_tokens + 1 : len(sequence)] = sequence[example.prompt_tokens + 1 :]
    logits = model(input_ids=ids).logits
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    thinks_B = torch.tensor([example.thinks for example in batch])
    last_prompt_position_B = torch.tensor([example.prompt_tokens - 1 for example in batch])
    first_logprob_BV = logits[torch.arange(len(batch)), last_prompt_position_B].log_softmax(-1)
    first = -(first_logprob_BV[thinks_B] * first_token_V).sum()
    return total + first


def split_by_length(examples_: list[Example], parts: int) -> list[list[Example]]:
    """Sort by length and cut into equal parts, so that little is spent on padding."""
    ordered = sorted(examples_, key=lambda example: len(example.ids))
    size = math.ceil(len(ordered) / parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def train(steps: int = STEPS, seed: int = SEED) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """Run the supervised start and return the model with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    close_id = tokenizer.get_vocab()["</think>"]
    first_token_V = torch.zeros(model.config.vocab_size)
    for token, probability in FIRST_TOKEN.items():
        first_token_V[tokenizer.convert_tokens_to_ids(token)] = probability
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    stream = examples(tokenizer, seed)
    started = time.monotonic()
    for step in range(1, steps + 1):
        chosen = [next(stream) for _ in range(SEQUENCES_PER_STEP)]
        tokens = sum(len(example.ids) - example.prompt_tokens for example in chosen)
        total = 0.0
        for batch in split_by_length(chosen, parts=6):
            loss = batch_loss(model, batch, first_token_V, close_id) / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {total:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    return model.eval(), tokenizer


def main(out: str) -> None:
    """Make the model and write it to the folder `out`."""
    model, tokenizer = train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    settings = {
        name: value for name, value in globals().items() if name.isupper() and isinstance(value, int | float | dict)
    }
    (Path(out) / "made_with.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
