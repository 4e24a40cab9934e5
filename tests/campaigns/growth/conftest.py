from tests.store.postgres.conftest import cluster

__all__ = ["cluster"]
