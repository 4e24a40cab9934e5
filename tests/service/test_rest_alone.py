"""`eliza-sessions rest`: a process of its own that meets strangers, and so has nothing that it
does not need.
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import requests

from tests.service.agents.worker import stream_agent
from tests.support.clients import create, history
from tests.support.realtime.programs import Facade, Program
from tests.support.service import Start
from tests.support.waiting import until

FREE = "127.0.0.1:0"


def test_it_keeps_no_secret_of_its_environment(start: Start, tmp_path: Path) -> None:
    secret = "s3cret-of-the-operator"
    names = (
        "AGENT_SECRET_ONE",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "PYTHON_INDEX_TOKEN",
        "HTTPS_PROXY",
    )
    needed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "TMPDIR": str(tmp_path), "REST_MAX_REQUESTS": "7"}
    server = start("--no-rest")
    program = Facade(
        server.grpc,
        FREE,
        tmp_path / "facade",
        fresh=True,
        DATABASE_URL=f"sqlite:///x?{secret}",
        **dict.fromkeys(names, secret),
        **needed,
    )
    try:
        given = psutil.Process(program.process.pid).environ()
        assert [name for name, value in given.items() if secret in value or name in names] == []
        assert {name: given.get(name) for name in needed} == needed
        assert program.health().json()["status"] == "healthy"
        assert "'REST_MAX_REQUESTS': 7" in program.log_path.read_text()
    finally:
        program.kill()


def test_files_of_the_working_directory_are_not_taken_for_its_own(start: Start, tmp_path: Path) -> None:
    server = start("--no-rest")
    code = f"open({str(tmp_path / 'executed')!r}, 'a').write(__file__)\nprint('ready', flush=True)\n"
    (tmp_path / "server").mkdir()
    for name in ("server.py", "server/__init__.py", "types.py", "flask.py", "sitecustomize.py"):
        (tmp_path / name).write_text(code)
    # A variable that it drops, so that it starts itself anew.
    installed = str(Path(sys.executable).with_name("eliza-sessions"))
    program = Program(
        [installed, "rest", "--server", server.grpc, "--rest-address", FREE], tmp_path, AGENT_SECRET_ONE="x"
    )
    try:
        url = f"http://{program.addresses['rest']}/api/messaging/sessions/health"
        assert requests.get(url, timeout=20).status_code == 200
    finally:
        program.kill()
    assert not (tmp_path / "executed").exists()


def test_its_stop_names_the_message_whose_reply_is_waited_for(start: Start, tmp_path: Path) -> None:
    server = start("--no-rest")
    program = Facade(server.grpc, FREE, tmp_path / "facade", SHUTDOWN_GRACE_SECONDS="1")

    def ask(session_id: str) -> requests.Response:
        url = f"{program.url}/{session_id}/messages"
        return requests.post(url, json={"content": "hello", "transport": "http"}, timeout=30)

    try:
        answer = ask(create(server).session_id)
        assert (answer.status_code, answer.json()["agentResponse"]["content"]) == (201, "hello")
        session_id = create(server, stream_agent(server)).session_id
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, session_id)
            until(lambda: history(server, session_id), "the message")
            program.process.send_signal(signal.SIGTERM)
            answer = asked.result()
        assert (answer.status_code, answer.json()["code"]) == (504, "AGENT_REPLY_TIMEOUT")
        (kept,) = history(server, session_id)
        assert answer.json()["details"] == {"sessionId": session_id, "messageId": kept.message_id}
    finally:
        program.kill()


def test_a_server_that_dies_while_a_reply_is_waited_for_leaves_the_message_named(
    start: Start, tmp_path: Path
) -> None:
    server = start("--no-rest")
    program = Facade(server.grpc, FREE, tmp_path / "facade")
    try:
        session_id = create(server, stream_agent(server)).session_id
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                requests.post,
                f"{program.url}/{session_id}/messages",
                json={"content": "hello", "transport": "http"},
                timeout=30,
            )
            until(lambda: history(server, session_id), "the message")
            (kept,) = history(server, session_id)
            server.kill()
            answer = asked.result()
        # Not a 503 with Retry-After, after which the message would be sent again.
        assert (answer.status_code, answer.json()["code"]) == (504, "AGENT_REPLY_TIMEOUT")
        assert answer.json()["details"] == {"sessionId": session_id, "messageId": kept.message_id}
    finally:
        program.kill()
