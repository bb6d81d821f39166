"""The handlers of `snakepen.contrib.dspy`, over a session API in memory and a model's server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dspy_stub import Stub
from fake_session import Store, Worker

from snakepen import Conflict, session
from snakepen._request import running
from snakepen.contrib import dspy as handlers
from snakepen.contrib.dspy import (
    ConfigurationError,
    FieldError,
    NoSuchProgram,
    ProgramError,
    SignatureError,
    _history,
    _library,
    _lm,
)

HERE = Path(__file__).parent
KEY = "sk-of-the-test-0123456789"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def worker(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that serves a call of the session "ann"."""
    monkeypatch.setenv("STUB_KEY", KEY)
    yield Worker(store, monkeypatch)
    running.set(None)


@pytest.fixture
def another(store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Worker]:
    """Goes on in another worker, which has nothing but the store."""

    def begin() -> Worker:
        _lm._built.clear()
        return Worker(store, monkeypatch)

    return begin


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


@pytest.fixture
def stub(server: Stub, worker: Worker) -> Iterator[Stub]:
    """The server, and the session's language model on it."""
    server.requests.clear()
    handlers.configure_lm({"model": "openai/stub", "api_base": server.url, "api_key_env": "STUB_KEY"})
    yield server
    for model in _lm._built.values():  # their connections are descriptors
        model.close()
    _lm._built.clear()


def dummy(*answers: Any, **more: Any) -> dict[str, Any]:
    return {"model": "dummy", "answers": [*answers], **more}


def ask(id: str = "qa", question: str = "who", **more: Any) -> Any:
    return handlers.execute(id, {"question": question}, **more)["outputs"]


# === Programs and their kinds


def test_a_program_answers_over_http(stub: Stub) -> None:
    made = handlers.create_program("qa", "Predict", "question -> answer")
    assert made == {"id": "qa", "scope": "session", "version": made["version"]}
    assert handlers.execute("qa", {"question": "who"}) == {"outputs": {"answer": "WHO"}, "version": made["version"]}
    (request,) = stub.requests
    assert request["key"] == f"Bearer {KEY}"
    assert request["model"] == "stub"


def test_typed_fields_come_as_their_types_and_leave_as_json(worker: Worker) -> None:
    handlers.create_program(
        "types",
        "Predict",
        "person: Person, day: datetime.date, tags: list[str] -> friend: Person, words: list[str], n: int, "
        "mood: Literal['good', 'bad'], maybe: Optional[int]",
        types={"Person": "dspy_programs:Person"},
    )
    answer = {"friend": {"name": "Bo", "age": 3}, "words": ["a", "b"], "n": 7, "mood": "bad", "maybe": None}
    handlers.configure_lm(dummy(answer))
    inputs = {"person": {"name": "Ann", "age": 4}, "day": "2026-01-31", "tags": ["x"]}
    outputs = handlers.execute("types", inputs)["outputs"]
    assert outputs == answer
    assert json.loads(json.dumps(outputs)) == outputs


def test_reasoning_and_usage_are_given_on_request(stub: Stub) -> None:
    handlers.create_program("qa", "ChainOfThought", "question -> answer")
    assert ask() == {"answer": "WHO"}
    answer = handlers.execute("qa", {"question": "who"}, reasoning=True, usage=True)
    assert answer["outputs"] == {"answer": "WHO"}
    assert answer["reasoning"] == {"reasoning": "I was asked about ['question']."}
    assert answer["usage"]["openai/stub"]["total_tokens"] > 0


def test_a_specification_says_types_and_descriptions(stub: Stub) -> None:
    spec = {
        "name": "Rate",
        "description": "Rate the text.",
        "inputs": [{"name": "text", "description": "what is rated"}],
        "outputs": [{"name": "grade", "type": "int", "description": "from 0 to 100"}, "why: str"],
    }
    handlers.create_program("rate", "Predict", spec=spec)
    outputs = handlers.execute("rate", {"text": "x"})["outputs"]
    assert isinstance(outputs["grade"], int) and outputs["why"] == "X"
    system = stub.requests[0]["messages"][0]["content"]
    assert "Rate the text." in system and "from 0 to 100" in system and "what is rated" in system
    signature = handlers.info("rate")["signature"]
    assert signature["name"] == "Rate" and signature["text"] == "text -> grade: int, why: str"


