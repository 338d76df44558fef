"""Settings: which source wins, which values are refused, and what messages a person gets."""

import os
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from adaptthink.cli.settings import read_settings
from adaptthink.config.chat import (
    BUDGET_SWITCHES,
    EFFORT_SWITCHES,
    KEY_VARIABLES,
    SWITCHES,
    ChatConfig,
    Dialect,
    Switch,
)
from adaptthink.config.groups import GROUPS
from adaptthink.config.resolve import (
    READS,
    RECIPES,
    TABLES,
    check,
    find_recipe,
    list_keys,
    list_recipes,
    read_recipe,
    resolve,
    resolve_evaluation,
)
from adaptthink.config.schema import (
    HOW,
    PLANNED,
    EvaluateConfig,
    PresampleConfig,
    ServeConfig,
    SftConfig,
    TrainConfig,
    VerlConfig,
)
from adaptthink.errors import UserError

SHIPPED = sorted(RECIPES.rglob("*.toml"))
COMMANDS = {
    "presample": PresampleConfig, "train": TrainConfig, "verl": VerlConfig, "plan": VerlConfig,
    "evaluate": EvaluateConfig, "calibrate": EvaluateConfig, "serve": ServeConfig, "traces": EvaluateConfig,
    "sft": SftConfig,
}  # fmt: skip


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe; returns its path."""

    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(schema, **values):
    with pytest.raises(UserError) as caught:
        check(schema, values)
    return str(caught.value)


def test_defaults_are_those_of_the_paper():
    config = resolve("train", TrainConfig)
    assert config == TrainConfig()
    assert (config.delta, config.samples_per_problem, config.clip, config.steps) == (0.05, 16, 0.2, 314)
    assert (config.learning_rate, config.problems_per_step, config.no_think_share) == (2e-6, 128, 0.5)


def test_precedence(recipe, monkeypatch):
    """Each key is set at one level more than the one before; the last level that sets it wins."""
    one = recipe("clip = 0.11\nsteps = 11\ndelta = 0.11\nlearning_rate = 0.11\n", "one.toml")
    two = recipe("steps = 22\ndelta = 0.22\nlearning_rate = 0.22\n", "two.toml")
    monkeypatch.setenv("ADAPTTHINK_DELTA", "0.33")
    monkeypatch.setenv("ADAPTTHINK_LEARNING_RATE", "0.33")
    config = resolve("train", TrainConfig, recipes=[one, two], flags={"learning_rate": 0.44})
    assert config.max_grad_norm == 1.0
    assert (config.clip, config.steps, config.delta, config.learning_rate) == (0.11, 22, 0.33, 0.44)
    assert config.model_fields_set == {"clip", "steps", "delta", "learning_rate"}


def test_table_of_a_command_wins_over_the_top_and_is_for_that_command_alone(recipe):
    path = recipe("temperature = 0.5\nseed = 3\n[train]\ntemperature = 0.7\n[evaluate]\ntop_p = 0.8\nkind = 'story'\n")
    assert resolve("train", TrainConfig, recipes=[path]).temperature == 0.7
    assert resolve("evaluate", EvaluateConfig, recipes=[path]).temperature == 0.5
    assert resolve("evaluate", EvaluateConfig, recipes=[path]).kind == "story"
    presample = resolve("presample", PresampleConfig, recipes=[path])  # it has no temperature: passed over
    assert presample == PresampleConfig(seed=3)


def test_later_recipe_wins_even_from_its_top_over_an_earlier_table(recipe):
    one, two = recipe("[train]\nsteps = 1\n", "one.toml"), recipe("steps = 2\n", "two.toml")
    assert resolve("train", TrainConfig, recipes=[one, two]).steps == 2
    assert resolve("train", TrainConfig, recipes=[two, one]).steps == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_resolves_for_every_command(path, command):
    config = resolve(command, COMMANDS[command], recipes=[path.relative_to(RECIPES).with_suffix("")])
    assert config == resolve(command, COMMANDS[command], recipes=[path])
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for key, value in content.get(command, {}).items():
        assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value)


def test_recipes_that_are_for_use_are_listed_and_parts_of_reproduce_are_found_all_the_same():
    assert list_recipes() == [
        "qwen3_1.7b", "qwen3_4b", "qwen3_8b", "r1_distill_1.5b", "r1_distill_1.5b_24gb",
        "r1_distill_1.5b_one_gpu", "r1_distill_7b", "reproduce", "smollm2_135m_cpu", "toy_cpu",
        "toy_gap",
        "toy_offline",
    ]  # fmt: skip
    parts = {path.stem for path in SHIPPED if path.parent != RECIPES}
    assert parts == {
        "delta_0", "delta_0.01", "delta_0.02", "delta_0.075", "delta_0.1", "grpo", "ratio_sequence", "ratio_token",
        "bench", "story", "words_shifted",
    }  # fmt: skip
    assert all(find_recipe(f"reproduce/{part}").parent == RECIPES / "reproduce" for part in parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("delat = 0.1\n", "{path}: unknown key 'delat'; did you mean 'delta'?"),
        ("[train]\nstesp = 5\n", "{path} [train]: unknown key 'stesp'; did you mean 'steps'?"),
        ("[trian]\nsteps = 5\n", "{path}: unknown key 'trian'; did you mean 'train'?"),
        ("[evaluate]\nmode = 5\n", "{path} [evaluate]: unknown key 'mode'; did you mean 'model'?"),
        ("train = 5\n", "{path}: 'train' must be a table ([train]), not a value"),
        ("[[train]]\nsteps = 5\n", "{path}: 'train' must be a table ([train]), not a value"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_keys_in_a_recipe_are_found_by_every_command(recipe, text, message, command):
    path = recipe(text)
    with pytest.raises(UserError) as caught:
        resolve(command, COMMANDS[command], recipes=[path])
    assert str(caught.value) == message.format(path=path)


def test_key_of_another_command_does_not_belong_in_a_table(recipe):
    with pytest.raises(UserError, match=r"\[presample\]: unknown key 'clip'"):
        resolve("train", TrainConfig, recipes=[recipe("[presample]\nclip = 0.1\n")])


def test_unknown_key_without_a_near_one_lists_the_known(recipe):
    with pytest.raises(
        UserError,
        match=r"unknown key 'zzz'; known keys: all_problems, .*, clip, .*, kind, .*, warmup_steps$",
    ):
        read_recipe(recipe("zzz = 1\n"), "train")


def test_unknown_flag():
    assert refusal(TrainConfig, delat=0.1) == "TrainConfig: unknown key 'delat'; did you mean 'delta'?"
    with pytest.raises(UserError, match="did you mean 'top_p'"):
        resolve("evaluate", EvaluateConfig, flags={"topp": 0.5})


def test_unknown_variable(monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_DELAT", "0.1")
    with pytest.raises(UserError) as caught:
        resolve("train", TrainConfig)
    assert str(caught.value) == "environment: unknown key 'ADAPTTHINK_DELAT'; did you mean 'ADAPTTHINK_DELTA'?"


def test_variable_of_another_command_is_passed_over(monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_DELTA", "0.1")
    assert resolve("evaluate", EvaluateConfig) == EvaluateConfig()


def test_types_from_the_environment(monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_LEARNING_RATE", "1e-4")
    monkeypatch.setenv("ADAPTTHINK_STEPS", "12")
    config = resolve("train", TrainConfig)
    assert config.learning_rate == 1e-4
    assert isinstance(config.learning_rate, float)
    assert config.steps == 12
    assert isinstance(config.steps, int)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("learning_rate", "abc", "input should be a valid number, unable to parse string as a number"),
        ("learning_rate", "", "input should be a valid number, unable to parse string as a number"),
        ("steps", "1.5", "input should be a valid integer, unable to parse string as an integer"),
        ("steps", 1.5, "input should be a valid integer, got a number with a fractional part"),
        ("steps", 0, "input should be greater than or equal to 1"),
        ("steps", -3, "input should be greater than or equal to 1"),
        ("delta", 7, "input should be less than or equal to 1"),
        ("delta", -0.01, "input should be greater than or equal to 0"),
        ("delta", float("nan"), "input should be a finite number"),
        ("no_think_share", 1.5, "input should be less than or equal to 1"),
        ("no_think_share", -0.5, "input should be greater than or equal to 0"),
        ("learning_rate", 0, "input should be greater than 0"),
        ("learning_rate", float("inf"), "input should be a finite number"),
        ("max_grad_norm", "inf", "input should be a finite number"),
        ("clip", 1, "input should be less than 1"),
        ("temperature", 0, "input should be greater than 0"),
        ("reference_top_p", 1.01, "input should be less than or equal to 1"),
        ("keep_checkpoints", 1, "input should be greater than or equal to 2"),
        ("ratio", "tokn", "input should be 'sequence_mean', 'sequence' or 'token'"),
        ("model", 5, "input should be a valid string"),
    ],
)
def test_values_that_are_refused(key, value, complaint):
    assert refusal(TrainConfig, **{key: value}) == f"{key} = {value!r}: {complaint}"


def test_every_fault_is_named_in_one_line():
    message = refusal(TrainConfig, steps=0, delta=2, seed=1)
    assert message == (
        "steps = 0: input should be greater than or equal to 1; delta = 2: input should be less than or equal to 1"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("delta", 0), ("delta", 1), ("no_think_share", 0), ("no_think_share", 1), ("steps", 1)]
)
def test_ends_of_ranges_are_allowed(key, value):
    assert getattr(check(TrainConfig, {key: value}), key) == value


@pytest.mark.parametrize(
    ("samples", "share", "product", "advice"),
    [
        (16, 0.3, "4.8", "0.3125"),
        (3, 0.5, "1.5", "0.6666666666666666"),
        (1, 0.5, "0.5", "1.0"),  # not 0: that would train without forcing anything
        (16, 0.01, "0.16", "0.0625"),
    ],
)
def test_share_must_give_a_whole_number_of_samples(samples, share, product, advice):
    message = refusal(TrainConfig, samples_per_problem=samples, no_think_share=share)
    assert message == (
        f"no_think_share = {share} of samples_per_problem = {samples} is {product} samples; "
        f"choose a share that gives a whole number, such as {advice}"
    )
    check(TrainConfig, {"samples_per_problem": samples, "no_think_share": float(advice)})  # the advice holds


@pytest.mark.parametrize(("samples", "share"), [(16, 0), (16, 0.25), (10, 0.3), (3, 1 / 3), (7, 1), (100, 0.29)])
def test_shares_that_give_whole_numbers(samples, share):
    assert check(TrainConfig, {"samples_per_problem": samples, "no_think_share": share}).no_think_share == share


def test_share_is_checked_after_everything_is_merged(recipe, monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_SAMPLES_PER_PROBLEM", "10")
    path = recipe("[train]\nno_think_share = 0.3\n")  # does not divide the default of 16, but 10
    assert resolve("train", TrainConfig, recipes=[path]).no_think_share == 0.3


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"steps = \n", "Invalid value (at line 1, column 9)"), (b"# \xff\n", "'utf-8' codec can't decode byte 0xff")],
)
def test_file_that_is_no_toml(tmp_path, content, complaint):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}: not a valid TOML file: {complaint}")):
        read_recipe(path, "train")


@pytest.mark.parametrize("name", ["nowhere", "recipes/nowhere.toml", "."])
def test_missing_recipe_lists_the_known(name):
    with pytest.raises(UserError) as caught:
        find_recipe(name)
    known = ", ".join(list_recipes())
    assert str(caught.value) == f"no recipe '{name}': give the path of a TOML file or one of: {known}"


def test_configs_are_frozen():
    config = TrainConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.delta = 0.1


def test_describes_every_key():
    for schema in {*COMMANDS.values(), ChatConfig}:
        assert all(field.description for field in schema.model_fields.values())


def test_every_key_has_one_group_and_names_of_keys_are_names_of_keys():
    grouped = [key for keys in GROUPS.values() for key in keys]
    assert sorted(grouped) == sorted(list_keys())
    assert all(
        len([key for key in GROUPS["Main settings"] if key in one.model_fields]) <= 10 for one in COMMANDS.values()
    )
    assert list_keys() >= HOW | PLANNED
    assert {table for reads in READS.values() for table in reads.tables} == set(TABLES)


def test_what_a_dialect_needs_is_there_for_each():
    """A new dialect is two files: its line in each of these tables, and its module."""
    assert set(SWITCHES) == set(KEY_VARIABLES) == set(Dialect)
    assert {switch for switches in SWITCHES.values() for switch in switches} == set(Switch)
    assert {*EFFORT_SWITCHES, *BUDGET_SWITCHES} < set(Switch)


def test_training_reads_the_presample_table_too_and_its_own_wins(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("[presample]\nreference_samples = 3\nproblems_per_level = 7\n[train]\nproblems_per_level = 9\n")
    assert resolve("presample", PresampleConfig, recipes=[recipe]).problems_per_level == 7
    train = resolve("train", TrainConfig, recipes=[recipe])
    assert (train.reference_samples, train.problems_per_level) == (3, 9)
    assert resolve("evaluate", EvaluateConfig, recipes=[recipe]).problems_per_level == 200


URLS = ("http://one:8000", "http://two:8000")


def test_an_endpoint_implies_the_engine_that_has_them():
    for given in ("http://one:8000", ["http://one:8000"], ("http://one:8000",)):
        config = check(EvaluateConfig, {"endpoint": given})
        assert (config.engine, config.endpoint) == ("openai", URLS[:1])
    assert check(EvaluateConfig, {}).engine == "native"
    assert check(TrainConfig, {"engine": "openai", "endpoint": URLS[0]}).endpoint == URLS[:1]


def test_several_endpoints_from_a_recipe_and_from_the_environment(tmp_path, monkeypatch):
    recipe = tmp_path / "r.toml"
    recipe.write_text('[presample]\nendpoint = ["http://one:8000", "http://two:8000"]\n')
    assert resolve("presample", PresampleConfig, recipes=[recipe]).endpoint == URLS
    monkeypatch.setenv("ADAPTTHINK_ENDPOINT", "http://one:8000, http://two:8000")
    assert resolve("evaluate", EvaluateConfig).endpoint == URLS


def test_an_endpoint_is_stronger_than_an_engine_from_below_it(recipe, monkeypatch):
    """The shipped recipes say vllm; who names servers wants those."""
    shipped, one = "r1_distill_1.5b", {"endpoint": URLS[:1]}
    assert resolve("presample", PresampleConfig, recipes=[shipped]).engine == "vllm"
    assert resolve("presample", PresampleConfig, recipes=[shipped], flags=one).engine == "openai"
    mine = recipe(f'endpoint = "{URLS[0]}"\n')
    assert resolve("presample", PresampleConfig, recipes=[shipped, mine]).engine == "openai"
    with pytest.raises(UserError, match="engine = 'vllm' has no endpoint"):
        resolve("presample", PresampleConfig, recipes=[mine, shipped])
    with pytest.raises(UserError, match="engine = 'vllm' has no endpoint"):
        resolve("presample", PresampleConfig, recipes=[shipped], flags=one | {"engine": "vllm"})
    assert resolve("presample", PresampleConfig, recipes=[shipped], flags={"endpoint": ()}).engine == "vllm"
    monkeypatch.setenv("ADAPTTHINK_ENDPOINT", ",".join(URLS))
    found = resolve("presample", PresampleConfig, recipes=[shipped])
    assert (found.engine, found.endpoint) == ("openai", URLS)
    with pytest.raises(UserError, match="engine = 'vllm' has no endpoint"):
        resolve("presample", PresampleConfig, recipes=[shipped], flags={"engine": "vllm"})


def shown_in_docs():
    """The recipe with servers that docs/how-to/presampling.md shows."""
    text = (Path(__file__).parents[1] / "docs" / "how-to" / "presampling.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    return block


def test_servers_in_the_presample_table_are_for_presampling_alone_as_the_docs_show(recipe):
    shipped = find_recipe("r1_distill_1.5b").read_text(encoding="utf-8")
    table, line = shown_in_docs().split("\n", 1)
    assert table == "[presample]"
    inside = recipe(shipped.replace("[presample]\n", f"[presample]\n{line}"), "inside.toml")
    beside = recipe(shown_in_docs(), "beside.toml")
    for recipes in ([inside], ["r1_distill_1.5b", beside]):
        found = resolve("presample", PresampleConfig, recipes=recipes)
        assert (found.engine, found.endpoint) == ("openai", tuple(tomllib.loads(line)["endpoint"]))
        assert len(found.endpoint) == 3
        for command in ("train", "verl", "evaluate"):
            other = resolve(command, COMMANDS[command], recipes=recipes)
            assert (other.engine, other.endpoint) == ("vllm", ())


def test_an_engine_named_beside_servers_or_over_them_counts(recipe):
    mine = recipe(f'engine = "vllm"\n[presample]\nendpoint = "{URLS[0]}"\nengine = "native"\n')
    with pytest.raises(UserError, match="engine = 'native' has no endpoint"):
        resolve("presample", PresampleConfig, recipes=[mine])
    assert resolve("train", TrainConfig, recipes=[mine]).engine == "vllm"
    mine = recipe(f'engine = "vllm"\n[presample]\nendpoint = {list(URLS)}\n[train]\nendpoint = "{URLS[1]}"\n')
    assert resolve("presample", PresampleConfig, recipes=[mine]).endpoint == URLS
    trained = resolve("train", TrainConfig, recipes=[mine])
    assert (trained.engine, trained.endpoint) == ("openai", URLS[1:])


def test_errors_about_an_endpoint_name_the_variable_that_may_have_given_it(monkeypatch):
    two_servers = "training sends its weights to one server, and endpoint names 2"
    with pytest.raises(UserError, match=f"{two_servers}; give one or none"):
        resolve("train", TrainConfig, flags={"endpoint": URLS})
    monkeypatch.setenv("ADAPTTHINK_ENDPOINT", ",".join(URLS))
    with pytest.raises(UserError, match=rf"{two_servers} \(ADAPTTHINK_ENDPOINT is set\); give one or none"):
        resolve("train", TrainConfig)
    with pytest.raises(UserError, match=r"has no endpoint, .* \(ADAPTTHINK_ENDPOINT is set\); give --engine openai"):
        resolve("train", TrainConfig, flags={"engine": "vllm"})


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (TrainConfig, {"engine": "openai"}, "give --endpoint URL"),
        (EvaluateConfig, {"engine": "vllm", "endpoint": URLS}, "engine = 'vllm' has no endpoint, but endpoint = http"),
        (TrainConfig, {"endpoint": URLS}, "training sends its weights to one server, and endpoint names 2"),
    ],
)
def test_endpoints_that_do_not_fit_are_reported(schema, values, message):
    with pytest.raises(UserError, match=message):
        check(schema, values)


# ---- nothing is ignored in silence ----------------------------------------------------------------------------------


def test_a_key_without_an_effect_is_refused_where_it_was_given_for_the_command(recipe):
    """The rule: a flag, or the command's own table. What others share is passed over."""
    line = "lora_alpha has no effect: lora_rank is 0, so the weights themselves are trained; give --lora-rank, or"
    with pytest.raises(UserError, match=f"^{line}"):
        resolve("train", TrainConfig, flags={"lora_alpha": 8})
    own = recipe("[train]\nlora_alpha = 8\n")
    with pytest.raises(UserError, match=re.escape(f"{own}: {line}")):
        resolve("train", TrainConfig, recipes=[own])
    with pytest.raises(UserError, match=re.escape(f"{own}: {line}")):
        resolve("verl", VerlConfig, recipes=[own])
    assert resolve("plan", VerlConfig, recipes=[own]).lora_alpha == 8
    shared = recipe("lora_alpha = 8\n", "shared.toml")
    assert resolve("train", TrainConfig, recipes=[shared]).lora_alpha == 8
    assert resolve("train", TrainConfig, recipes=[own], flags={"lora_rank": 4}).lora_alpha == 8


