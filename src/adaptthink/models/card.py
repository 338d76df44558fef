"""The card of a trained model: README.md in its folder, as Hugging Face reads it, for every backend."""

from __future__ import annotations

import json
from pathlib import Path

from adaptthink.config.schema import HOW, SftConfig, TrainConfig
from adaptthink.errors import redact
from adaptthink.models.loading import is_hub_id

PAPER = "2505.13417"
EXCLUDED = HOW | {"engine", "gpus_per_node", "model", "nodes"}


def write_card(folder: Path, config: TrainConfig, *, backend: str, sampled: bool = True) -> None:
    """Write README.md of a model that was trained from `config`; `backend` is what trained it, such as "verl 0.9.1".

    `sampled` says whether it learned from its own samples, and not from stored responses.

    The card has the settings; the report of a run whose model was evaluated adds the results.
    """
    save_card(folder, config, format_card(config, backend, sampled=sampled))


def write_start_card(folder: Path, config: SftConfig, *, backend: str, added: str, result: str) -> None:
    """Write README.md of a model after its cold start; `added` is what it was given, `result` its held-out losses."""
    base = config.model if is_hub_id(config.model) else Path(config.model).name
    text = f"""
# {Path(config.model).name}, which thinks

`{base}` after a cold start for AdaptThink ([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})): it thinks before it
answers, and can answer at once where that is forced. `adaptthink train` teaches it when to do which.

* {config.steps} steps of {config.traces_per_step} traces, each with its thought and answered at once.
* Think tokens and template: {added}.
* {result[:1].upper() + result[1:]}.
* Backend: {backend}.
"""
    save_card(folder, config, text)


def save_card(folder: Path, config: TrainConfig | SftConfig, text: str) -> None:
    """Write a card: what Hugging Face reads, the text, and the settings other than the defaults."""
    from huggingface_hub import ModelCard, ModelCardData  # noqa: PLC0415  (slow to import)

    data = ModelCardData(
        base_model=config.model if is_hub_id(config.model) else None,
        library_name="peft" if (folder / "adapter_config.json").is_file() else "transformers",
        pipeline_tag="text-generation",
        tags=["adaptthink", "reasoning", f"arxiv:{PAPER}"],
    )
    changed = config.model_dump(mode="json", exclude_defaults=True, exclude=set(EXCLUDED))
    settings = redact("\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in changed.items()))
    footer = f"\nSettings other than the defaults:\n\n```toml\n{settings}\n```\n"
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}{footer}").save(folder / "README.md")


def format_card(config: TrainConfig, backend: str, *, sampled: bool) -> str:
    """Return the card's text."""
    samples = f"{config.samples_per_problem} responses" if sampled else "the base model's stored responses"
    objective = f"""\
* delta {config.delta:g}: how much accuracy an answer without thinking may cost. Share of forced no_think samples \
{config.no_think_share:g}, ratio {config.ratio}, clip {config.clip:g}, learning rate {config.learning_rate:g}.
"""
    if not sampled:
        objective = f"* Method {config.method}, learning rate {config.learning_rate:g}.\n"
    base = config.model if is_hub_id(config.model) else Path(config.model).name
    return f"""
# {Path(config.model).name}, taught when to think

Trained from `{base}` with AdaptThink ([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})): the model may begin its
response with the token that ends the thinking where it expects no benefit from thinking. No prompt or switch is needed.

* Problems: `{config.problems}`; {config.steps} steps of {config.problems_per_step} problems x {samples}.
{objective}\
* Maximum tokens in training: {config.max_think_tokens} with thinking, {config.max_no_think_tokens} without.
* Backend: {backend}.

`adaptthink evaluate FOLDER` measures accuracy, length and the share of answers without thinking; `adaptthink
calibrate FOLDER` chooses the trade-off between them, `adaptthink serve FOLDER` an OpenAI-style server.
"""