def test_react_calls_its_tools(worker: Worker) -> None:
    handlers.create_program("agent", "ReAct", "question -> answer: int", tools=["dspy_programs:population"])
    handlers.configure_lm(
        dummy(
            {"next_thought": "I look it up", "next_tool_name": "population", "next_tool_args": {"city": "Rome"}},
            {"next_thought": "I know it", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "the tool said so", "answer": 2_700_000},
        )
    )
    answer = handlers.execute("agent", {"question": "how many Romans?"}, reasoning=True)
    assert answer["outputs"] == {"answer": 2_700_000}
    assert answer["reasoning"]["trajectory"]["observation_0"] == 2_700_000
    assert handlers.info("agent")["tools"] == ["dspy_programs:population"]


def test_a_module_of_the_users_own(stub: Stub) -> None:
    handlers.create_program("twice", "Module", module="dspy_programs:Twice", params={"question": "question"})
    assert handlers.execute("twice", {"question": "who"})["outputs"] == {"draft": "WHO", "answer": "WHO"}
    names = [predictor["name"] for predictor in handlers.info("twice")["predictors"]]
    assert names == ["first.predict", "second"]


def test_program_of_thought_without_deno_says_how_to_get_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "deno", None)
    monkeypatch.setattr("snakepen.contrib.dspy._programs.find_spec", lambda _: None)
    with pytest.raises(ProgramError, match=r'-m pip install "dspy\[deno\]"'):
        handlers.create_program("pot", "ProgramOfThought", "question -> answer")
    assert handlers.list() == []


def test_program_of_thought_is_built_where_deno_is(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deno").write_text("#!/bin/sh\n")
    (tmp_path / "deno").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    handlers.create_program("pot", "ProgramOfThought", "question -> answer", params={"max_iters": 2})
    assert len(handlers.info("pot")["predictors"]) == 3


# === What is refused, and what it says


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("question", 'must have one "->"'),
        ("a -> b -> c", 'must have one "->"'),
        ("-> answer", "has no inputs"),
        ("question ->", "has no outputs"),
        ("question: strin -> answer", r"field 'question' \(strin\): Unknown name: strin"),
        ("question -> answer: list[strng]", r"field 'answer' \(list\[strng\]\)"),
        ("question -> answer: 3", "field 'answer'"),
        ("the question -> answer", "aren't of the form"),
        ("question, n=3 -> answer", "no defaults"),
        ("question, *, n -> answer", "no defaults"),
        ("question, /, n -> answer", "no defaults"),
        ("*question -> answer", "no defaults"),
        ("a): pass\ndef g(b -> answer", "aren't of the form"),
        ("question, question -> answer", "'question' is there more than once"),
        ("question -> question", "'question' is there more than once"),
        ("demos -> answer", "can't be called 'demos'"),
        ("_question -> answer", "field '_question'"),
    ],
)
def test_a_wrong_signature_is_an_error_that_names_the_field(worker: Worker, signature: str, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        handlers.create_program("qa", "Predict", signature)
    assert handlers.list() == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"inputs": [], "outputs": ["a"]}, "`spec.inputs`"),
        ({"inputs": ["q"], "outputs": [{"type": "int"}]}, "output 0"),
        ({"inputs": ["q"], "outputs": [{"name": "a", "typ": "int"}]}, r"output 0 \('a'\) has \['typ'\]"),
        ({"inputs": ["q"], "outputs": [{"name": "a b"}]}, "'a b', which isn't a Python identifier"),
        ({"inputs": ["q"], "outputs": [{"name": "a", "type": "int, b: str"}]}, "more than one field"),
        ({"inputs": ["q"], "outputs": {"a": "intt"}}, r"field 'a' \(intt\)"),
        ({"inputs": ["q"], "outputs": ["a"], "output": []}, r"\['output'\]"),
        ({"inputs": ["q"], "outputs": ["a"], "name": 3}, "`spec.name` is text"),
    ],
)
def test_a_wrong_specification_is_an_error_that_names_the_field(worker: Worker, spec: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        handlers.create_program("qa", "Predict", spec=spec)
    assert handlers.list() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "Predicct", "signature": "a -> b"}, "Predict, ChainOfThought, ReAct, ProgramOfThought, Module"),
        ({"kind": "Predict"}, "`signature`"),
        ({"kind": "Predict", "signature": "a -> b", "spec": {}}, "either"),
        ({"kind": "Predict", "signature": "a -> b", "module": "x:Y"}, "`module`"),
        ({"kind": "Predict", "signature": "a -> b", "tools": []}, "`tools`"),
        ({"kind": "ReAct", "signature": "a -> b"}, "`tools`"),
        ({"kind": "Module", "signature": "a -> b", "module": "dspy_programs:Twice"}, "in its code"),
        ({"kind": "Module", "module": "dspy_programs:Thrice"}, "module 'dspy_programs:Thrice' can't be imported"),
        ({"kind": "Module", "module": "nowhere:Thrice"}, "No module named 'nowhere'"),
        ({"kind": "Module", "module": "dspy_programs.Twice"}, '"module:attribute"'),
        ({"kind": "Module", "module": "dspy_programs:NotAModule"}, "derived from dspy.Module"),
        ({"kind": "Module", "module": "dspy_programs:Twice", "params": {"x": 1}}, "unexpected keyword argument 'x'"),
        ({"kind": "ReAct", "signature": "a -> b", "tools": ["dspy_programs:nothing"]}, "tool 'dspy_programs:nothing'"),
        ({"kind": "ReAct", "signature": "a -> b", "tools": ["dspy_programs:finish"]}, "'finish'"),
        ({"kind": "ReAct", "signature": "a -> b", "tools": ["dspy_programs:later"]}, "async def"),
        ({"kind": "ReAct", "signature": "a -> b", "tools": [], "params": {"max_iter": 2}}, "max_iter"),
        ({"kind": "Predict", "signature": "a -> b", "params": {"api_key": "x"}}, "params.api_key"),
        ({"kind": "Predict", "signature": "a -> b", "demos": [{"a": "1", "c": "2"}]}, r"demo 0: unknown \['c'\]"),
        ({"kind": "Predict", "signature": "p: Person -> b"}, "field 'p'"),
        ({"kind": "Predict", "signature": "a -> b", "types": {"P": "dspy_programs:P"}}, "type 'P'"),
        ({"kind": "Predict", "signature": "a -> b", "scope": "user"}, "`scope`"),
    ],
)
def test_what_can_not_be_a_program_is_refused_when_it_is_made(worker: Worker, arguments: Any, message: str) -> None:
    with pytest.raises((ConfigurationError, SignatureError, ProgramError, FieldError), match=message):
        handlers.create_program("x", **arguments)
    assert handlers.list() == []


