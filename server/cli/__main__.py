"""`python -m server.cli` is `eliza-sessions`."""

from server.cli import main

if __name__ == "__main__":
    main(prog_name="eliza-sessions")
