raise ImportError("only the tests have websocket")
