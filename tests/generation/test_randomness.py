"""Counter-based noise: uniform, independent, and a pure function of row key, step and position."""

from __future__ import annotations

import math

import pytest
import torch

from hf_unmask.generation.randomness import ACTION, ROW, TOKEN, row_keys, uniform

KEYS = torch.arange(400) * 7919
INDEX = torch.arange(256).expand(400, -1)


def keys(prompts, seed=0, side="left", extra=0, fill=()):
    width = max(map(len, prompts)) + extra
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attended = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[row, place], attended[row, place] = torch.tensor(prompt, dtype=torch.long), True
    gaps = torch.zeros_like(attended)
    for row, column in fill:
        gaps[row, column] = True
    seeds = torch.as_tensor(seed).expand(len(prompts)).long()
    return row_keys(seeds, ids, attended, gaps).tolist()


@pytest.mark.parametrize("stream", [ACTION, TOKEN, ROW])
@pytest.mark.parametrize("step", [0, 1, 1000])
def test_uniform(stream, step):
    """Prevents noise that reaches 0 or 1 (infinite in logit space), or that is skewed."""
    u = uniform(KEYS, torch.full((400,), step), INDEX, stream)
    assert u.shape == INDEX.shape and u.dtype == torch.float32
    assert 0 < u.min() and u.max() < 1
    u, n = u.double().flatten(), u.numel()
    for power in (1, 2, 3, 4):
        deviation = math.sqrt((1 / (2 * power + 1) - 1 / (power + 1) ** 2) / n)
        assert abs((u**power).mean() - 1 / (power + 1)) < 5 * deviation
    counts = (u * 64).long().bincount(minlength=64)
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 5 * math.sqrt(2 * 63)
    assert len(u.unique()) > 0.98 * n


def test_extremes_stay_inside():
    """Prevents the smallest and the largest number from being rounded to 0 and 1 in float32."""
    bits = torch.tensor([0, 2**23 - 1])
    u = (bits.float() + 0.5) * 2.0**-23
    assert 0 < u[0] and u[1] < 1 and u[1] == 1 - 2.0**-24


def correlation(a, b):
    pair = torch.stack([a.double().flatten(), b.double().flatten()])
    return abs(torch.corrcoef(pair)[0, 1].item()) * math.sqrt(pair.shape[1])


def test_independent():
    """Prevents streams, steps, positions, rows or keys that move together."""
    steps = torch.zeros(400, dtype=torch.long)
    u = uniform(KEYS, steps, INDEX, ACTION)
    others = {
        "stream": uniform(KEYS, steps, INDEX, TOKEN),
        "row stream": uniform(KEYS, steps, INDEX, ROW),
        "next step": uniform(KEYS, steps + 1, INDEX, ACTION),
        "far step": uniform(KEYS, steps + 64, INDEX, ACTION),
        "next key": uniform(KEYS + 1, steps, INDEX, ACTION),
        "negative key": uniform(-KEYS - 1, steps, INDEX, ACTION),
    }
    for name, other in others.items():
        assert correlation(u, other) < 4.5, name
        assert correlation((u - 0.5).abs(), (other - 0.5).abs()) < 4.5, name
        assert (u == other).float().mean() < 1e-3, name
    assert correlation(u[:, :-1], u[:, 1:]) < 4.5
    assert correlation(u[:-1], u[1:]) < 4.5
    shifted = uniform(KEYS, steps + 1, INDEX, ACTION)
    assert correlation(u[:, 1:], shifted[:, :-1]) < 4.5, "the next step is not this one moved by a position"


def test_pure_function():
    """Prevents a generator that is advanced: any subset, order or shape gives the same numbers."""
    steps = torch.arange(400) % 9
    u = uniform(KEYS, steps, INDEX, TOKEN)
    torch.manual_seed(5)
    order = torch.randperm(400)
    assert torch.equal(uniform(KEYS[order], steps[order], INDEX[order], TOKEN), u[order])
    assert torch.equal(uniform(KEYS[7:8], steps[7:8], INDEX[7:8, 31:40], TOKEN), u[7:8, 31:40])


def test_known_values():
    """Prevents a change of the numbers, which would change every seeded result."""
    u = uniform(torch.tensor([1, 2]), torch.tensor([0, 3]), torch.tensor([[0, 1], [0, 5]]), ACTION)
    found = [[round(value * 2**24) for value in row] for row in u.tolist()]

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def plain(key, step, index):
        x = key + step * 0xDB4F0B9175AE2165 + ACTION + index * 0x9E3779B97F4A7C15
        return 2 * (mix(x % 2**64) >> 41) + 1

    assert found == [[plain(1, 0, 0), plain(1, 0, 1)], [plain(2, 3, 0), plain(2, 3, 5)]]


def test_key_depends_on_prompt_seed_and_occurrence():
    """Prevents prompts, seeds or repetitions that share their noise."""
    prompts = [[5, 6, 7], [5, 7, 6], [5, 6], [6, 7], [0, 5, 6], [5, 6, 0], [], [0], [0, 0], [5, 6, 7], [5, 6, 7]]
    found = keys(prompts)
    assert len(set(found)) == len(prompts)
    assert not set(found) & set(keys(prompts, seed=1)) and not set(found) & set(keys(prompts, seed=-1))
    assert keys([[5, 6, 7]])[0] == found[0], "the first occurrence is what the prompt gets alone"
    assert keys([[9], [5, 6, 7], [8, 8], [5, 6, 7]])[1::2] == [found[0], found[9]]


def test_seeds_and_occurrences_do_not_collide():
    """Prevents seed s, occurrence n from drawing what seed s + 1, occurrence n - 1 draws."""
    many = [keys([[5, 6]] * 20, seed=seed) for seed in range(20)]
    assert len({key for row in many for key in row}) == 400


def test_key_does_not_depend_on_padding():
    """Prevents results that change with the longest prompt of the batch."""
    prompts = [[5, 6, 7], [8], [9, 9, 9, 9]]
    assert keys(prompts) == keys(prompts, side="right") == keys(prompts, extra=5) == [keys([p])[0] for p in prompts]


def test_key_depends_on_the_gaps():
    """Prevents two infillings of one text from sharing their noise."""
    assert len({*keys([[5, 6, 7]]), *keys([[5, 6, 7]], fill=[(0, 0)]), *keys([[5, 6, 7]], fill=[(0, 1)])}) == 3


def test_seed_per_row():
    """Prevents occurrences from being counted across different seeds."""
    a, b = keys([[5, 6], [5, 6]], seed=torch.tensor([1, 2]))
    assert [a] == keys([[5, 6]], seed=1) and [b] == keys([[5, 6]], seed=2)
