"""docs/questions.md is true: each command of the table answers, and each metric is there."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

from tests.service.agents.worker import Worker, stream_agent
from tests.service.docs.pages import DOCS
from tests.support.clients import Ended, create, invoke, send
from tests.support.metrics import scrape
from tests.support.service import UNKNOWN, Serve
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite

PAGE = (DOCS / "questions.md").read_text()
ROWS = re.findall(r"^\| ([^|]+\?) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
COMMANDS = sorted({command for row in ROWS for command in re.findall(r"`([^`]+)`", row[2])})
METRICS = sorted({metric for row in ROWS for metric in re.findall(r"`([^`]+)`", row[3])})
PAGES = {"/console", "/console/sessions", "/console/agents", "/console/system"}


class Asked(NamedTuple):
    """A service in which a message has failed, and what the page's words stand for."""

    service: Serve
    words: dict[str, str]

    def run(self, command: str, *more: str) -> Ended:
        """Runs a command of the page."""
        program, *arguments = command.split()
        assert program == "eliza-sessions"
        arguments = [self.words.get(argument, argument) for argument in arguments]
        if "check" in arguments:
            where = [] if "--database-url" in arguments else ["--database-url", self.words["URL"]]
            return invoke(*arguments, *where, *more)
        return invoke(*arguments, "--server", self.service.grpc, *more)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    directory = tmp_path_factory.mktemp("questions")
    service = Serve(directory, METRICS_ADDRESS="127.0.0.1:0", DELIVERY_ATTEMPTS="1")
    agent_id = stream_agent(service, "Support")
    session_id = create(service, agent_id).session_id
    with Worker(service.channel, agent_id) as worker:
        send(service, session_id, "Hello!")
        worker.answer(worker.next(), "Hi")
        message = send(service, session_id, "Hello?")
        worker.fail(worker.next(), "the model is away", final=True)
        request = partial(invoke, "sessions", "--server", service.grpc, "show", session_id)
        until(lambda: "no reply after 1 attempts" in request().out, "the failure")
        # Something that is refused.
        assert invoke("sessions", "--server", service.grpc, "show", UNKNOWN).status == 1
        url = f"sqlite:///{directory / 'store.db'}"
        backup = directory / "backup.db"
        assert invoke("backup", "--database-url", url, str(backup)).status == 0
        words = {"ID": session_id, "MESSAGE": message.message_id, "AGENT": agent_id, "URL": url}
        yield Asked(service, {"sqlite:///BACKUP": f"sqlite:///{backup}", **words})
    assert service.stop() == 0, service.log()


def test_there_are_ten_questions_each_answered_three_times() -> None:
    assert len(ROWS) == 10
    for question, page, command, metric in ROWS:
        assert {*re.findall(r"`([^`]+)`", page)} <= PAGES, question
        assert command.startswith("`eliza-sessions "), question
        assert metric.startswith("`"), question
    steps = PAGE.partition("## The steps")[2]
    assert [question for question, *_ in ROWS if f"**{question}**" not in steps] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_answers(asked: Asked, command: str) -> None:
    ended = asked.run(command)
    assert (ended.status, ended.errors) == (0, ""), ended
    assert ended.out.strip()
    if "check" not in command:
        as_json = asked.run(command, "--json")
        assert (as_json.status, as_json.errors) == (0, ""), as_json
        text = as_json.out
        # `sessions` prints lines of JSON, the others one value.
        for value in text.splitlines() if command.startswith("eliza-sessions sessions") else [text]:
            assert json.loads(value)


def test_the_answers_say_what_is_asked(asked: Asked) -> None:
    """Not only that there are any."""
    session = asked.run("eliza-sessions sessions show ID").out
    assert "no reply after 1 attempts: the model is away" in session
    assert f"sessions redeliver {asked.words['ID']} {asked.words['MESSAGE']}" in session
    assert "the model is away" in asked.run("eliza-sessions sessions show ID --log").out
    agent = asked.run("eliza-sessions agents show AGENT").out
    assert "workers:  1 connected" in agent
    assert "failed:   1 messages got no reply" in agent
    status = asked.run("eliza-sessions status").out
    facts = dict(re.split(r":\s+", line, maxsplit=1) for line in status.splitlines())
    assert re.fullmatch(r"\S+, schema \d+, open", facts["version"])
    assert re.fullmatch(r"[\d.]+ \wiB free of [\d.]+ \wiB", facts["disk"])
    assert re.fullmatch(r"\S+Z, good: .*backup\.db.*", facts["backup"])
    assert facts["sessions"].startswith("1 live, 0 of them near their end")
    assert "is sound: 1 sessions" in asked.run("eliza-sessions check").out


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_is_there(asked: Asked, metric: str) -> None:
    def is_there() -> bool:
        return metric in scrape(asked.service.metrics).labels

    until(is_there, f"the metric {metric}")


def test_steps_name_commands_that_exist() -> None:
    named = set(re.findall(r"`eliza-sessions ([a-z]+(?: [a-z]+)?)", PAGE))
    assert len(named) > 5
    for words in named:
        ended = invoke(*words.split(), "--help")
        assert ended.status == 0, words
