"""What the commands do with a store: the interface of its tools."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from server.store.copying import CopySource, CopyTarget

Progress = Callable[[int, int], None]
"""Is told how much is copied, and how much there is."""


class StoreTools(ABC):
    """What the commands do with a store, by its URL.

    `place` names it for people, `schema` is the one that this version works with.
    """

    place: str
    schema: int

    @abstractmethod
    def stored_schema(self) -> int:
        """Reads the schema of the store, which may be an older one. Raises StoreOpenError."""

    @abstractmethod
    def migrate(self) -> None:
        """Makes the store, or brings it to this version's schema; nobody may be serving it.

        Raises StoreOpenError.
        """

    @abstractmethod
    def check(self, on_problem: Callable[[str], None]) -> str:
        """Tells each thing that is wrong with the store, as of one moment, and changes nothing; returns what
        it holds, for people.

        A store of an older schema is checked as if it were migrated. Raises StoreOpenError where the store
        cannot be read.
        """

    @abstractmethod
    def compact(self, progress: Progress) -> tuple[int, int]:
        """Makes the store as small as it can be; nobody may be serving it. Returns its size in bytes before
        and afterwards.

        Raises StoreOpenError, also where there is no room for it.
        """

    @abstractmethod
    def back_up(self, target: Path, progress: Progress) -> None:
        """Copies the store, as it is at one moment, to a file that must not be there yet.

        Raises CopyError.
        """

    @abstractmethod
    def restore(self, source: Path, progress: Progress) -> None:
        """Puts a sound backup in place, where no store may be yet. Raises CopyError.

        A backup of an older schema is copied as it is: whoever opens the store migrates it.
        """

    @abstractmethod
    def copy_source(self) -> AbstractContextManager[CopySource]:
        """Opens the store to be copied; nobody may be serving it, and nobody can meanwhile.

        Raises StoreOpenError.
        """

    @abstractmethod
    def copy_target(self) -> AbstractContextManager[CopyTarget]:
        """Opens the place that a store is copied to, which is made where it is missing.

        Raises StoreOpenError.
        """
