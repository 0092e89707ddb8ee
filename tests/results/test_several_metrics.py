"""Operating points that two metrics have scored: nothing is lost, whichever decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from operating_points import operating_point
from report_folder import with_well_formed, write

from hf_unmask.results.folder import read_contents
from hf_unmask.results.records import Accuracy
from hf_unmask.results.several_metrics import accuracies, metric_names, metrics_of, percentages, under
from hf_unmask.results.summary_tables import tables
from hf_unmask.results.trajectories import choose, payload
from hf_unmask.results.transfer_matrix import transfer_matrix

LOOSE = operating_point(4, 0.9)
BOTH = replace(LOOSE, further={"strict": Accuracy(0.4, (0.3, 0.5))})


def test_either_metric_may_decide() -> None:
    """Numbers of one metric under the name of the other, or with what was recorded of the other alone."""
    strict = under(replace(BOTH, pass_at_k={"1": 0.9}, majority=0.9), "strict")
    assert strict.setting == replace(BOTH.setting, metric="strict")
    assert (strict.accuracy, strict.accuracy_interval, strict.nfe_mean) == (0.4, (0.3, 0.5), 4)
    assert not (strict.pass_at_k or strict.majority or strict.accuracy_per_seed)
    assert replace(under(strict, "exact_match"), accuracy_per_seed=BOTH.accuracy_per_seed) == BOTH
    assert under(BOTH, "exact_match") is BOTH
    with pytest.raises(ValueError, match="was scored by exact_match, not by 'strict'"):
        under(LOOSE, "strict")


def test_names_and_percentages_have_one_order() -> None:
    assert list(accuracies(BOTH)) == metrics_of([LOOSE, BOTH]) == ["exact_match", "strict"]
    assert (percentages(BOTH), metric_names([LOOSE, BOTH])) == ("90.0 / 40.0", "exact_match / strict")
    assert (percentages(LOOSE), metric_names([LOOSE])) == ("90.0", "")
    matrix = transfer_matrix([BOTH])
    assert "by exact_match / strict @ mean NFE" in matrix.caption and matrix.body[0][1] == "90.0 / 40.0 % @ 4.0"


def test_a_folder_under_both_metrics(tmp_path) -> None:
    """A table that shows one metric only; scores by which nothing can be compared; a page that does not say both."""
    contents = read_contents(with_well_formed(write(tmp_path)))
    text = tables(contents)
    assert "| sums, exact / well_formed: best of |" in text and "| sums, exact / well_formed, full diffusion |" in text
    assert "| at most 4 NFE | 90.0 / 45.0 (4.0) [80.0, 100.0] `confidence:k=4` |" in text
    strict = [under(point, "well_formed") for point in contents.points]
    for point in strict:
        scores, right = contents.scores[point.setting.key], round(40 * point.further["exact"].accuracy)
        assert len(scores) == 40 and sum(scores.values()) == (right + 1) // 2  # every other one of the first
    (group,) = contents.groups
    (task,) = payload([choose(group, contents.answers[group.identity], set(), 10**6)], None)["tasks"]
    shown = [each["further"] for prompt in task["prompts"][:2] for each in prompt["trajectories"]]
    assert {"well_formed": 1.0} in shown and {"well_formed": 0.0} in shown