def test_a_type_is_not_found_among_variables_of_callers(worker: Worker) -> None:
    Person: Any = int  # DSPy would take it
    assert Person
    with pytest.raises(SignatureError, match="field 'p'"):
        handlers.create_program("x", "Predict", "p: Person -> b")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"question": "q"}, r"missing \['n'\], the signature has \['question', 'n', 'hint'\]"),
        ({"question": "q", "n": 1, "m": 1}, r"unknown \['m'\]"),
        ({"question": "q", "n": "many"}, "field 'n': Input should be a valid integer"),
        ({"question": 3, "n": 1}, "field 'question': Input should be a valid string"),
        (["q", 1], "an object by field name, not list"),
    ],
)
def test_inputs_that_do_not_fit_are_named(worker: Worker, inputs: Any, message: str) -> None:
    handlers.create_program("qa", "Predict", "question: str, n: int, hint: Optional[str] -> answer")
    handlers.configure_lm(dummy({"answer": "a"}))
    with pytest.raises(FieldError, match=message):
        handlers.execute("qa", inputs)
    assert handlers.execute("qa", {"question": "q", "n": 1})["outputs"] == {"answer": "a"}


def test_a_modules_inputs_and_outputs_are_checked(worker: Worker) -> None:
    handlers.create_program("sick", "Module", module="dspy_programs:Sick")
    handlers.configure_lm(dummy())
    with pytest.raises(FieldError, match="missing a required argument: 'kind'"):
        handlers.execute("sick", {})
    with pytest.raises(ProgramError, match="returned int, and not"):
        handlers.execute("sick", {"kind": "number"})
    with pytest.raises(KeyError):  # its own, and not taken for a program that isn't there
        handlers.execute("sick", {"kind": "x"})


# === Names, versions, scopes


def test_an_id_that_is_taken_is_a_conflict_unless_replaced(stub: Stub) -> None:
    first = handlers.create_program("qa", "Predict", "question -> answer")["version"]
    with pytest.raises(Conflict):
        handlers.create_program("qa", "Predict", "question -> reply")
    assert ask() == {"answer": "WHO"}
    second = handlers.create_program("qa", "ChainOfThought", "question -> reply", replace=True)["version"]
    assert second > first
    assert ask() == {"reply": "WHO"}
    assert handlers.info("qa")["kind"] == "ChainOfThought"


