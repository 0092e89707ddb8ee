"""Action distributions: likelihoods by enumeration, draws against likelihoods, extremes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_unmask.generation.step import Noise
from hf_unmask.policy import BernoulliUnmask, PlackettLuceUnmask

LOGITS = st.lists(st.floats(-6, 6), min_size=1, max_size=4)
EPS = torch.finfo(torch.float32).eps


def row(logits):
    return torch.tensor(logits, dtype=torch.float64)


def subsets(eligible):
    for bits in itertools.product(*[(0, 1) if e else (0,) for e in eligible]):
        yield torch.tensor(bits)


def ordered_lists(eligible):
    """Every ordered non-empty list of eligible positions, as ranks."""
    places = [i for i, e in enumerate(eligible) if e]
    for count in range(1, len(places) + 1):
        for chosen in itertools.permutations(places, count):
            action = torch.zeros(len(eligible), dtype=torch.long)
            for rank, place in enumerate(chosen, start=1):
                action[place] = rank
            yield action


def uniforms(draws, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(draws, width, generator=g, dtype=torch.float64), torch.rand(
        draws, generator=g, dtype=torch.float64
    )


def build(kind, logits, eligible, dial):
    if kind == "bernoulli":
        return BernoulliUnmask(logits, eligible, beta=math.exp(dial))
    return PlackettLuceUnmask(logits, eligible, stop_logit=dial)


def actions(kind, eligible):
    return torch.stack(list(subsets(eligible) if kind == "bernoulli" else ordered_lists(eligible)))


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
@settings(max_examples=50, deadline=None)
@given(logits=LOGITS, dial=st.floats(-3, 3), data=st.data())
def test_probabilities_sum_to_one(kind, logits, dial, data):
    eligible = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)).filter(any))
    every = actions(kind, eligible)
    found = build(kind, row(logits).expand(len(every), -1), torch.tensor(eligible).expand(len(every), -1), dial)
    assert found.log_prob(every).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
@pytest.mark.parametrize("dial", [-1.0, 0.0, 0.8])
def test_draws_follow_the_likelihood(kind, dial):
    logits, eligible = row([0.5, -1.0, 2.0, 0.3]), [True, True, False, True]
    every, draws = actions(kind, eligible), 40_000
    found = build(kind, logits.expand(draws, -1), torch.tensor(eligible).expand(draws, -1), dial)
    drawn = found.sample(Noise(*uniforms(draws, 4)))
    assert drawn.dtype == torch.long
    code = torch.tensor([1, 5, 25, 125])
    counts = torch.stack([((drawn * code).sum(-1) == (action * code).sum()).sum() for action in every]).double()
    assert counts.sum() == draws  # nothing outside the enumeration
    one = build(kind, logits.expand(len(every), -1), torch.tensor(eligible).expand(len(every), -1), dial)
    expected = one.log_prob(every).exp() * draws
    likely = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[likely].sum().item()
    freedom = int(likely.sum()) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_bernoulli_likelihood_is_the_joint_and_ineligible_positions_add_nothing():
    logits = row([0.5, -1.0, 2.0])
    eligible = torch.tensor([True, True, False])
    found = BernoulliUnmask(logits, eligible, beta=0.7)
    s = 0.7 * logits.sigmoid()
    expected = s[0].log() + (1 - s[1]).log()
    assert torch.allclose(found.log_prob(torch.tensor([1, 0, 0])), expected)
    assert torch.equal(found.log_prob(torch.tensor([1, 0, 0])), found.log_prob(torch.tensor([1, 0, 1])))
    nothing = BernoulliUnmask(logits, torch.zeros(3, dtype=torch.bool))
    assert nothing.log_prob(torch.tensor([0, 0, 0])) == 0 and nothing.entropy() == 0


def test_bernoulli_clamps_the_likelihood_but_not_the_draw():
    found = BernoulliUnmask(torch.tensor([200.0, -200.0]), torch.ones(2, dtype=torch.bool))
    assert found.log_prob(torch.tensor([0, 1])).item() == pytest.approx(2 * math.log(EPS), rel=1e-5)
    almost_one = torch.tensor([1 - EPS / 2, EPS / 2])
    assert found.sample(Noise(almost_one, torch.tensor(0.5))).tolist() == [1, 0]


def test_bernoulli_entropy_is_exact():
    logits, eligible = row([0.5, -1.0, 2.0]), torch.tensor([True, True, False])
    every = actions("bernoulli", eligible)
    log_p = BernoulliUnmask(logits.expand(len(every), -1), eligible.expand(len(every), -1), 0.7).log_prob(every)
    entropy = BernoulliUnmask(logits, eligible, 0.7).entropy()
    assert entropy.item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=1e-9)


def plackett_luce_by_hand(logits, eligible, stop, order):
    left = {i for i, e in enumerate(eligible) if e}
    total = 0.0
    for step, place in enumerate(order):
        others = [logits[i] for i in left] + ([stop] if step else [])
        total += logits[place] - math.log(sum(math.exp(x) for x in others))
        left.remove(place)
    return total + stop - math.log(sum(math.exp(logits[i]) for i in left) + math.exp(stop))


@pytest.mark.parametrize("order", [(0,), (3, 0), (1, 3, 0)])
def test_plackett_luce_likelihood_by_hand(order):
    logits, eligible = [0.5, -1.0, 2.0, 0.3], [True, True, False, True]
    action = torch.zeros(4, dtype=torch.long)
    for rank, place in enumerate(order, start=1):
        action[place] = rank
    found = PlackettLuceUnmask(row(logits), torch.tensor(eligible), 0.4).log_prob(action)
    assert found.item() == pytest.approx(plackett_luce_by_hand(logits, eligible, 0.4, order), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), stop=st.floats(-100, 100), seed=st.integers(0, 99)
)
def test_plackett_luce_draws_ranks_without_gaps_even_for_extreme_logits(logits, stop, seed):
    width = len(logits)
    eligible = torch.rand(8, width, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = PlackettLuceUnmask(torch.tensor(logits).expand(8, -1), eligible, stop)
    action = found.sample(Noise(*(u.float() for u in uniforms(8, width, seed))))
    assert not action[~eligible].any()
    for one, allowed in zip(action, eligible, strict=True):
        ranks = one[one > 0].sort().values
        assert ranks.tolist() == list(range(1, len(ranks) + 1))
        assert (len(ranks) > 0) == bool(allowed.any())
    assert found.log_prob(action).isfinite().all()


def test_plackett_luce_noise_at_the_edge_of_its_range():
    found = PlackettLuceUnmask(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    action = found.sample(Noise(torch.tensor([[0.0, 1.0, 0.5]] * 2), torch.tensor([0.0, 1.0])))
    assert action.tolist() == [[3, 1, 2], [0, 1, 0]]


def test_plackett_luce_empty_lists():
    found = PlackettLuceUnmask(torch.zeros(2, 3), torch.tensor([[True] * 3, [False] * 3]))
    assert found.log_prob(torch.zeros(2, 3, dtype=torch.long)).tolist() == [-math.inf, 0.0]
    assert found.sample(Noise(torch.rand(2, 3), torch.rand(2)))[1].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_plackett_luce_entropy_is_a_fair_estimate():
    logits, eligible = row([0.5, -1.0, 2.0, 0.3]), torch.tensor([True, True, False, True])
    every = actions("plackett_luce", eligible)
    log_p = PlackettLuceUnmask(logits.expand(len(every), -1), eligible.expand(len(every), -1)).log_prob(every)
    exact = -(log_p.exp() * log_p).sum().item()
    found = PlackettLuceUnmask(logits, eligible)
    assert torch.equal(found.entropy(), found.entropy())
    assert found.entropy(draws=4000).item() == pytest.approx(exact, abs=0.05)
    assert found.entropy().item() == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_gradient_is_finite(kind, scale):
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(5, 7, generator=g) * scale).requires_grad_()
    eligible = torch.rand(5, 7, generator=g) < 0.6
    eligible[0] = False
    found = build(kind, logits, eligible, 0.0)
    action = found.sample(Noise(*(u.float() for u in uniforms(5, 7))))
    log_prob = found.log_prob(action)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~eligible].any()


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
def test_gradient_is_right(kind):
    logits = row([0.5, -1.0, 2.0, 0.3]).requires_grad_()
    eligible = torch.tensor([True, True, False, True])
    action = torch.tensor([2, 0, 0, 1] if kind == "plackett_luce" else [1, 0, 0, 1])
    assert torch.autograd.gradcheck(lambda x: build(kind, x, eligible, -0.3).log_prob(action), logits)


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
def test_leading_dimensions(kind):
    g = torch.Generator().manual_seed(0)
    logits, eligible = torch.randn(2, 3, 5, generator=g), torch.rand(2, 3, 5, generator=g) < 0.8
    u, r = torch.rand(2, 3, 5, generator=g), torch.rand(2, 3, generator=g)
    found = build(kind, logits, eligible, 0.0)
    action = found.sample(Noise(u, r))
    flat = build(kind, logits.view(6, 5), eligible.view(6, 5), 0.0)
    assert torch.equal(action.view(6, 5), flat.sample(Noise(u.view(6, 5), r.view(6))))
    assert torch.allclose(found.log_prob(action).view(6), flat.log_prob(action.view(6, 5)))
    assert found.entropy().shape == (2, 3)
