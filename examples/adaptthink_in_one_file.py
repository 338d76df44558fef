r"""AdaptThink (arXiv 2505.13417) in one file: a reasoning model learns when to think. Read it from top to bottom.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Path(__file__).resolve().parents[1] / "src/adaptthink/models/tiny"
DELTA, CLIP, TEMPERATURE = 0.05, 0.2, 1.0  # δ and ε are the paper's
THINK_CAP, NO_THINK_CAP = 128, 16  # response tokens
CLOSE, THINK_OPENER = "</think>", "Alright"  # the decision tokens; the second is w_start in the paper
OPERATIONS_BY_LEVEL = {1: 1, 2: 2, 3: 3, 4: 6, 5: 9}
TRAIN, HELD_OUT = range(50, 70), range(75, 100)  # percent of all problems; the embedded model was made from 0 to 49
PER_LEVEL, PROBE_EVERY = 40, 5  # problems of each split; the probe looks at every fifth held-out one


# ---- Problems: chains such as 47+8-3=? whose running values stay within 0..99, and an exact checker


@dataclass(frozen=True)
class Problem:
    """A question with its exact answer."""

    question: str
    answer: int
    level: int


def make_problems(split: range, per_level: int, seed: int) -> list[Problem]:
    """Draw distinct problems, level by level. A hash of its text puts a problem into its split: no overlap."""
    rng, problems = random.Random(seed), dict[Problem, None]()
    for level, operations in OPERATIONS_BY_LEVEL.items():
        wanted = len(problems) + per_level
        while len(problems) < wanted:
            value = rng.randint(1, 99)
            text = str(value)
            for _ in range(operations):
                step = rng.choice([step for step in range(-9, 10) if step != 0 and 0 <= value + step <= 99])
                value, text = value + step, f"{text}{step:+d}"
            if int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100 in split:
                problems[Problem(f"{text}=?", value, level)] = None
    return list(problems)


def is_correct(response: str, answer: int) -> bool:
    r"""Compare the last \boxed{n} after the last </think>; a thought that never closes answers nothing."""
    _, closed, solution = response.rpartition(CLOSE)
    boxed = re.findall(r"\\boxed\{(-?\d+)\}", solution)
    return bool(closed and boxed) and int(boxed[-1]) == answer


# ---- Sampling: every token with its log-probability under the policy that really drew it


@dataclass(frozen=True)
class Samples:
    """Graded responses. `behavior_BT` is log π_IS: data, written when a token is drawn and never recomputed."""

    ids_BS: Tensor
    attention_BS: Tensor
    behavior_BT: Tensor
    mask_BT: Tensor  # True up to and including the end token
    no_think_B: Tensor
    reward_B: Tensor


def sample(model: Any, tokenizer: Any, problems: list[Problem], first: str | None) -> Samples:
    """Draw one response to each problem: free (None), or with its first token forced, as in half of all samples."""
    chats = [[{"role": "user", "content": problem.question}] for problem in problems]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    forced = 0 if first is None else 1
    batch = tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    prompt_BP, attention_BP = batch["input_ids"], batch["attention_mask"]
    first_id = tokenizer.convert_tokens_to_ids(first or CLOSE)
    forced_BT = torch.full((len(problems), forced), first_id)
    # top_k=0: the default of 50 would draw from another distribution than the one that is trained.
    options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "output_scores": True}
    drawn = model.generate(
        input_ids=torch.cat([prompt_BP, forced_BT], dim=1),
        attention_mask=torch.cat([attention_BP, torch.ones_like(forced_BT)], dim=1),
        max_new_tokens=(NO_THINK_CAP if first == CLOSE else THINK_CAP) - forced,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        **options,
    )
    response_BT = drawn.sequences[:, prompt_BP.shape[1] :]
    # THE PAPER, Eq. 7: π_IS of the decision token is 0.5; of every other token it is what the sampler gave it.
    decision_BT = torch.full(forced_BT.shape, math.log(0.5))
    sampled_BT = token_logprobs(torch.stack(drawn.scores, dim=1), response_BT[:, forced:])
    is_end_BT = response_BT == tokenizer.eos_token_id
    mask_BT = is_end_BT.cumsum(1) - is_end_BT.long() == 0
    texts = [tokenizer.decode(ids_T[mask_T]) for ids_T, mask_T in zip(response_BT, mask_BT, strict=True)]
    correct = [is_correct(text, problem.answer) for text, problem in zip(texts, problems, strict=True)]
    return Samples(
        ids_BS=drawn.sequences,
        attention_BS=torch.cat([attention_BP, mask_BT.long()], dim=1),
        behavior_BT=torch.cat([decision_BT, sampled_BT], dim=1),
        mask_BT=mask_BT,
        no_think_B=response_BT[:, 0] == tokenizer.convert_tokens_to_ids(CLOSE),
        reward_B=(torch.tensor(correct) & is_end_BT.any(1)).float(),  # what ran into its cap earns nothing
    )


def reference_reward(model: Any, tokenizer: Any, problem: Problem, count: int) -> float:
    """R̄_ref(x): the mean reward of K = `count` free samples; called before training, while the model is π_ref."""
    return sample(model, tokenizer, [problem] * count, first=None).reward_B.mean().item()


# ---- The objective


def advantage(no_think_B: Tensor, reward_B: Tensor, reference_B: Tensor) -> Tensor:
    """THE PAPER, Eq. 5: A = δ·1(y₁ = </think>) + R − R̄_ref. Not thinking may cost δ of accuracy, and no more."""
    return DELTA * no_think_B.float() + reward_B - reference_B


def token_logprobs(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Log-probability of each token; logits are at the sampling temperature, position t predicting token t."""
    return logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[..., None]).squeeze(-1)


def policy_logprobs(model: Any, samples: Samples) -> Tensor:
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


# ---- Training


def by_level(problems: list[Problem], values_B: Tensor) -> list[float]:
    """Average over the problems of each level."""
    level_B = torch.tensor([problem.level for problem in problems])
    return [values_B[level_B == level].float().mean().item() for level in OPERATIONS_BY_LEVEL]


def evaluate(model: Any, tokenizer: Any, problems: list[Problem]) -> list[list[float]]:
    """Accuracy, response tokens and no_think share by level, from one free response to each problem."""
    drawn = sample(model, tokenizer, problems, first=None)
    return [by_level(problems, values_B) for values_B in (drawn.reward_B, drawn.mask_BT.sum(1), drawn.no_think_B)]


def main(argv: list[str] | None = None) -> Any:
    """Train, print, and return the model."""
    parser = argparse.ArgumentParser(description="AdaptThink in one file", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=str(TINY), help="folder or hub id")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--problems", type=int, default=20, help="problems per step")
    parser.add_argument("--samples", type=int, default=16, help="samples per problem, K: half of them think")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.samples < 2 or args.samples % 2:
        parser.error(f"--samples must be even, so that half of them can think; got {args.samples}")
    ...
