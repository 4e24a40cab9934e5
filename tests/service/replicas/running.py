"""Several servers on one PostgreSQL store, each a process of its own."""

from pathlib import Path

from tests.support.postgres import database_of
from tests.support.service import Serve


class Replicas:
    """`servers`: those that run."""

    def __init__(self, directory: Path, count: int, **settings: str) -> None:
        self.directory = directory
        self.url = database_of(directory)
        self._settings = {"DATABASE_URL": self.url, **settings}
        self.servers: list[Serve] = []
        try:
            for _ in range(count):
                self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> Serve:
        """Starts one more."""
        number = len(self.servers)
        self.servers.append(Serve(self.directory / f"server{number}", "--no-rest", **self._settings))
        return self.servers[-1]

    def close(self) -> None:
        """Ends those that still run; each must end in order."""
        statuses = [server.stop() for server in self.servers if server.process.poll() is None]
        assert not any(statuses), [server.log() for server in self.servers]
