raise ImportError("only the tests have aiohttp")
