"""Rollouts made by hand, for tests of what learns from them."""

from adaptthink.engines.base import Finish
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.modes import Mode
from adaptthink.sampling.reading import Response
from adaptthink.sampling.sampler import Rollout


def make_rollout(problem, mode, prompt_ids, response_ids, logprobs, num_forced, verdict, weight=1.0, answer="2"):
    """A rollout with these tokens; its thinking is some text in think mode."""
    thinking = "1+1" if mode is Mode.THINK else None
    response = Response(mode, thinking, answer, Finish.STOP, len(response_ids), 0)
    grade = Grade(verdict, None, Rule.EXACT)
    return Rollout(problem, prompt_ids, tuple(response_ids), tuple(logprobs), num_forced, response, grade, weight)


def correct(problem, mode, prompt_ids, response_ids, logprobs):
    """A rollout that is right, its first token forced."""
    return make_rollout(problem, mode, prompt_ids, response_ids, logprobs, 1, Verdict.CORRECT)
