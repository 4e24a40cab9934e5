"""What the benchmark drives and reads, each for a moment: wrk and h2load where they are installed, their
output as it was recorded.
"""

import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest
import uvloop

from tests.campaigns.load import h2load, wrk
from tests.campaigns.load.beside_rows import lags_ms, no_op_ms, watching, write_beside
from tests.campaigns.load.figures import Plan
from tests.campaigns.load.grpc_rows import Grpc
from tests.campaigns.load.rest_rows import Rest
from tests.campaigns.load.subjects import PROGRAMS, THIS, cpu_seconds, hello, memory_mib, no_op, run, started
from tests.campaigns.overload import Campaign, sessions
from tests.support.service import HIDDEN_PACKAGES, Serve, Start

with_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: apt-get install wrk")
with_h2load = pytest.mark.skipif(
    not shutil.which("h2load"), reason="h2load is not installed: apt-get install nghttp2-client"
)

SHORT = Plan(frozenset(), rounds=1, seconds=0.2, stored=10, watchers=3)

WRK = """\
Running 2s test @ http://127.0.0.1:35291
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    18.71ms    9.38ms  76.41ms   82.22%
    Req/Sec     1.78k   325.68     2.22k    63.16%
  3382 requests in 2.01s, 2.62MB read
  Non-2xx or 3xx responses: 12
Requests/sec:   1682.46
Transfer/sec:      1.31MB
bench: {"done":3382,"seconds":2.010153,"refused":12,"lost":3,"p50_ms":17.011000,"p99_ms":52.410000}
"""

H2LOAD = """\
Stopped all clients for thread #0

finished in {took}, 3273.00 req/s, 1023.48KB/s
requests: 3273 total, 3277 started, 3273 done, 3270 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 3270 2xx, 0 3xx, 0 4xx, 3 5xx
traffic: 1023.48KB (1048041) total, 9.65KB (9879) headers (space savings 95.43%), 837.43KB (857526) data
                     min         max         mean         sd        +/- sd
time for request:      223us     26.95ms      1.22ms      2.35ms    96.70%
"""


def test_the_output_of_wrk_is_read() -> None:
    answers = wrk.parse(WRK)
    assert answers == wrk.Answers(3382, 2.010153, 12, 3, 17.011, 52.41)
    assert answers.rate == pytest.approx(3370 / 2.010153)
    assert answers.answered == pytest.approx(3370 / 3385)
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(("took", "seconds"), [("1.00s", 1), ("500.00ms", 0.5)])
def test_the_output_of_h2load_is_read(took: str, seconds: float) -> None:
    calls = h2load.parse(H2LOAD.format(took=took))
    assert calls == h2load.Calls(3270, 3, 857526, seconds)
    with pytest.raises(ValueError, match="-d: Could not"):
        h2load.parse("-d: Could not mmap file /dev/null")


@with_wrk
def test_rest_is_loaded_and_counted_by_status(service: Serve) -> None:
    rest = Rest(service, 1)
    for load in (rest.get(), rest.create(), rest.send(), rest.reply(), rest.page()):
        assert load.done > 0
        assert (load.refused, load.lost) == (0, 0)
        assert load.cpu_us > 0
    unknown = "/api/messaging/sessions/00000000-0000-4000-8000-000000000000"
    load = wrk.drive(psutil.Process(service.process.pid), service.rest, "GET", [unknown], None, 1)
    assert load.refused == load.done > 0


@with_h2load
def test_grpc_is_loaded_and_refusals_are_seen(service: Serve) -> None:
    grpc = Grpc(service, 0.2)
    for load, request, size in (grpc.get(), grpc.send(), grpc.reply()):
        assert load.done > 0
        assert load.cpu_us > 0
        assert load.answered == pytest.approx(1, abs=0.03)
        assert len(request) < size
    get = "/eliza.sessions.v1.SessionService/GetSession"
    load = h2load.drive(psutil.Process(service.process.pid), service.grpc, get, [b""], 0.2, 250)
    assert load.done > 0
    assert load.answered == 0


@with_wrk
def test_what_rest_is_compared_with_answers() -> None:
    with hello() as flask, started(THIS.program("constant_view.py")) as host:
        for program in (flask, host):
            load = wrk.drive(program.process, program.address, "GET", ["/"], None, 1)
            assert load.done > 0
            assert (load.refused, load.lost) == (0, 0)


@with_h2load
def test_what_grpc_is_compared_with_answers_in_the_wanted_size() -> None:
    with started(no_op()) as program:
        load = h2load.drive(program.process, program.address, "/no-op/253", [b"request"] * 2, 0.2, 253)
        assert load.done > 0
        assert load.answered == 1


def test_a_program_that_does_not_start_is_told_of() -> None:
    with (
        pytest.raises(RuntimeError, match="No such file"),
        started([*THIS.program("constant_view.py")[:2], "/nowhere.py"]),
    ):
        pass


def test_the_no_op_is_timed_while_work_goes_on(service: Serve) -> None:
    taken, result = no_op_ms(service, lambda: time.sleep(0.1) or "done")
    assert result == "done"
    assert min(taken) > 0


@pytest.mark.parametrize("surface", ["grpc", "rest"])
def test_watchers_hear_what_is_written(service: Serve, surface: str) -> None:
    before, during, sent = write_beside(service, surface, SHORT)
    assert before[0] < before[1] == during[0] < during[1]
    assert sent >= 1


def test_watchers_that_end_are_told_of(service: Serve) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(EOFError, match="ended with 1"), watching("grpc", service.grpc, nobody, 2) as hear:
        hear()


def test_a_filled_store_is_served_by_loops_that_note_their_lag(start: Start, tmp_path: Path) -> None:
    run([*THIS.program("filled.py"), str(tmp_path / "store.db"), "12"], THIS.root)
    folder = Path(shutil.copytree(PROGRAMS / "lag", tmp_path / "lag"))
    begun = time.monotonic()
    service = start(PYTHONPATH=f"{folder}:{HIDDEN_PACKAGES}")
    process = psutil.Process(service.process.pid)
    assert cpu_seconds(process) > 0
    assert memory_mib(process)[0] <= memory_mib(process)[1]
    assert service.http.get(f"{service.url}?limit=10", timeout=30).json()["total"] == 12
    assert service.stop() == 0
    assert len(lags_ms(folder, (begun, time.monotonic()))) > 1


def test_a_long_lag_counts_as_often_as_it_hid_others(tmp_path: Path) -> None:
    (tmp_path / "1.lag").write_text("1.0 0.001\n2.0 0.012\n9.0 5.0")
    (tmp_path / "2.lag").write_text("1.0 0.0005")
    assert lags_ms(tmp_path, (0, 3)) == pytest.approx([1, 12, 7, 2])


@pytest.mark.parametrize("rest", [False, True], ids=["gRPC", "REST"])
def test_an_overload_is_offered(service: Serve, rest: bool) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        campaign = Campaign(service, sessions(service, 20), pool, 1, rest=rest)
        result = uvloop.run(campaign.run(factor=2, seconds=0.5, peak_seconds=0.2, deadline_s=1, callers=[4]))
    assert result.peak > 0
    assert result.goodput > 0
    assert (result.watch.rest_ms if rest else result.watch.grpc_ms) != []
