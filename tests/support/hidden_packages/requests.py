raise ImportError("only the tests have requests")
