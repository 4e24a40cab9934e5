"""Announcements where something breaks: logged once, found again, and no queue without a bound."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.domain.access import EVERYTHING
from server.domain.log import Chunk
from server.store import open_store as open_by_url
from server.store.hints import Hint
from server.store.options import SharedOptions
from server.store.postgres.announcer import MOST_PIECE_CHARACTERS, MOST_PIECES
from server.store.postgres.clock import DatabaseTime
from server.store.postgres.frames import MOST_SENDERS, FrameReader, write_frames
from server.store.postgres.store import PostgresStore
from server.store.values import StoreOpenError
from server.telemetry.telemetry import OFF
from server.telemetry.traces import NO_TRACES
from tests.store.conformance.common import say
from tests.store.postgres.opened import Cluster, open_store, until_listening
from tests.support.cutting_proxy import CuttingProxy, Verdict, let_pass
from tests.support.inside_postgres import announcer_of, link_of, listener_of
from tests.support.postgres import free_port
from tests.support.waiting import eventually
from tests.unit.samples import put, session

pytestmark = pytest.mark.postgres


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(cluster.server.port) as proxy:
        yield proxy


def through(database: str, cluster: Cluster, proxy: CuttingProxy) -> str:
    return database.replace(f":{cluster.server.port}/", f":{proxy.port}/")


def refuse_all(data: bytes, is_clients: bool) -> Verdict:
    return Verdict.CUT


def end_connections(cluster: Cluster, database: str) -> None:
    """Ends the connections on which servers tell each other what they do."""
    cluster.server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{database.rsplit('/', 1)[1]}' AND application_name ~ '(listens|announcements)$'"
    )


def of(logs: list[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


def heard(store: PostgresStore) -> list[Hint]:
    told: list[Hint] = []
    store.add_hint_listener(told.append)
    return told


async def until_heard(told: list[Hint], condition: Callable[[Hint], object]) -> None:
    await eventually(lambda: any(map(condition, told)), lambda: told)


async def test_a_listener_that_is_cut_off_says_so_once_and_finds_back(
    database: str, cluster: Cluster, proxy: CuttingProxy
) -> None:
    store = await open_store(database, listen_url=through(database, cluster, proxy))
    other = await open_store(database)
    try:
        await until_listening(store)
        told = heard(store)
        with capture_logs() as logs:
            proxy.rule = refuse_all
            end_connections(cluster, database)
            tries = proxy.cuts
            await eventually(lambda: proxy.cuts >= tries + 4)
            assert not listener_of(store).is_listening.is_set()
            proxy.rule = let_pass
            # Whatever was announced meanwhile is lost: all is looked at.
            await until_heard(told, lambda hint: hint.all)
            one = session()
            await put(other, one)
            await other.apply(one.id, say(), scope=EVERYTHING)
            await until_heard(told, lambda hint: hint.grown.get(one.id) == 1)
            await eventually(
                lambda: any(
                    line["purpose"] == "listens" for line in of(logs, "a connection can be used again")
                )
            )
        lost = [line for line in of(logs, "a connection cannot be used") if line["purpose"] == "listens"]
        (line,) = lost
        assert line["log_level"] == "warning"
        assert len(line["error_id"]) == 32
        again = [line for line in of(logs, "a connection can be used again") if line["purpose"] == "listens"]
        assert [line["error_id"] for line in again] == [line["error_id"]]
    finally:
        await store.close()
        await other.close()


async def test_a_listen_url_that_leads_nowhere_is_said_once_and_the_store_works(database: str) -> None:
    nowhere = f"postgresql://eliza:secret@127.0.0.1:{free_port()}/x"
    with capture_logs() as logs:
        store = await open_store(database, listen_url=nowhere)
        try:
            one = session()
            await put(store, one)
            for number in range(1, 4):
                assert (await store.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == number
            await eventually(lambda: len(of(logs, "a connection cannot be used")) >= 2)
            # Both go on trying, a little more seldom each time.
            await eventually(lambda: link_of(listener_of(store)).pause_s > 0.3)
        finally:
            await store.close()
    told = of(logs, "a connection cannot be used")
    assert sorted(line["purpose"] for line in told) == ["announcements", "listens"]
    assert all("refused" in line["cause"] for line in told)
    assert "secret" not in repr(logs)


async def test_a_listen_url_that_cannot_be_read_is_refused_at_the_start(database: str) -> None:
    with pytest.raises(StoreOpenError, match="DATABASE_LISTEN_URL cannot be read") as caught:
        await open_by_url(
            database, DatabaseTime(), 9, OFF, NO_TRACES, SharedOptions("postgresql://u:secret@h/x?what=1")
        )
    assert "secret" not in str(caught.value)


async def test_what_could_not_be_told_is_told_as_everything(
    database: str, cluster: Cluster, proxy: CuttingProxy
) -> None:
    store = await open_store(database, listen_url=through(database, cluster, proxy))
    other = await open_store(database)
    try:
        await until_listening(other)
        one = session()
        await put(store, one)
        told = heard(other)
        proxy.rule = refuse_all
        end_connections(cluster, database)
        await store.apply(one.id, say(), scope=EVERYTHING)
        # The announcer has tried, and the announcement is lost.
        await eventually(lambda: link_of(announcer_of(store)).pause_s > 0.05)
        proxy.rule = let_pass
        await until_heard(told, lambda hint: hint.all)
    finally:
        proxy.rule = let_pass
        await store.close()
        await other.close()


async def test_a_listener_that_fails_keeps_no_other_from_hearing(database: str) -> None:
    store, other = await open_store(database), await open_store(database)

    def fail(hint: Hint) -> None:
        raise ValueError("of a listener")

    store.add_hint_listener(fail)
    told = heard(store)
    try:
        await until_listening(store)
        for _ in range(2):
            one = session()
            await put(other, one)
            await other.apply(one.id, say(), scope=EVERYTHING)
            await until_heard(told, lambda hint, one=one: one.id in hint.grown)
    finally:
        await store.close()
        await other.close()


async def test_pieces_that_cannot_be_told_have_a_bound(database: str) -> None:
    store = await open_store(database, listen_url=f"postgresql://eliza@127.0.0.1:{free_port()}/x")
    announcer = announcer_of(store)
    try:
        await eventually(lambda: link_of(announcer).is_lost)
        for number in range(3 * MOST_PIECES):
            announcer.note_piece(Chunk("s", "a", f"m{number}", "x", 0, 1, 1, 1))
        assert len(announcer._pieces) <= MOST_PIECES
        for number in range(100):
            announcer.note_piece(Chunk("s", "a", f"m{number % 7}", "x" * 50_000, 0, 1, 1, 1))
        waiting = sum(len(piece.text) for piece in announcer._pieces)
        assert 0 < waiting == announcer._piece_characters <= MOST_PIECE_CHARACTERS
    finally:
        await store.close()


def test_beginnings_of_servers_that_died_are_not_kept_for_ever() -> None:
    reader = FrameReader("me")
    for number in range(5 * MOST_SENDERS):
        first, *_ = write_frames(f"server{number}", {"a": ["x" * 20_000]})
        assert reader.read(first) is None
    assert len(reader._parts) <= MOST_SENDERS
    *_, hint = [reader.read(frame) for frame in write_frames("late", {"a": ["x" * 20_000]})]
    assert hint is not None
    assert hint.due == ["x" * 20_000]