def test_a_worker_keeps_what_it_has_built_until_the_version_is_another(
    stub: Stub, worker: Worker, another: Callable[[], Worker]
) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    ask()
    (first,) = worker.built
    ask()
    assert worker.built == [first]
    second = another()
    assert ask() == {"answer": "WHO"}
    handlers.create_program("qa", "Predict", "question -> reply", replace=True)
    worker.enter("ann")
    assert ask() == {"reply": "WHO"}
    assert worker.built[0].version > second.built[0].version == first.version


def test_listing_and_deleting(worker: Worker) -> None:
    assert handlers.list() == []
    handlers.create_program("b", "Predict", "x -> y")
    handlers.create_program("a", "ChainOfThought", "x -> y", scope="global")
    session().programs.create("other", "not of DSPy", {})
    listed = handlers.list()
    assert [(p["id"], p["scope"], p["kind"]) for p in listed] == [
        ("b", "session", "Predict"),
        ("a", "global", "ChainOfThought"),
    ]
    assert [program["id"] for program in handlers.list("global")] == ["a"]
    assert handlers.delete("b") is True
    assert handlers.delete("b") is False
    with pytest.raises(NoSuchProgram, match="no program 'b' in this session or globally"):
        handlers.execute("b", {"x": "1"})
    with pytest.raises(NoSuchProgram):
        handlers.info("b")
    with pytest.raises(ConfigurationError, match='say scope="global"'):
        handlers.delete("a")
    assert handlers.delete("a", scope="global") is True
    assert handlers.list() == []
    with pytest.raises(ConfigurationError, match="isn't one of DSPy"):
        handlers.info("other")


def test_a_sessions_program_goes_before_the_global_one(stub: Stub, worker: Worker) -> None:
    handlers.create_program("qa", "Predict", "question -> shared", scope="global")
    assert ask() == {"shared": "WHO"}
    handlers.create_program("qa", "Predict", "question -> own")
    assert ask() == {"own": "WHO"}
    assert ask(scope="global") == {"shared": "WHO"}
    worker.enter("ben")
    with pytest.raises(ConfigurationError, match="no language model is configured"):
        ask()
    assert ask(lm={"model": "openai/stub", "api_base": stub.url, "api_key_env": "STUB_KEY"}) == {"shared": "WHO"}


def test_a_call_without_a_session_is_global(worker: Worker) -> None:
    worker.enter(None)
    assert handlers.create_program("qa", "Predict", "question -> answer")["scope"] == "global"
    assert handlers.configure_lm(dummy({"answer": "a"}))["scope"] == "global"
    assert ask() == {"answer": "a"}
    assert len(handlers.history()) == 1
    assert handlers.delete("qa") is True
    with pytest.raises(LookupError, match="belongs to no session"):
        handlers.create_program("qa", "Predict", "question -> answer", scope="session")


# === Language models


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": "x"},
        {"extra_headers": {"Authorization": "Bearer x"}},
        {"extra_headers": {"X-Api-Key": "x"}},
        {"headers": {"x-custom": "Bearer abc"}},
        {"api_base": "https://ann:secret@example.org/v1"},
        {"aws_secret_access_key": "x"},
        {"azure_ad_token": "x"},
        {"organization": "sk-abc"},
        {"password": "x"},
    ],
)
def test_literal_secrets_are_refused_and_not_stored(worker: Worker, store: Store, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="api_key_env"):
        handlers.configure_lm({"model": "openai/x", **config})
    assert store.entries == {}


def test_settings_that_only_sound_like_secrets_are_taken(worker: Worker) -> None:
    handlers.configure_lm({"model": "openai/x", "max_tokens": 5, "prompt_cache_key": "a", "api_key_env": "STUB_KEY"})


def test_a_secret_is_never_stored_or_shown(stub: Stub, store: Store) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    ask(question=f"is {KEY} the key?")
    assert KEY not in repr(store.entries)
    assert KEY not in repr(handlers.info("qa"))
    (entry,) = handlers.history()
    assert "is [secret] the key?" in repr(entry)
    assert handlers.info("qa")["lm"]["api_key_env"] == "STUB_KEY"


def test_a_secret_in_a_providers_message_is_taken_out(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"the key {KEY} is wrong")

    monkeypatch.setattr(_library.dspy.Predict, "forward", fail)
    with pytest.raises(ProgramError, match=r"RuntimeError: the key \[secret\] is wrong") as caught:
        ask()
    assert KEY not in repr(caught.value) and caught.value.__suppress_context__


