r"""AdaptThink (arXiv 2505.13417) in one file: a reasoning model learns when to think. Read it from top to bottom;
it trains the embedded reasoner in a few minutes on one CPU core.

Left out, because the method has none of it: value network, KL penalty, entropy bonus, group mean or deviation.
Left out, because the library has it and it would hide the method: a fast engine (`model.generate` waits for the
longest answer), micro-batches, GPUs, checkpoints, warm-up, confidence intervals, other model families: here the chat
template must open the thought with <think>, and the model must answer in \boxed{} unasked.

Shapes: B responses, P prompt tokens (padded at the left), T response tokens, S = P + T, V vocabulary.
"""

import argparse
import hashlib
import math
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Path(__file__).resolve().parents[1] / "src/adaptthink/models/tiny"
DELTA, CLIP, TEMPERATURE = 0.05, 0.2, 1.0  # δ and ε are the paper's
MAX_THINK_TOKENS, MAX_NO_THINK_TOKENS = 128, 16
CLOSE, THINK_START = "</think>", "Alright"  # the decision tokens; the second is w_start in the paper
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": TEMPERATURE, "return_dict_in_generate": True}
SAMPLING |= {"output_scores": True, "top_p": 1.0, "top_k": 0}  # its default, 50, would sample from another policy
OPERATIONS_BY_LEVEL = {1: 1, 2: 2, 3: 3, 4: 6, 5: 9}
TRAIN, HELD_OUT = range(50, 70), range(75, 100)  # percent of all problems; the embedded model was made from 0 to 49
TRAIN_PER_LEVEL, HELD_OUT_PER_LEVEL, PROBE_STRIDE = 160, 80, 10  # the probe looks at every tenth held-out problem


class Problem(NamedTuple):
    """A chain of additions and subtractions such as 47+8-3=?, whose running values stay within 0..99."""

    question: str
    answer: int


def make_problems(split: range, per_level: int, seed: int) -> list[Problem]:
    """Make distinct problems, level by level. A hash of its text puts a problem into its split: no overlap."""
    rng, problems = random.Random(seed), dict[Problem, None]()
    for level, operations in enumerate(OPERATIONS_BY_LEVEL.values(), start=1):
        while len(problems) < level * per_level:
            text = str(value := rng.randint(1, 99))
            for _ in range(operations):
                step = rng.choice([step for step in range(-9, 10) if step != 0 and 0 <= value + step <= 99])
                value, text = value + step, f"{text}{step:+d}"
            if int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100 in split:
                problems[Problem(f"{text}=?", value)] = None
    return list(problems)


def is_correct(response: str, answer: int) -> bool:
    r"""Compare the last \boxed{n} after the last </think>; a thought that never closes answers nothing."""
    _, closed, solution = response.rpartition(CLOSE)
    boxed = re.findall(r"\\boxed\{(-?\d+)\}", solution)
    return bool(closed and boxed) and int(boxed[-1]) == answer


class Rollouts(NamedTuple):
    """Graded responses. `behavior_BT` is log π_IS: data, written when a token is sampled and never recomputed."""

    ids_BS: Tensor
    attention_BS: Tensor
    behavior_BT: Tensor
    mask_BT: Tensor  # True up to and including the end token
    no_think_B: Tensor
    reward_B: Tensor


def sample(model: Any, tokenizer: Any, problems: list[Problem], first: str | None) -> Rollouts:
    """Sample one response to each problem: unconstrained (None), or with `first` forced as its first token."""
    chats = [[{"role": "user", "content": problem.question}] for problem in problems]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt")
    prompt_BP, attention_BP = prompts["input_ids"], prompts["attention_mask"]
    close_id = tokenizer.convert_tokens_to_ids(CLOSE)
    num_forced, max_tokens = 0 if first is None else 1, MAX_NO_THINK_TOKENS if first == CLOSE else MAX_THINK_TOKENS
    given_BS = pad(prompt_BP, (0, num_forced), value=tokenizer.convert_tokens_to_ids(first or CLOSE))
    attend_BS = pad(attention_BP, (0, num_forced), value=1)
    output = model.generate(given_BS, attention_mask=attend_BS, max_new_tokens=max_tokens - num_forced, **SAMPLING)
    response_BT = output.sequences[:, prompt_BP.shape[1] :]
    sampled_BT = token_logprobs(torch.stack(output.scores, dim=1), response_BT[:, num_forced:])
    is_end_BT = response_BT == tokenizer.eos_token_id
    mask_BT = is_end_BT.cumsum(1) - is_end_BT.long() == 0
    answers = [tokenizer.decode(ids_T[mask_T]) for ids_T, mask_T in zip(response_BT, mask_BT, strict=True)]
    correct = [is_correct(text, problem.answer) for text, problem in zip(answers, problems, strict=True)]
    return Rollouts(
        ids_BS=output.sequences,
        attention_BS=torch.cat([attention_BP, mask_BT.long()], dim=1),
        # THE PAPER, Eq. 7: π_IS of the forced decision token is 0.5; of every other token, what the sampler gave it.
        behavior_BT=pad(sampled_BT, (num_forced, 0), value=math.log(0.5)),
        mask_BT=mask_BT,
        no_think_B=response_BT[:, 0] == close_id,
        reward_B=(torch.tensor(correct) & is_end_BT.any(1)).float(),  # what was truncated earns nothing
    )


