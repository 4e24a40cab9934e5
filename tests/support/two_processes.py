"""`eliza-sessions serve --no-rest`, and `eliza-sessions rest` that calls it on the wire."""

from pathlib import Path

from tests.support.realtime.programs import Facade
from tests.support.service import Serve


class TwoProcesses(Serve):
    """A running server and a running facade; `rest` is the facade's address, `grpc` the server's."""

    def __init__(self, directory: Path, **settings: str) -> None:
        """Starts both and waits until both are ready."""
        super().__init__(directory, "--no-rest", **settings)
        try:
            self.facade = Facade(self.grpc, "127.0.0.1:0", directory / "facade", **settings)
        except BaseException:
            super().kill()
            raise
        self.reach_rest(self.facade.address)

    def log(self) -> str:
        return super().log() + self.facade.log_path.read_text()

    def stop(self) -> int:
        """Ends the facade, then the server; returns 0 if both end so, else the first other status."""
        status = self.facade.stop()
        return super().stop() or status

    def kill(self) -> None:
        """Kills both with SIGKILL."""
        if hasattr(self, "facade"):
            self.facade.kill()
        super().kill()
