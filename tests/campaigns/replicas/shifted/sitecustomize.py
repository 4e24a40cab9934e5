"""Has a Python go by a clock that is wrong: with this directory on PYTHONPATH, by CLOCK_SHIFT_SECONDS.

It says so on standard error. `time.time_ns` is what the service's clock reads. `time.time` stays right: gRPC
compares it with deadlines that its core has from the machine's clock. So do monotonic clocks.
"""

import os
import sys
import time

_SHIFT_NS = round(float(os.environ.get("CLOCK_SHIFT_SECONDS", "0")) * 1e9)

if _SHIFT_NS:
    _time_ns = time.time_ns
    time.time_ns = lambda: _time_ns() + _SHIFT_NS
    sys.stderr.write(f"the clock is wrong by {_SHIFT_NS // 10**9} s\n")
