"""The rules: plain values and pure functions. No I/O, no clock, no protobuf."""
