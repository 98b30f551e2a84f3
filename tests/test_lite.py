"""The classifier that tests and benchmarks take for real: it is the network that its weights were trained for."""

from __future__ import annotations

import numpy as np
import pytest

CATS, CUPS = range(281, 286), (504, 967, 968)  # classes of ImageNet: cats at home; espresso, mug and cup


@pytest.mark.slow
def test_the_package_knows_what_is_on_photographs(tmp_path):
    from corepress.runtime import load
    from tests import lite

    program = load(lite.package(tmp_path))
    for name, classes in (("chelsea", CATS), ("coffee", CUPS)):
        answers = [program.predict(sample)["logits"].argmax() for sample in lite.samples([name], 8)]
        assert np.isin(answers, list(classes)).mean() >= 0.75