def reference_rewards(model: Any, tokenizer: Any, problems: list[Problem], count: int) -> list[float]:
    """R̄_ref of each problem: the mean reward of K = `count` free samples. Call it while the model is still π_ref."""
    repeated = [problem for problem in problems for _ in range(count)]
    return sample(model, tokenizer, repeated, first=None).reward_B.view(-1, count).mean(1).tolist()


def advantage(no_think_B: Tensor, reward_B: Tensor, reference_B: Tensor) -> Tensor:
    """THE PAPER, Eq. 5: A = δ·1(y₁ = </think>) + R − R̄_ref. Not thinking may cost δ of accuracy, and no more."""
    return DELTA * no_think_B.float() + reward_B - reference_B


def token_logprobs(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Log-probability of each token; logits are at the sampling temperature, position t predicting token t."""
    return logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[..., None]).squeeze(-1)


def policy_logprobs(model: Any, samples: Rollouts) -> Tensor:
    """log π_θ of every response token, (B, T), with gradient."""
    num_tokens = samples.mask_BT.shape[1]
    positions_BS = (samples.attention_BS.cumsum(1) - 1).clamp(min=0)  # padding at the left does not count
    inputs = {"input_ids": samples.ids_BS, "attention_mask": samples.attention_BS, "position_ids": positions_BS}
    logits_BTV = model(**inputs, logits_to_keep=num_tokens + 1).logits[:, :-1]
    return token_logprobs(logits_BTV / TEMPERATURE, samples.ids_BS[:, -num_tokens:])


def policy_loss(logprob_BT: Tensor, behavior_BT: Tensor, advantage_B: Tensor, mask_BT: Tensor) -> Tensor:
    """One clipped loss for each response, (B,).

    The ratio is length-normalised, (π_θ(y)/π_IS(y))^(1/T), as in the official code and unlike Eq. 9: before training
    P(</think>) is nearly 0, so the literal ratio is too, and with it the gradient. Each batch serves one update, so
    every token but the decision starts at π_θ = π_IS.
    """
    log_ratio_BT = torch.where(mask_BT, logprob_BT - behavior_BT, 0.0)
    ratio_B = (log_ratio_BT.sum(1) / mask_BT.sum(1)).exp()
    # THE PAPER, Eq. 8-9: −min(r·A, clip(r, 1−ε, 1+ε)·A) with r = π_θ/π_IS
    return -torch.minimum(ratio_B * advantage_B, ratio_B.clamp(1 - CLIP, 1 + CLIP) * advantage_B)


def evaluate(model: Any, tokenizer: Any, problems: list[Problem]) -> list[list[float]]:
    """Accuracy, response tokens and no_think share by level, from one free response to each problem."""
    rollouts = sample(model, tokenizer, problems, first=None)
    return [mean_by_level(values_B) for values_B in (rollouts.reward_B, rollouts.mask_BT.sum(1), rollouts.no_think_B)]


def mean_by_level(values_B: Tensor) -> list[float]:
    """Average over each level; problems stand level by level, equally many of each."""
    return values_B.float().view(len(OPERATIONS_BY_LEVEL), -1).mean(1).tolist()


def main(argv: list[str] | None = None) -> Any:
    """Train, print, and return the model."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", default=str(TINY), help="folder or hub id (the embedded reasoner)")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps (100)")
    parser.add_argument("--problems", type=int, default=80, help="problems in each step (80)")
    parser.add_argument("--samples", type=int, default=4, help="K, samples of each problem, half in each mode (4)")
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate, constant (1e-4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.samples < 2 or args.samples % 2:
        parser.error(f"--samples must be even, for one half of them in each mode; got {args.samples}")
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    train = make_problems(TRAIN, TRAIN_PER_LEVEL, args.seed)
    held_out = make_problems(HELD_OUT, HELD_OUT_PER_LEVEL, args.seed)
    probe = sample(model, tokenizer, held_out[::PROBE_STRIDE], first=CLOSE)
    before = evaluate(model, tokenizer, held_out)
    reference: dict[Problem, float] = {}
    for start in range(0, len(train), args.problems):
        part = train[start : start + args.problems]
        reference |= zip(part, reference_rewards(model, tokenizer, part, args.samples), strict=True)
    for step in range(args.steps):
        chosen = random.Random(f"{args.seed}/{step}").sample(train, args.problems)
        repeated = [problem for problem in chosen for _ in range(args.samples // 2)]
        reference_B = torch.tensor([reference[problem] for problem in repeated])
        no_think, think = (sample(model, tokenizer, repeated, first) for first in (CLOSE, THINK_START))
        for rollouts in (no_think, think):
            advantage_B = advantage(rollouts.no_think_B, rollouts.reward_B, reference_B)
            loss_B = policy_loss(policy_logprobs(model, rollouts), rollouts.behavior_BT, advantage_B, rollouts.mask_BT)
            (loss_B.mean() / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # a wrong answer weighs twenty right ones
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():  # the decision token of the probe shows P(no_think), and nothing needs to be sampled
            probed = mean_by_level(policy_logprobs(model, probe)[:, 0].exp())
        rewards = f"think {think.reward_B.mean():.2f} no_think {no_think.reward_B.mean():.2f}"
        print(f"step {step + 1}  reward {rewards}  P(no_think) by level", *(f"{p:.3f}" for p in probed), flush=True)
    print("level         accuracy           tokens   no_think share")
    for level, *pairs in zip(OPERATIONS_BY_LEVEL, *map(zip, before, evaluate(model, tokenizer, held_out)), strict=True):
        print(level, *(f"{old:7.2f} → {new:6.2f}" for old, new in pairs), sep="    ")
    return model


if __name__ == "__main__":
    main()
