"""What every user of the API needs: the stubs (`v1`), errors, limits, and values as protobuf, JSON and plain Python."""
