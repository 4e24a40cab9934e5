raise ImportError("only the tests have rich")
