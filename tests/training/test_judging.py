"""Which epoch is kept: the last that is as good as the one of the lowest validation loss."""

import numpy as np
import pytest

from rightfit.training.judging import is_kept, remember
from rightfit.training.state import Progress


def kept(*epochs, groups=None):
    """Whether each epoch's losses (N,) replaced those before it."""
    progress, found = Progress(), []
    for number, losses in enumerate(epochs, 1):
        found.append(is_kept(progress, np.array(losses, float), groups))
        remember(progress, np.array(losses, float), number)
    return found


FIRST = [0.5, 0.5, 0.6, 0.6, 0.4, 0.6]


@pytest.mark.parametrize(
    "later, replaces",
    [
        ([0.4, 0.7, 0.5, 0.7, 0.4, 0.6], True),  # higher, but within the noise
        ([0.3, 0.3, 0.3, 0.3, 0.3, 0.3], True),  # lower
        ([0.6, 0.5, 0.7, 0.6, 0.4, 0.6], False),  # higher by more than a standard error, though not surely
        ([0.9, 1.0, 1.1, 0.9, 1.0, 1.1], False),  # surely higher
        ([0, 0, 3_000, 2_500, 0, 4_000], False),  # half of them lost: their spread is no excuse
    ],
)
def test_a_later_epoch_is_kept_unless_it_is_worse_by_more_than_a_standard_error(later, replaces):
    assert kept(FIRST, later) == [True, replaces]


def test_of_one_group_only_the_lowest_is_kept():
    """Else no run of one patient's images would ever run out of patience."""
    first = np.array(FIRST)
    assert kept(first, first + 0.001, first - 0.001, groups=np.zeros(6, int)) == [True, False, True]
