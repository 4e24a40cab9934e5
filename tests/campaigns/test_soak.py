"""The short form of the soak (see `soak`): that it runs clean.

Whether anything levels off, half an hour tells.
"""

import os
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.campaigns import soak


def soaked(directory: Path, **spec: float) -> soak.Sampler:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**9))
    print(f"SOAK_SEED={seed}")
    sampler, wrong = soak.run(directory, seed=seed, **spec)
    assert wrong == []
    return sampler


def test_a_short_soak_is_clean(tmp_path: Path) -> None:
    sampler = soaked(tmp_path, minutes=0.05, every=0.5, rate=100, calibration=0)
    assert len(sampler.rows) >= 3
    plot = ElementTree.fromstring(soak.svg(sampler.rows, "a short soak"))
    assert len(plot.findall("{*}polyline")) == len(soak.SERIES)


def test_what_rises_is_told() -> None:
    level = [(float(n), *[50.0] * len(soak.SERIES), 100.0) for n in range(30)]
    assert soak.judged(level) == []
    rising = [(row[0], 50.0 + row[0], *row[2:]) for row in level]
    assert soak.judged(rising) == ["RSS rises from 64.5 to 74.5 MiB"]


@pytest.mark.slow
def test_a_soak_levels_off(tmp_path: Path) -> None:
    assert soak.judged(soaked(tmp_path, minutes=30, every=10, rate=0, calibration=15).rows) == []
