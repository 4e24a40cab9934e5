from tests.harness import Serve


def test_a_session_is_created_and_read(service: Serve) -> None:
    created = service.create(metadata={"platform": "web"})
    found = service.http.get(f"{service.url}/{created['sessionId']}", timeout=5).json()
    assert found["metadata"] == {"platform": "web"}
    assert found["timeRemaining"] == 30 * 60_000