def test_a_placeholder_for_a_key_is_not_taken_out_of_texts(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "w")
    handlers.create_program("qa", "Predict", "question -> answer")
    ask()
    assert "[secret]" not in repr(handlers.history())


def test_a_missing_environment_variable_is_named(worker: Worker) -> None:
    with pytest.raises(ConfigurationError, match="variable 'NO_SUCH_KEY', which the workers don't have"):
        handlers.configure_lm({"model": "openai/x", "api_key_env": "NO_SUCH_KEY"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, '"model"'),
        ({"model": ""}, "non-empty"),
        ({"model": "openai/"}, "no model id"),
        ({"model": "openai/x", "num_retries": -1}, "num_retries"),
        ({"model": "openai/x", "callbacks": []}, "Python objects"),
        ({"model": "dummy"}, '"answers"'),
        ({"model": "dummy", "answers": ["a"]}, '"answers"'),
        ({"model": "dummy", "answers": [], "temperature": 1}, r"\['temperature'\]"),
        ("openai/x", "is an object"),
    ],
)
def test_a_configuration_that_can_not_be_used_is_refused(worker: Worker, config: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        handlers.configure_lm(config)


def test_without_a_language_model_the_error_says_what_to_do(worker: Worker) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    with pytest.raises(ConfigurationError, match='call "configure_lm"'):
        ask()


def test_a_configuration_reaches_every_worker_at_its_next_call(worker: Worker, another: Callable[[], Worker]) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    handlers.configure_lm(dummy({"answer": "one"}), scope="global")
    workers = [worker, another(), another()]
    for one in workers:
        one.enter("ann")
        assert ask() == {"answer": "one"}
    handlers.configure_lm(dummy({"answer": "two"}), scope="global")
    for one in workers:
        one.enter("ann")
        assert ask() == {"answer": "two"}
    handlers.configure_lm(dummy({"answer": "own"}))
    assert ask() == {"answer": "own"}
    assert handlers.info("qa")["lm_scope"] == "session"
    handlers.configure_lm(None)
    assert ask() == {"answer": "two"}


def test_sessions_models_do_not_mix(server: Stub, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENS_KEY", "sk-of-ben")
    handlers.create_program("qa", "Predict", "question -> answer", scope="global")
    with Stub() as bens:
        handlers.configure_lm({"model": "openai/stub", "api_base": server.url, "api_key_env": "STUB_KEY"})
        worker.enter("ben")
        handlers.configure_lm({"model": "openai/stub", "api_base": bens.url, "api_key_env": "BENS_KEY"})
        server.requests.clear()
        for current in ("ann", "ben", "ann", "ben", "ben"):
            worker.enter(current)
            assert ask() == {"answer": "WHO"}  # the same prompt: a cache would answer it
        assert {request["key"] for request in server.requests} == {f"Bearer {KEY}"}
        assert {request["key"] for request in bens.requests} == {"Bearer sk-of-ben"}
        assert (len(server.requests), len(bens.requests)) == (2, 3)
        assert _library.dspy.settings.lm is None
        for model in _lm._built.values():
            model.close()
        _lm._built.clear()


def test_a_call_can_change_settings_or_the_model(stub: Stub) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    ask(lm={"temperature": 0.25})
    assert stub.requests[-1]["temperature"] == 0.25 and stub.requests[-1]["key"] == f"Bearer {KEY}"
    ask()
    assert stub.requests[-1].get("temperature") is None
    assert ask(lm=dummy({"answer": "d"})) == {"answer": "d"}
    with pytest.raises(ConfigurationError, match="api_key_env"):
        ask(lm={"api_key": "x"})


def test_built_clients_are_bounded(stub: Stub) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    for seed in range(_lm.MAX_BUILT + 5):
        ask(lm={"seed": seed})
    assert len(_lm._built) == _lm.MAX_BUILT


def test_nothing_is_cached_on_disk_unless_asked_for(stub: Stub, tmp_path: Path) -> None:
    script = """
        made = handlers.create_program("qa", "Predict", "question -> answer")
        for _ in range(2):
            handlers.execute("qa", {"question": "who"}, lm=lm)
        print(len(stub.requests), sorted(path.name for path in Path.home().iterdir()))
    """
    assert run_apart(script, stub, tmp_path, lm="{}") == "2 []\n"
    assert run_apart(script, stub, tmp_path, lm="{'cache': True}") == "1 ['.dspy_cache']\n"


# === State


def test_a_compiled_program_runs_the_same_in_another_process(stub: Stub, store: Store, tmp_path: Path) -> None:
    examples = [{"question": f"q{n}", "answer": f"Q{n}"} for n in range(6)]
    handlers.create_program("qa", "ChainOfThought", "question -> answer", instructions="Answer loudly.")
    params = {"max_bootstrapped_demos": 3, "max_labeled_demos": 0}
    handlers.optimize("qa", "BootstrapFewShot", examples, "exact_match:answer", params=params)
    here = handlers.execute("qa", {"question": "who"}, reasoning=True, usage=True)
    assert here["outputs"] == {"answer": "WHO (3 demos)"}
    sent = stub.requests[-1]["messages"]
    assert "Answer loudly." in sent[0]["content"]
    script = """
        answer = handlers.execute("qa", {"question": "who"}, reasoning=True, usage=True, history=False)
        print(json.dumps([answer, handlers.info("qa")["demos"]]))
    """
    stub.requests.clear()
    assert json.loads(run_apart(script, stub, tmp_path, store=store)) == [here, 3]
    assert stub.requests[-1]["messages"] == sent


def test_demos_and_instructions_are_stored_with_a_program(stub: Stub, another: Callable[[], Worker]) -> None:
    demos = [{"question": "a", "answer": "A"}, {"question": "b", "answer": "B"}]
    handlers.create_program("qa", "Predict", "question -> answer", instructions="Shout.", demos=demos)
    another()
    assert ask() == {"answer": "WHO (2 demos)"}
    assert "Shout." in stub.requests[-1]["messages"][0]["content"]
    about = handlers.info("qa")
    assert about["demos"] == 2 and about["predictors"][0]["instructions"] == "Shout."


def change_state(store: Store, change: Callable[[dict[str, Any]], object]) -> None:
    (key,) = [key for key in store.entries if key[1] == 1]
    fields = json.loads(store.entries[key][0])
    change(fields["state"])
    store.reply("put", [*key, -1, fields])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["predictors"].clear(), r"it has the predictors \[\], the program has \['predict'\]"),
        (lambda s: s["predictors"].update(more={}), r"\['predict', 'more'\]"),
        (lambda s: s["predictors"]["predict"]["signature"]["fields"].pop(), "predict has 2 fields there"),
        (lambda s: s["predictors"]["predict"].pop("signature"), "KeyError"),
        (
            lambda s: s["predictors"]["predict"]["signature"].update(style=3),
            r"\['signature'\] of predict would be lost",
        ),
        (lambda s: s.pop("predictors"), "has no state of a DSPy program"),
    ],
)
def test_a_state_that_does_not_load_is_an_error(stub: Stub, store: Store, change: Any, message: str) -> None:
    handlers.create_program("qa", "ChainOfThought", "question -> answer")
    change_state(store, lambda state: (state.update(dspy="1.2.3"), change(state)))
    with pytest.raises(ProgramError, match=message) as caught:
        ask()
    assert "stored by DSPy 1.2.3" in str(caught.value) or "no state" in str(caught.value)
    assert stub.requests == []


