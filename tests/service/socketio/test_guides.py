"""The published guide and the snippets of our docs run as they are printed."""

import json
import subprocess
import threading
from pathlib import Path

from tests.service.agents.worker import Worker, stream_agent
from tests.service.docs.pages import example
from tests.service.socketio.rooms import origin
from tests.support.clients import replies, send
from tests.support.node import NODE
from tests.support.service import USER, Serve
from tests.support.waiting import until

GUIDE = """
const { io } = require('socket.io-client');
const [url, sessionId, userId] = process.argv.slice(2);
const socket = io(url);

// Join session room
socket.emit('join', { roomId: sessionId, entityId: userId });

// Listen for messages
socket.on('messageBroadcast', (message) => { console.log('New message:', message.text); });

// Listen for session events
socket.on('sessionExpirationWarning', (data) => { console.log(`Session expires in ${data.minutesRemaining} minutes`); });
socket.on('sessionExpired', (data) => { console.log(`Session ${data.sessionId} expired at ${data.expiredAt}`); });
socket.on('sessionRenewed', (data) => { console.log(`Session renewed until ${data.expiresAt}`); });
"""
HOLD = """
socket.on('room_joined', () => console.log('joined'));
process.stdin.resume().on('end', () => process.exit(0));
"""


def test_the_published_guide_works_as_printed(service: Serve, modules: Path, tmp_path: Path) -> None:
    session = service.create(
        timeoutConfig={"timeoutMinutes": 10, "warningThresholdMinutes": 2, "autoRenew": False}
    )
    (tmp_path / "guide.cjs").write_text(GUIDE + HOLD)
    lines: list[str] = []
    process = subprocess.Popen(
        [str(NODE), "guide.cjs", origin(service), session["sessionId"], USER],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    reader = threading.Thread(target=lambda: lines.extend(line.rstrip("\n") for line in process.stdout))
    with process:
        try:
            reader.start()
            until(lambda: "joined" in lines or process.poll() is not None, "the guide's socket to join")
            send(service, session["sessionId"], "Hello!")
            until(lambda: lines.count("New message: Hello!") == 2, "both messages")
            renewed = service.http.post(f"{service.url}/{session['sessionId']}/renew", timeout=10).json()
            until(lambda: f"Session renewed until {renewed['expiresAt']}" in lines, "the renewal")
            service.advance(minutes=8, ms=500)
            until(lambda: any(line.startswith("Session expires in") for line in lines), "the warning")
            service.advance(minutes=2)
            until(
                lambda: f"Session {session['sessionId']} expired at {renewed['expiresAt']}" in lines,
                "the expiry",
            )
            process.stdin.close()
        finally:
            # Before the block ends: it would wait for the reader, who waits for the process.
            process.kill()
            reader.join(timeout=10)
    assert len(lines) == 6, lines


def test_the_snippet_of_our_docs_prints_what_was_said_before(
    service: Serve, modules: Path, tmp_path: Path
) -> None:
    session = service.create()
    send(service, session["sessionId"], "said before")
    replies(service, session["sessionId"], 1)
    head = "const { io } = require('socket.io-client');\nconst [url, sessionId] = process.argv.slice(2);\n"
    snippet = example("listen.js").replace('"http://127.0.0.1:3000"', "url")
    (tmp_path / "snippet.cjs").write_text(
        f"{head}{snippet}let left = 2;\nsocket.on('messageBroadcast', () => --left || process.exit(0));"
    )
    done = subprocess.run(
        [str(NODE), "snippet.cjs", origin(service), session["sessionId"]],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "said before\n" * 2), done.stderr


def test_the_pieces_that_our_docs_show_are_never_void(service: Serve, modules: Path, tmp_path: Path) -> None:
    """An attempt fails after it has sent a piece, the next one replies; then one fails for good."""
    head = (
        "const { io } = require('socket.io-client');\nconst [url, roomId] = "
        "process.argv.slice(2);\nconst socket = io(url);"
    )
    names = ["messageStreamChunk", "messageStreamAborted", "agentReplyFailed", "messageBroadcast"]
    tell = (
        f"for (const name of {names})\n  socket.on(name, (e) => console.log(JSON.stringify([name, "
        "[...pieces.values()], e])));"
    )
    join = "socket.emit('join', { roomId }, () => console.log('[]'));"
    (tmp_path / "pieces.cjs").write_text("\n".join([head, example("pieces.js"), tell, join]))
    agent_id = stream_agent(service)
    session_id = service.create(agentId=agent_id)["sessionId"]
    command = [str(NODE), "pieces.cjs", origin(service), session_id]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={"NODE_PATH": str(modules)}, stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()

    def said() -> tuple[str, list[str], dict]:
        return tuple(json.loads(process.stdout.readline()))

    try:
        with process, Worker(service.channel, agent_id) as worker:
            try:
                assert said() == ()
                send(service, session_id, "hello")
                first = worker.next()
                worker.chunk(first, "half a ")
                assert said()[:2] == ("messageBroadcast", [])
                assert said()[:2] == ("messageStreamChunk", ["half a "])
                worker.fail(first, "not now")
                void = {"messageId": first.reply_message_id, "sessionId": session_id, "attempt": 1}
                assert said() == ("messageStreamAborted", [], void)
                second = worker.next()
                worker.chunk(second, "whole")
                name, shown, chunk = said()
                assert (name, shown, chunk["attempt"], chunk["messageId"]) == (
                    "messageStreamChunk",
                    ["whole"],
                    2,
                    second.reply_message_id,
                )
                worker.answer(second, "whole")
                assert said()[:2] == ("messageBroadcast", [])
                send(service, session_id, "again")
                third = worker.next()
                worker.chunk(third, "never ")
                assert [said()[:2] for _ in range(2)] == [
                    ("messageBroadcast", []),
                    ("messageStreamChunk", ["never "]),
                ]
                worker.fail(third, "for good", final=True)
                assert said()[:2] == ("messageStreamAborted", [])
                name, shown, failed = said()
                assert (name, shown, failed["replyMessageId"]) == (
                    "agentReplyFailed",
                    [],
                    third.reply_message_id,
                )
                assert set(failed) == {
                    "sessionId",
                    "messageId",
                    "replyMessageId",
                    "reason",
                    "attempts",
                    "sequence",
                }
            finally:
                process.kill()
    finally:
        watchdog.cancel()


def test_the_snippet_of_our_docs_sends(service: Serve, modules: Path, tmp_path: Path) -> None:
    session_id = service.create()["sessionId"]
    head = "const { io } = require('socket.io-client');\nconst [url, sessionId] = process.argv.slice(2);\n"
    head += "const socket = io(url);\n"
    snippet = example("sending.js")
    (tmp_path / "sending.cjs").write_text(f"{head}{snippet}socket.on('messageAck', () => process.exit(0));")
    done = subprocess.run(
        [str(NODE), "sending.cjs", origin(service), session_id],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "mine-1 received_by_server_and_processing\n"), done.stderr
    assert [message.content for message in replies(service, session_id, 1)] == ["Hello!"]
