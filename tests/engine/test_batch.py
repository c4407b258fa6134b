from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from router.engine.batch import Work


def test_work_is_a_frozen_value_that_asks_for_no_token_unless_told():
    work = Work(slot=1, start=5, tokens=np.array([7], np.int32))
    assert work.sampler is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        work.start = 6
