"""The reference: K free thoughts per problem from the model before training, graded once and kept.

The store is an append-only JSONL file. Its first line holds the settings that made it; every other line holds one
problem, by id. A line is written only when all K samples of its problem are done, so a store that was interrupted
is simply shorter: a half-written last line is dropped, and what is missing is sampled with the same random streams
as it would have been without the interruption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptthink.config import PresampleConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict, mean_reward
from adaptthink.rollout import Caps, Sampler, Sampling, draw, stream_seed
from adaptthink.tasks import Problem


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference model did on one problem; the tuples run over its K samples."""

    id: str
    verdicts: tuple[Verdict, ...]
    tokens: tuple[int, ...]

    @property
    def reward(self) -> float | None:
        """R̄_ref(x), the mean reward; None for a problem that cannot be graded."""
        return mean_reward(self.verdicts)


def store_settings(config: PresampleConfig, fingerprint: str) -> dict[str, Any]:
    """Everything that the content of a store depends on."""
    return {
        "model_fingerprint": fingerprint,
        "samples": config.reference_samples,
        "temperature": config.reference_temperature,
        "top_p": config.reference_top_p,
        "max_tokens": max(config.max_think_tokens, config.max_no_think_tokens),
        "seed": config.seed,
        "boxed_only": config.boxed_only,
    }


def presample(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: PresampleConfig,
    *,
    fingerprint: str,
    path: Path,
    on_finish: Callable[[int], None] | None = None,
) -> dict[str, Reference]:
    """Return the reference of every problem, sampling those that `path` does not hold yet.

    `on_finish` is called with numbers of finished responses; those found in the store count at once. Raises
    UserError if the store was made with other settings.
    """
    settings = store_settings(config, fingerprint)
    found = read_store(path, settings)
    missing = [problem for problem in problems if problem.id not in found]
    if on_finish and len(missing) < len(problems):
        on_finish((len(problems) - len(missing)) * config.reference_samples)
    caps = Caps(config.max_think_tokens, config.max_no_think_tokens)
    seed = stream_seed(config.seed, "reference")
    sampling = Sampling(caps, config.reference_temperature, config.reference_top_p, seed)
    chunk = max(1, config.max_rows // config.reference_samples)
    with path.open("a", encoding="utf-8") as store:
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            groups = draw(sampler, part, [None] * config.reference_samples, sampling, on_finish=on_finish)
            for problem, group in zip(part, groups, strict=True):
                verdicts = tuple(rollout.verdict for rollout in group)
                tokens = tuple(len(rollout.response_ids) for rollout in group)
                found[problem.id] = Reference(problem.id, verdicts, tokens)
                store.write(json.dumps(asdict(found[problem.id])) + "\n")
            store.flush()
            os.fsync(store.fileno())
    return {problem.id: found[problem.id] for problem in problems}


def read_store(path: Path, settings: Mapping[str, Any]) -> dict[str, Reference]:
    """Read the rows of a store made with `settings`, by problem id; make an empty one if there is none.

    A last line without its end was cut by an interruption and is removed from the file. Raises UserError for a
    store made with other settings, naming the difference, and for a file that is no store.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; a reference store is a JSONL file")
    header = json.dumps({"settings": dict(settings)}) + "\n"
    content = path.read_bytes() if path.is_file() else b""
    if header.encode().startswith(content):  # none yet, or one that was cut in its first line
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header, encoding="utf-8")
        return {}
    whole = content[: content.rfind(b"\n") + 1] or content
    lines = whole.decode("utf-8", errors="replace").splitlines()
    check_settings(path, lines[0], settings)
    rows = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = json.loads(line)
            reference = Reference(row["id"], tuple(Verdict(v) for v in row["verdicts"]), tuple(row["tokens"]))
            if not len(reference.verdicts) == len(reference.tokens) == settings["samples"]:
                raise ValueError("samples are missing")
            rows[reference.id] = reference
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}, line {number}: damaged; remove that line, and its problem is sampled again"
            ) from None
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return rows


def check_settings(path: Path, header: str, settings: Mapping[str, Any]) -> None:
    """Compare a store's first line with the settings asked for."""
    try:
        made_with = dict(json.loads(header)["settings"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{path}' is not a reference store: its first line holds no settings") from None
    changed = [key for key in settings if made_with.get(key) != settings[key]]
    if changed:
        differences = ", ".join(f"{key} {made_with.get(key)!r}, now {settings[key]!r}" for key in changed)
        raise UserError(f"reference store '{path}' was made with other settings: {differences}; give another path")