def test_a_state_of_another_dspy_that_loads_is_used(stub: Stub, store: Store) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    change_state(store, lambda state: state.update(dspy="1.2.3"))
    assert ask() == {"answer": "WHO"}
    assert handlers.info("qa")["dspy"] == "1.2.3" and handlers.info("qa")["dspy_here"] == _library.version


def test_a_modules_own_language_model_comes_from_its_code(worker: Worker, store: Store) -> None:
    handlers.create_program("own", "Module", module="dspy_programs:OwnModel")
    handlers.configure_lm(dummy())
    assert "sk-literal" not in repr(store.entries)
    assert handlers.execute("own", {"question": "x"})["outputs"] == {"answer": "openai/own"}


# === Optimizers

EXAMPLES = [{"question": f"q{n}", "answer": f"Q{n}"} for n in range(8)]


def test_optimizing_makes_a_new_version_with_its_score(stub: Stub) -> None:
    first = handlers.create_program("qa", "Predict", "question -> answer", metadata={"team": "blue"})["version"]
    result = handlers.optimize("qa", "BootstrapFewShot", EXAMPLES, "dspy_programs:in_capitals")
    assert result["version"] > first and result["from_version"] == first
    assert result["score"] == 0.0  # "(8 demos)" isn't in capitals
    assert result["predictors"][0]["demos"] > 0
    assert result["usage"]["openai/stub"]["total_tokens"] > 0
    about = handlers.info("qa")
    assert about["version"] == result["version"] and about["metadata"] == {"team": "blue"}
    assert about["optimized"]["optimizer"] == "BootstrapFewShot" and about["optimized"]["score"] == 0.0
    assert handlers.history() == []
    handlers.optimize("qa", "LabeledFewShot", EXAMPLES, params={"k": 2, "sample": False})  # and once more
    assert ask() == {"answer": "WHO (2 demos)"}


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        ("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 2, "max_labeled_demos": 2}),
        ("COPRO", {"breadth": 2, "depth": 1}),
        ("InferRules", {"num_candidates": 1, "max_labeled_demos": 2}),
        pytest.param(
            "SIMBA",
            {"bsize": 4, "max_steps": 1, "num_candidates": 2},
            marks=pytest.mark.skipif(find_spec("numpy") is None, reason="it needs NumPy"),
        ),
    ],
)
def test_other_optimizers(stub: Stub, optimizer: str, params: dict[str, Any]) -> None:
    first = handlers.create_program("qa", "Predict", "question -> answer")["version"]
    result = handlers.optimize("qa", optimizer, EXAMPLES, "exact_match:answer", params=params, valset=EXAMPLES[:2])
    assert result["version"] > first and isinstance(result["score"], float)
    assert ask()["answer"].startswith("WHO")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "BootstrapFinetune"}, "no optimizer 'BootstrapFinetune', but LabeledFewShot"),
        ({"metric": "exact_match:anser"}, "outputs are"),
        ({"metric": "dspy_programs:no_metric"}, "metric 'dspy_programs:no_metric' can't be imported"),
        ({"params": {"max_demos": 3}}, r"no parameters \['max_demos'\], but \[.*'max_bootstrapped_demos'"),
        ({"params": {"teacher_settings": {"lm": {"model": "x/y", "api_key": "z"}}}}, "api_key_env"),
        ({"optimizer": "COPRO", "metric": None}, "COPRO needs a metric"),
        ({"trainset": []}, "at least one"),
        ({"trainset": [*EXAMPLES, {"answer": "A"}]}, r"trainset\[8\]: missing \['question'\]"),
        ({"trainset": [*EXAMPLES, {"question": "a", "reply": "A"}]}, r"trainset\[8\]: unknown \['reply'\]"),
        ({"metric": "dspy_programs:sick_metric"}, "the metric is sick|cancelled due to errors"),
    ],
)
def test_what_can_not_be_optimized_changes_nothing(stub: Stub, arguments: Any, message: str) -> None:
    version = handlers.create_program("qa", "Predict", "question -> answer")["version"]
    given: dict[str, Any] = {
        "optimizer": "BootstrapFewShot",
        "trainset": EXAMPLES * 2,
        "metric": "exact_match:answer",
        **arguments,
    }
    with pytest.raises(Exception, match=message):
        handlers.optimize("qa", **{**given, **arguments})
    assert handlers.info("qa")["version"] == version


