"""The end of a campaign: model, store and watchers are compared."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter, defaultdict
from typing import Any

from eliza.sessions import values
from eliza.sessions.v1 import log_pb2, message_pb2
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.model import Dropped, Findings, Model
from tests.campaigns.traffic.watcher import Watcher, seen_entry

SETTLING_SECONDS = 60
"""After which without anything new what replies and watchers still owe in the end is lost."""


class Check:
    """Compares what was acknowledged with what a reader finds and with what the watchers saw."""

    def __init__(
        self,
        model: Model,
        reader: GrpcClient,
        watchers: list[Watcher],
        dropped: dict[str, dict[tuple[str, str], Dropped]],
    ) -> None:
        """`dropped`: messages whose connection was dropped, by the phase in which it was."""
        self._model = model
        self._reader = reader
        self._watchers = watchers
        self._dropped = dropped

    async def run(self, ended_ms: dict[str, int]) -> Findings:
        """Once the callers have stopped; the service runs. `ended_ms`: when phases ended."""
        model, found = self._model, self._model.findings
        watched = {watcher.session_id for watcher in self._watchers}
        ids = list({*model.sent, *model.kept, *model.beats, *watched})
        # All at a time, because where something is lost each is waited for to the end of patience.
        logs = dict(
            zip(
                ids,
                await asyncio.gather(*(self._log(one, 2 * len(model.sent[one])) for one in ids)),
                strict=True,
            )
        )
        for session_id, log in logs.items():
            self._check_log(session_id, log, ended_ms)
        await asyncio.gather(
            *(self._check_watcher(watcher, logs[watcher.session_id]) for watcher in self._watchers)
        )
        marks: Counter[str] = Counter()
        page_token = ""
        while True:
            page = await self._reader.list_page(page_token)
            marks.update(str(session.metadata["mark"]) for session in page.sessions)
            there = {session.session_id: str(session.metadata["mark"]) for session in page.sessions}
            found.lost += [f"session {one} was deleted and is there" for one in there.keys() & model.deleted]
            found.doubled += [
                f"session {one} of {mark} was never acknowledged"
                for one, mark in there.items()
                if model.created.get(mark) != one
            ]
            page_token = page.next_page_token
            if not page_token:
                break
        found.doubled += [f"{mark} has {count} sessions" for mark, count in marks.items() if count > 1]
        found.lost += [
            f"session of {mark}"
            for mark, one in model.created.items()
            if one not in model.deleted and mark not in marks
        ]
        return found

    async def _log(self, session_id: str, messages: int) -> list[log_pb2.LogEntry]:
        """A session's whole log, with so many messages in it; less, where nothing more comes."""
        entries: list[log_pb2.LogEntry] = []
        now_s = asyncio.get_running_loop().time
        with contextlib.suppress(TimeoutError):
            last = (await self._reader.get(session_id)).last_sequence
            async with asyncio.timeout(SETTLING_SECONDS) as patience:
                async for entry in self._reader.watch(session_id, 0):
                    patience.reschedule(now_s() + SETTLING_SECONDS)
                    entries.append(entry)
                    messages -= entry.HasField("message")
                    if entry.sequence >= last and messages <= 0:
                        last = (await self._reader.get(session_id)).last_sequence
                        if entry.sequence == last:
                            break
        return entries

    def _check_log(self, session_id: str, log: list[log_pb2.LogEntry], ended_ms: dict[str, int]) -> None:
        model, found = self._model, self._model.findings
        if [entry.sequence for entry in log] != list(range(1, len(log) + 1)):
            found.gaps.append(f"the log of {session_id}: {_breaks([entry.sequence for entry in log])}")
        messages = [entry.message for entry in log if entry.HasField("message")]
        asked: dict[str, list[Any]] = defaultdict(list)
        replies: dict[int, list[Any]] = defaultdict(list)
        for message in messages:
            if message.is_agent:
                replies[message.reply_to_sequence].append(message)
            else:
                asked[message.content].append(message)
        found.disordered += [f"{session_id}: {what}" for what in misplaced(messages)]
        sent = model.sent[session_id]
        for content, stored in asked.items():
            if len(stored) > 1:
                found.doubled.append(f"{content} is there {len(stored)} times")
            if content not in sent:
                found.other.append(f"{content} was never acknowledged")
        for content, answer in sent.items():
            ours = [message for message in asked.get(content, ()) if message.message_id == answer.message_id]
            if not ours:
                found.lost.append(f"{content}, acknowledged as {answer.message_id}")
                continue
            answers = replies[ours[0].sequence]
            if len(answers) != 1 or answers[0].content != content:
                (found.doubled if len(answers) > 1 else found.lost).append(
                    f"{content} has {len(answers)} replies"
                )
            elif answer.reply_id not in (None, answers[0].message_id):
                found.lost.append(f"the reply {answer.reply_id} to {content}")
            stored_ms = values.ms_floor(ours[0].created_at)
            for phase, drops in self._dropped.items():
                drop = drops.get((session_id, content))
                # What was stored before the attempt had begun is an earlier attempt's.
                if not drop or phase not in ended_ms:
                    continue
                if drop.begun_ms <= stored_ms <= min(ended_ms[phase], drop.dropped_ms):
                    found.dropped.append(
                        f"{content} was stored in {phase}, {ended_ms[phase] - stored_ms} ms before its end, "
                        "and its connection dropped "
                        f"without an answer: {drop}"
                    )
        if session_id in model.kept:
            stored_kinds = [(entry.sequence, entry.WhichOneof("event")) for entry in log]
            found.lost += [
                f"{kind} {n} of {session_id}"
                for n, kind in model.kept[session_id]
                if (n, kind) not in stored_kinds
            ]
            found.doubled += [
                f"{kind} {n} of {session_id} was not asked for"
                for n, kind in stored_kinds
                if (n, kind) not in model.kept[session_id]
            ]
        if session_id in model.beats:
            count = sum(entry.HasField("renewal") for entry in log)
            if count < model.beats[session_id]:
                found.lost.append(f"heartbeats of {session_id}: {count} of {model.beats[session_id]}")
            if count > model.tries[session_id]:
                found.doubled.append(
                    f"heartbeats of {session_id}: {count} of {model.tries[session_id]} tried"
                )
        if sent and log and log[-1].session_status.renewal_count != len(asked):
            found.other.append(
                f"{session_id} was renewed {log[-1].session_status.renewal_count} times by {len(asked)} "
                "messages"
            )

    @staticmethod
    async def _caught_up(watcher: Watcher, count: int) -> None:
        """Waits until a watcher has seen so many entries, or sees nothing more."""
        stood, since = -1, 0.0
        while watcher.sequence < count and (
            stood != watcher.sequence or time.monotonic() < since + SETTLING_SECONDS
        ):
            if stood != watcher.sequence:
                stood, since = watcher.sequence, time.monotonic()
            await asyncio.sleep(0.02)

    async def _check_watcher(self, watcher: Watcher, log: list[log_pb2.LogEntry]) -> None:
        await self._caught_up(watcher, len(log))
        stored = [seen_entry(entry) for entry in log]
        if watcher.seen != stored:
            numbers = [number for number, _, _ in watcher.seen]
            what = _breaks(numbers) or f"{len(numbers)} of {len(stored)} entries, or others"
            self._model.findings.gaps.append(f"{watcher.client.kind} watcher of {watcher.session_id}: {what}")


def misplaced(messages: list[message_pb2.Message]) -> list[str]:
    """What of a log does not stand in its order: the messages of each sender, who sends one after the other
    and numbers them (`name-7`), and the replies, which come in the order of what they answer.
    """
    told = []
    numbers: dict[str, int] = {}
    answered = 0
    for message in messages:
        if message.is_agent:
            if message.reply_to_sequence < answered:
                told.append(f"the reply to {message.reply_to_sequence} comes behind that to {answered}")
            answered = max(answered, message.reply_to_sequence)
            continue
        name, _, number = message.content.rpartition("-")
        if numbers.get(name, -1) > int(number):
            told.append(f"{message.content} comes behind {name}-{numbers[name]}")
        numbers[name] = max(numbers.get(name, -1), int(number))
    return told


def _breaks(numbers: list[int]) -> str:
    """Where a list of sequences does not go on by one."""
    steps = [f"{one} then {two}" for one, two in itertools.pairwise([0, *numbers]) if two != one + 1]
    return ", ".join(steps[:5])
