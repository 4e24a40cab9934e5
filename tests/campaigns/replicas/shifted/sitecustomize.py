"""Has a Python go by a clock that is wrong: with this directory on PYTHONPATH, by CLOCK_SHIFT_SECONDS.

It says so on standard error. Monotonic clocks are left alone, as they are where a machine's clock is wrong.
"""

import os
import sys
import time

_SHIFT_NS = round(float(os.environ.get("CLOCK_SHIFT_SECONDS", "0")) * 1e9)

if _SHIFT_NS:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _SHIFT_NS / 1e9
    time.time_ns = lambda: _time_ns() + _SHIFT_NS
    sys.stderr.write(f"the clock is wrong by {_SHIFT_NS // 10**9} s\n")