def test_a_variable_is_shared_by_all_commands(monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_ENGINE_MEMORY", "0.3")
    assert resolve("presample", PresampleConfig).engine_memory == 0.3


def test_a_stronger_source_may_make_a_setting_useless(recipe):
    own = recipe('[presample]\nengine = "vllm"\nengine_memory = 0.3\n')
    assert resolve("presample", PresampleConfig, recipes=[own]).engine_memory == 0.3
    assert resolve("presample", PresampleConfig, recipes=[own], flags={"engine": "native"}).engine_memory == 0.3
    weaker = recipe('engine = "native"\n', "weaker.toml")
    alone = recipe("[presample]\nengine_memory = 0.3\n", "alone.toml")
    with pytest.raises(UserError, match=r"alone\.toml: engine_memory has no effect: engine = 'native' takes no fixed"):
        resolve("presample", PresampleConfig, recipes=[weaker, alone])
    assert resolve("presample", PresampleConfig, recipes=[alone, weaker]).engine_memory == 0.3


def test_all_keys_of_one_reason_are_named_together():
    with pytest.raises(UserError, match=r"^lora_alpha, lora_targets have no effect: "):
        resolve("train", TrainConfig, flags={"lora_targets": "q_proj", "lora_alpha": 8})


def test_keys_of_the_other_variant_of_a_command(recipe):
    with pytest.raises(UserError, match=r"^nodes has no effect: it is for --backend verl; give that too, or leave it"):
        resolve("train", TrainConfig, flags={"nodes": 2})
    with pytest.raises(UserError, match=r"^switch has no effect: it is for chat endpoints, and none is given; give"):
        resolve_evaluation([], {"switch": "budget"})
    with pytest.raises(UserError, match=r"^device has no effect: the chat endpoint runs the model; leave it out, or"):
        resolve_evaluation([], {"device": "cpu", "chat": "http://a"})
    mine = recipe('device = "cpu"\n[evaluate]\nswitch = "budget"\n')
    with pytest.raises(UserError, match=re.escape(f"{mine}: switch has no effect")):
        resolve_evaluation([mine], {})
    assert resolve("calibrate", EvaluateConfig, recipes=[mine]).device == "cpu"  # the table is not its own
    here = recipe('[evaluate]\ndevice = "cpu"\n', "here.toml")
    assert resolve_evaluation([here], {"chat": "http://a"}).chat == "http://a"  # the flag is stronger


def test_a_chat_endpoint_may_come_from_anywhere(recipe, monkeypatch):
    for recipes in ([recipe('chat = "http://a"\n')], [recipe('[evaluate]\nchat = "http://a"\n')]):
        found = resolve_evaluation(recipes, {})
        assert isinstance(found, ChatConfig)
        assert (found.chat, found.dialect, found.top_p) == ("http://a", Dialect.OPENAI, 0.95)
    monkeypatch.setenv("ADAPTTHINK_CHAT", "http://b")
    assert resolve_evaluation([], {}).chat == "http://b"
    assert resolve_evaluation([], {"chat": ""}) == EvaluateConfig()
    assert resolve("calibrate", EvaluateConfig) == EvaluateConfig()


def test_a_recipe_names_samples_of_sets_that_a_flag_replaced():
    """Samples that a recipe gives for its problems are not for other problems of a flag."""
    config = read_settings("evaluate", EvaluateConfig, ["r1_distill_1.5b_one_gpu"], {"problems": "math500"})
    assert config.samples_by_set == ("aime24=16",)
    with pytest.raises(UserError, match="samples_by_set has no effect: the problems are of math500, not of aime24"):
        read_settings("evaluate", EvaluateConfig, [], {"problems": "math500", "samples_by_set": ("aime24=16",)})