def test_a_model_that_is_gone_does_not_make_a_compiled_program(stub: Stub) -> None:
    version = handlers.create_program("qa", "Predict", "question -> answer")["version"]
    gone = {"model": "openai/stub", "api_base": "http://127.0.0.1:9/v1", "api_key_env": "STUB_KEY", "num_retries": 0}
    with pytest.raises(ProgramError, match="none of the 2 examples can be scored"):
        handlers.optimize("qa", "BootstrapFewShot", EXAMPLES[:2], "exact_match:answer", lm=gone)
    assert handlers.info("qa")["version"] == version


def test_a_missing_package_of_an_optimizer_is_named(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    handlers.create_program("qa", "Predict", "question -> answer")
    with pytest.raises(ConfigurationError, match="optuna"):
        handlers.optimize("qa", "MIPROv2", EXAMPLES, "exact_match:answer", params={"auto": "light"})


def test_a_program_changed_meanwhile_is_a_conflict(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    import dspy_programs

    def meddle(*_: Any) -> bool:
        handlers.create_program("qa", "Predict", "question -> reply", replace=True)
        return True

    monkeypatch.setattr(dspy_programs, "in_capitals", meddle)
    with pytest.raises(Conflict):
        handlers.optimize("qa", "BootstrapFewShot", EXAMPLES, "dspy_programs:in_capitals")
    assert ask() == {"reply": "WHO"}


def test_a_session_does_not_optimize_what_all_use(stub: Stub) -> None:
    handlers.create_program("qa", "Predict", "question -> answer", scope="global")
    with pytest.raises(ConfigurationError, match='say scope="global"'):
        handlers.optimize("qa", "LabeledFewShot", EXAMPLES)
    assert handlers.optimize("qa", "LabeledFewShot", EXAMPLES, scope="global")["scope"] == "global"


# === History


def test_history_is_in_the_session_and_the_worker_forgets_it(stub: Stub, another: Callable[[], Worker]) -> None:
    version = handlers.create_program("qa", "ChainOfThought", "question -> answer")["version"]
    for n in range(3):
        ask(question=f"q{n}")
    another()
    calls = handlers.history(2)
    assert [call["messages"][-1]["content"].split("\n")[1] for call in calls] == ["q1", "q2"]
    last = calls[-1]
    assert (last["program"], last["version"], last["model"]) == ("qa", version, "openai/stub")
    assert "Q2" in last["outputs"][0] and last["usage"]["total_tokens"] > 0 and last["timestamp"]
    assert len(handlers.history(100)) == 3 and handlers.history(0) == []
    assert _library.global_history() == []
    ask(history=False)
    assert len(handlers.history(100)) == 3


def test_history_of_a_failed_call_is_kept(worker: Worker) -> None:
    handlers.create_program("qa", "Predict", "question -> n: int")
    handlers.configure_lm({"model": "dummy", "answers": {"who": {"n": "not a number"}}})
    with pytest.raises(Exception, match="not a number"):
        ask()
    assert "not a number" in repr(handlers.history())


def test_history_is_bounded(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "MAX_ENTRIES", 4)
    handlers.create_program("qa", "Predict", "question -> answer")
    handlers.configure_lm({"model": "dummy", "answers": {"": {"answer": "a"}}})
    for n in range(6):
        ask(question=f"q{n} " + "x" * 50_000)
    calls = handlers.history(100)
    assert len(calls) == 4 and "q5" in repr(calls[-1]) and "bytes cut" in repr(calls[-1])
    monkeypatch.setattr(_history, "MAX_BYTES", 2 * len(json.dumps(calls[0])))
    ask(question="q6 " + "x" * 50_000)
    assert len(handlers.history(100)) == 2


def test_a_full_store_does_not_spoil_a_result(stub: Stub, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    handlers.create_program("qa", "Predict", "question -> answer")
    store.full = True
    assert ask() == {"answer": "WHO"}
    assert "can't be stored: the store is full" in caplog.text


# === The environment


def run_apart(script: str, stub: Stub | None, home: Path, *, lm: str = "None", store: Store | None = None) -> str:
    """Runs it in a process of its own, with a home of its own."""
    kept = home / "store.json"
    kept.write_text((store or Store()).dump())
    before = f"""
        import json, os, sys
        from pathlib import Path
        sys.path[:0] = {[str(HERE.parent), str(HERE), str(HERE.parent.parent / "examples")]!r}
        import pytest
        from fake_session import Store, Worker
        worker = Worker(Store.load(Path({str(kept)!r}).read_text()), pytest.MonkeyPatch())
        from snakepen.contrib import dspy as handlers
        lm = {lm}
    """
    if stub is not None and store is None:
        before += """
        from dspy_stub import Stub
        stub = Stub()
        handlers.configure_lm({"model": "openai/stub", "api_base": stub.url, "api_key_env": "STUB_KEY"})
        """
    (home / "home").mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home / "home"), "STUB_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_starts_no_thread_opens_nothing_and_needs_no_network(tmp_path: Path) -> None:
    script = """
        import socket
        def refuse(*_, **__):
            raise AssertionError("the network was asked")
        socket.getaddrinfo = socket.socket.connect = refuse
        threads = os.listdir("/proc/self/task")
        files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                 and os.path.exists(f"/proc/self/fd/{fd}")]
        import litellm
        print(len(threads), [file for file in files if "dspy" in file], sorted(Path.home().iterdir()))
    """
    assert run_apart(script, None, tmp_path) == "1 [] []\n"


def test_a_missing_dspy_says_which_interpreter_needs_it() -> None:
    script = """
        import sys
        sys.modules["dspy"] = None
        class Nothing:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("dspy", "pydantic", "pydantic_core"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        del sys.modules["dspy"]
        sys.meta_path.insert(0, Nothing())
        import snakepen.contrib.dspy
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=HERE.parent, capture_output=True, text=True, timeout=60
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: snakepen.contrib.dspy needs DSPy in the workers' environment. Install it: "
        f"{os.path.normpath(sys.executable)} -m pip install dspy"
    )
