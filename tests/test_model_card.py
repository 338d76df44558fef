"""The card of a trained model, read back by huggingface_hub, which shows it."""

import pytest
from huggingface_hub import ModelCard

from adaptthink.config.schema import TrainConfig
from adaptthink.models.card import write_card


@pytest.mark.parametrize(
    ("model", "base"), [("org/name", "org/name"), ("tiny", None), ("/some/folder/name", None), ("./models/name", None)]
)
def test_only_a_hub_id_is_named_as_the_base(tmp_path, model, base):
    write_card(tmp_path, TrainConfig(model=model), backend="native")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == base
    assert card.data.get("library_name") == "transformers"
    assert "arxiv:2505.13417" in card.data.tags


def test_the_card_does_not_say_where_it_was_done(tmp_path):
    config = TrainConfig(model="/home/somebody/model", endpoint=("http://host:1",), engine="openai", device="cpu")
    write_card(tmp_path, config, backend="native")
    content = (tmp_path / "README.md").read_text()
    assert "somebody" not in content
    assert "host" not in content
    assert "Trained from `model` with" in content


def test_the_card_says_what_was_done(tmp_path):
    write_card(tmp_path, TrainConfig(delta=0.075, steps=7, seed=3, think_start='a "b"'), backend="verl 0.9.1")
    content = (tmp_path / "README.md").read_text()
    assert "delta 0.075" in content
    assert "7 steps of 128 problems x 16 responses" in content
    assert "Backend: verl 0.9.1." in content
    assert content.count("steps = 7\ndelta = 0.075\n") == 1
    assert 'think_start = "a \\"b\\""' in content
    assert "learning_rate =" not in content  # a default
