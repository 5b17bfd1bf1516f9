"""How far pruning goes when latency decides: the walk by made-up latencies, and a real one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge.measured_widths import GAIN, PATIENCE, shares_up_to, walk
from medge.statistics.latency import Ratio


def _clock(times: dict[float, float | None]) -> object:
    """Ratios of the given times, known to 1 %; None for a share without a width of its own."""

    def ratio_of(share: float, kept: float) -> Ratio | None:
        time = times[round(share, 2)]
        before = 1.0 if kept == 0 else times[round(kept, 2)]
        if time is None or before is None:
            return None
        return Ratio(time / before, 0.99 * time / before, 1.01 * time / before)

    return ratio_of


def test_the_walk_stops_where_two_steps_in_a_row_do_not_pay_and_says_so() -> None:
    times = {0.05: 0.9, 0.1: 0.93, 0.15: 0.8, 0.2: 0.82, 0.25: 0.80, 0.3: 0.4}
    found = walk(list(times), _clock(times))  # type: ignore[arg-type]
    assert found.share == 0.15
    assert found.log[0] == "prune: removing 5% more channels was faster: 0.90x [0.89, 0.91]; 5% go."
    assert found.log[1] == "prune: removing 5% more channels (10%) was slower: 1.03x [1.02, 1.04]."
    assert "not worth it: 1.00x" in found.log[4]
    assert found.log[-1] == "prune: 2 steps in a row did not pay; nothing beyond 25% was tried."


def test_five_per_cent_can_be_slower_than_none_and_more_can_still_pay() -> None:
    found = walk([0.05, 0.1], _clock({0.05: 1.03, 0.1: 0.8}))  # type: ignore[arg-type]
    assert found.share == 0.1
    assert "slower: 1.03x" in found.log[0]


def test_a_share_with_the_widths_of_another_is_not_measured_and_is_no_miss() -> None:
    found = walk([0.05, 0.1, 0.15], _clock({0.05: 1.0, 0.1: None, 0.15: 0.7}))  # type: ignore[arg-type]
    assert found.share == 0.15
    assert "no width is another" in found.log[1]


def test_where_nothing_pays_the_share_is_zero() -> None:
    assert walk([0.1, 0.2, 0.3], _clock({0.1: 1.0, 0.2: 1.1, 0.3: 0.5})).share == 0  # type: ignore[arg-type]


@given(st.lists(st.floats(0.3, 1.2), min_size=1, max_size=10))
def test_what_is_kept_is_faster_than_nothing_removed_by_all_the_gains_on_the_way(values: list[float]) -> None:
    times: dict[float, float | None] = {round(0.05 * (k + 1), 2): value for k, value in enumerate(values)}
    found = walk(list(times), _clock(times))  # type: ignore[arg-type]
    steps = sum("was faster" in line for line in found.log)
    kept = times.get(found.share, 1.0)
    assert kept is not None
    assert kept <= (1 - GAIN) ** steps + 1e-9
    missed = "".join(
        "." if "was slower" in line or "not worth it" in line else " " for line in found.log[: len(values)]
    )
    assert all(len(row) <= PATIENCE for row in missed.split())
    assert len(missed) == len(values) or found.log[-1].startswith(f"prune: {PATIENCE} steps in a row did not pay")


@pytest.mark.parametrize(("most", "count"), [(0.5, 10), (0.3, 6), (0.02, 1), (0.95, 19)])
def test_shares_end_with_the_most(most: float, count: int) -> None:
    shares = shares_up_to(most)
    assert len(shares) == count
    assert math.isclose(shares[-1], most)
    assert shares == sorted(shares)


def test_a_real_measurement_decides_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medge.compressors import prune
    from medge.data import dataset
    from medge.quick_latency import QuickBench
    from tests.synthetic_run import write_data
    from tests.teachers import context_of, teacher_of
    from tests.unit.compressors.test_prune import _widths

    write_data(tmp_path / "1-data", images=40, size=64)
    data = dataset.load(tmp_path / "1-data")
    teacher = teacher_of("mobilenetv3_small_100", data)
    asked: list[int] = []
    ratios = QuickBench.ratios
    monkeypatch.setattr(QuickBench, "ratios", lambda self, *a: (asked.append(1), ratios(self, *a))[1])
    options = prune.Options(ratio=0.1, latency=True, epochs=0)
    assert options.latency == "openvino"
    context = context_of(data, teacher, tmp_path / "work")
    first = prune.apply(teacher, options, context)
    assert 1 <= len(asked) <= 2
    measured = [line for line in context.log if line.startswith("prune: removing")]
    assert len(measured) == len(asked)
    taken = any("was faster" in line for line in measured)
    assert (_widths(first) != _widths(teacher)) == taken
    again = context_of(data, teacher, tmp_path / "work")
    assert _widths(prune.apply(teacher, options, again)) == _widths(first)
    assert len(asked) == len(measured)
    assert again.log == context.log


def test_a_backend_that_is_not_there_is_refused() -> None:
    from medge.compressors import prune

    with pytest.raises(ValueError, match="latency is one of"):
        prune.Options(latency="openvin")
