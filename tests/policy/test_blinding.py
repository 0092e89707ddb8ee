"""Blind policies: what was taken away no longer matters, all the rest does."""

from __future__ import annotations

import pytest
import torch
from policies import make_policy

from hf_unmask.policy import UnmaskingPolicyConfig, load_policy, save_policy
from hf_unmask.policy.blinding import INPUTS, make_blind
from hf_unmask.policy.config import CODE_SIZE

WIDTH = 6
ALL = {"hidden_input_size": 3, "further_inputs": "portable"}
READS = UnmaskingPolicyConfig(**ALL)


def given() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    masked = torch.tensor([[True, False, True, True, False, False], [False, True, True, False, True, False]])
    return {
        "confidences": torch.rand(2, WIDTH, 1, generator=g),
        "masked": masked,
        "time": torch.tensor([0.0, 0.4]),
        "hidden": torch.randn(2, WIDTH, 3, generator=g),
        "further": torch.rand(2, WIDTH, READS.further_size, generator=g),
        "calibration": torch.rand(2, CODE_SIZE, generator=g),
    }


def changes() -> dict[str, dict[str, torch.Tensor]]:
    """By input: the same observation with that input alone changed."""
    first = given()
    revealed = ~first["masked"][..., None]

    def other(columns: slice) -> torch.Tensor:
        return torch.cat([first["further"][..., : columns.start], 1 - first["further"][..., columns],
                          first["further"][..., columns.stop :]], dim=-1)  # fmt: skip

    return {
        "confidences": first | {"confidences": 1 - first["confidences"]},
        "mask bits": first | {"masked": ~first["masked"]},
        "time": first | {"time": first["time"] + 0.5},
        "hidden states": first | {"hidden": -first["hidden"]},
        "revealed positions": first
        | {
            "confidences": torch.where(revealed, 1 - first["confidences"], first["confidences"]),
            "hidden": torch.where(revealed, -first["hidden"], first["hidden"]),
            "further": torch.where(revealed, 1 - first["further"], first["further"]),
        },
        **{name: first | {"further": other(columns)} for name, columns in READS.further_columns.items()},
        "calibration": first | {"calibration": 1 - first["calibration"]},
    }


@pytest.mark.parametrize("name", INPUTS)
def test_only_the_input_that_was_taken_away_no_longer_matters(name, tmp_path):
    policy = make_policy(**ALL).eval()
    assert make_blind(policy, name)
    save_policy(policy, tmp_path / "blind")
    policy = load_policy(tmp_path / "blind")
    with torch.no_grad():
        before = policy(**given())
        moved = {key: not torch.equal(policy(**changed), before) for key, changed in changes().items()}
    assert moved == {key: key != name for key in INPUTS}


def test_the_other_inputs_are_read_as_before():
    """At time 0, of which the constant is made, a policy that is blind to time answers as the whole one."""
    whole, blind = make_policy(**ALL).eval(), make_policy(**ALL).eval()
    assert make_blind(blind, "time")
    at_zero = given() | {"time": torch.zeros(2)}
    with torch.no_grad():
        torch.testing.assert_close(blind(**at_zero), whole(**at_zero))


@pytest.mark.parametrize(
    ("name", "options"), [("hidden states", {}), ("revealed positions", {"reads_revealed": False})]
)
def test_nothing_to_take_away(name, options):
    policy = make_policy(**options)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    assert not make_blind(policy, name)
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


def test_a_name_that_is_no_input():
    with pytest.raises(ValueError, match=r"blind to confidences, mask bits.* not to 'speed'"):
        make_blind(make_policy(), "speed")
