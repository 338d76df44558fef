"""The page's routes: public, of this server alone, and with examples whose answers are right."""

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import adaptthink
from adaptthink.config.schema import ServeConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.models.embedded import EMBEDDED, is_embedded
from adaptthink.models.loading import load_policy
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.static import is_public, list_examples
from adaptthink.serving.worker import Worker

FOLDER = Path(adaptthink.__file__).parent / "serving" / "page"


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture
def client(policy):
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    app = make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), ServeConfig(api_key=("secret",)))
    with TestClient(app) as client:
        yield client


def test_the_page_is_public_and_the_api_is_not(client):
    files = [f"/page/{path.name}" for path in FOLDER.iterdir() if path.name != "index.html"]
    assert len(files) == 5
    for path in ["/", "/page/examples.json", *files]:
        assert client.get(path).status_code == 200
        assert client.head(path).status_code == 200
        assert client.post(path).status_code == 405
    for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/pages", "/page"):
        assert client.get(path).status_code == 401
    assert client.get("/page/../v1/models").status_code != 200
    assert client.get("/page/%2e%2e/app.py").status_code == 404
    assert not is_public("/v1/page/")


def test_the_page_is_what_the_package_holds_and_may_ask_its_server_only(client):
    answer = client.get("/")
    assert answer.content == (FOLDER / "index.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(rule.split(maxsplit=1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert rules["require-trusted-types-for"] == "'script'"
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_all_that_the_page_loads_is_there_and_nothing_is_elsewhere(client):
    for name in ("index.html", "app.js", "api.js", "style.css", "maths.js"):
        text = (FOLDER / name).read_text()
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\x22']*", text))
        assert addresses <= {"http://www.w3.org/1998/Math/MathML"}
        for path in re.findall(r"[\x22'](page/[\w./]+)[\x22']", text):
            assert client.get(f"/{path}").status_code == 200
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|style=\x22|onclick=", text)


def test_examples_have_five_levels_and_right_answers(client):
    page = client.get("/page/examples.json").json()
    assert page["conversation"] is False
    assert "0.001" in page["about"]
    assert {one["level"] for one in page["examples"]} == {1, 2, 3, 4, 5}
    for one in page["examples"]:
        terms = re.fullmatch(r"([\d+-]+)=\?", one["prompt"]).group(1)
        assert sum(map(int, re.findall(r"[+-]?\d+", terms))) == int(one["answer"])


def test_another_models_examples_are_of_general_kind(policy, tmp_path):
    assert all(is_embedded(load_policy(name).tokenizer) for name in EMBEDDED)
    policy.tokenizer.save_pretrained(tmp_path)
    other = type(policy.tokenizer).from_pretrained(tmp_path)
    assert is_embedded(other)  # a model that was trained from it
    other.chat_template += " "
    page = list_examples(other)
    assert page["conversation"] is True
    assert {one["level"] for one in page["examples"]} == {None}
    json.dumps(page)
