"""Fixtures: a small random model with the embedded tokenizer, so that tests need no trained weights."""

import os
from pathlib import Path

import pytest
import torch

from adaptthink.models import Policy, eos_ids
from adaptthink.models.make_tiny import make_model, make_tokenizer
from adaptthink.modes import probe


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def random_model(tokenizer):
    """Two layers, random weights, float32: different tokens get clearly different logits."""
    torch.manual_seed(0)
    model = make_model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.fixture
def random_policy(tokenizer, random_model):
    return Policy("random", random_model, tokenizer, probe(tokenizer), eos_ids(random_model, tokenizer))


@pytest.fixture(scope="session")
def data_folder():
    """The folder with local copies of the named sets: ADAPTTHINK_DATA, data/ here, or shared/data beside the repo."""
    repo = Path(__file__).parents[1]
    given = os.environ.get("ADAPTTHINK_DATA")
    for folder in (Path(given) if given else None, repo / "data", repo.parent / "shared/data"):
        if folder and (folder / "gsm8k_train.jsonl").is_file():
            return folder
    pytest.skip("no local copies of the problem sets: put them into data/ or name their folder in ADAPTTHINK_DATA")
