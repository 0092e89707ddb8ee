"""Policies of the seed release's format: the same logits, and a refusal of what is another network."""

from __future__ import annotations

import json
import math
import resource

import pytest
import torch
import torch.nn.functional as F
from commands import call
from safetensors.torch import save_file
from seed_format import HEADS, LAYER, WIDTH, random_policy, theirs

from hf_unmask.policy import PolicyLoadError, load_policy
from hf_unmask.policy.hub.importing import import_policy


def their_logits(w: dict[str, torch.Tensor], confidences, masked, time) -> torch.Tensor:
    """The network as the paper's code computes it, for one row: rotary pairs are neighbours."""

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    def rotated(x):  # [L, heads, D]
        width = x.shape[-1]
        out = torch.empty_like(x)
        for place in range(len(x)):
            for pair in range(width // 2):
                angle = place * 10000.0 ** (-2 * pair / width)
                a, b = x[place, :, 2 * pair], x[place, :, 2 * pair + 1]
                out[place, :, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
                out[place, :, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
        return out

    half = w["time_mlp.0.weight"].shape[1] // 2
    features = torch.tensor([math.cos(time)] * half + [math.sin(time)] * half)
    at = w["mask_embedding.weight"][masked.long()] + linear("time_mlp.2", F.silu(linear("time_mlp.0", features)))
    scale1, shift1, gate1, scale2, shift2, gate2 = linear(f"{LAYER}ada_conditioning", at).chunk(6, -1)
    x = linear("confidence_proj", confidences)
    z = norm(f"{LAYER}norm1", x) * (1 + scale1) + shift1
    q, k, v = (linear(f"{LAYER}{name}_proj", z).reshape(len(z), HEADS, -1) for name in "qkv")
    weights = torch.einsum("qhd,khd->hqk", rotated(q), rotated(k)) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("hqk,khd->qhd", weights.softmax(-1), v).reshape(len(z), -1)
    x = x + (1 + gate1) * linear(f"{LAYER}out_proj", mixed)
    z = norm(f"{LAYER}norm2", x) * (1 + scale2) + shift2
    x = x + (1 + gate2) * linear(f"{LAYER}linear2", F.gelu(linear(f"{LAYER}linear1", z)))
    return linear("output_proj", norm("final_norm", x))[:, 0]


@pytest.mark.parametrize("top_k", [1, 5])
def test_a_policy_comes_back_and_decides_as_their_code_does(tmp_path, top_k):
    policy = random_policy(top_k=top_k)
    weights = theirs(policy)
    save_file(weights, tmp_path / "policy.safetensors")
    found = import_policy(tmp_path / "policy.safetensors", trained_for={"block_length": 32})
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in policy.state_dict().items())
    assert found.config.trained_for == {"lineage": ["policy.safetensors"], "block_length": 32}
    confidences, masked = torch.rand(9, top_k).sort(-1, descending=True).values, torch.rand(9) < 0.6
    expected = their_logits(weights, confidences, masked, 0.3)
    logits = found(confidences[None], masked[None], torch.tensor([0.3]))[0]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_wrapped_names_buffers_and_half_precision(tmp_path):
    policy = random_policy().to(torch.bfloat16)
    weights = {f"base_policy.{name}": tensor for name, tensor in theirs(policy).items()}
    weights[f"base_policy.{LAYER}rotary.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors")
    found = import_policy(tmp_path)
    assert found.dtype == torch.float32 and not found.training
    assert all(torch.equal(tensor.float(), found.state_dict()[name]) for name, tensor in policy.state_dict().items())


def three_rows(weights):
    weights["output_proj.weight"], weights["output_proj.bias"] = torch.zeros(3, WIDTH), torch.zeros(3)


REFUSED = {
    "two layers": (lambda w: w.update({"transformer_blocks.1.norm1.weight": torch.ones(WIDTH)}), "a further layer"),
    "reopens": (three_rows, r"3 rows \(keep, open, remask\), expected 1 row: a policy that opens positions"),
    "more": (lambda w: w.update(other=torch.ones(1)), "`other`: found an unknown tensor"),
    "less": (lambda w: w.pop("final_norm.bias"), "`final_norm.bias`: found no such tensor"),
    "shape": (
        lambda w: w.update({f"{LAYER}q_proj.bias": torch.ones(3)}),
        r"found shape \[3\] .list., expected shape \[16\]",
    ),
    "another network": (lambda w: w.pop("confidence_proj.weight"), "is this a policy of the seed release's format"),
    "not finite": (lambda w: w["final_norm.bias"].fill_(math.nan), "values that are not finite"),
    "odd heads": (len, "a multiple of 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_another_network_is_refused(tmp_path, case):
    weights = theirs(random_policy())
    damage, message = REFUSED[case]
    damage(weights)
    save_file(weights, tmp_path / "policy.safetensors")
    with pytest.raises(PolicyLoadError, match=message):
        import_policy(tmp_path, num_heads=3 if case == "odd heads" else HEADS)


def test_files_that_are_not_there_or_too_many(tmp_path):
    for source, message in ((tmp_path, "none in"), (tmp_path / "none", "no file or folder"), ("a/b/c", "no file or")):
        with pytest.raises(PolicyLoadError, match=message):
            import_policy(source)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(PolicyLoadError, match="a safetensors file"):
        import_policy(tmp_path)
    for name in ("first", "second"):
        save_file(theirs(random_policy()), tmp_path / f"{name}.safetensors")
    with pytest.raises(PolicyLoadError, match="first.safetensors, second.safetensors, text.safetensors in .*: name it"):
        import_policy(tmp_path)
    assert import_policy(tmp_path, file="second.safetensors").config.hidden_size == WIDTH
    with pytest.raises(PolicyLoadError, match="bytes, expected at most 100 "):
        import_policy(tmp_path, file="second.safetensors", max_bytes=100)


def test_shapes_that_a_file_only_claims_take_no_memory(tmp_path):
    shapes = {name: [16384 if size == WIDTH else 65536 if size == 24 else size for size in tensor.shape]
              for name, tensor in theirs(random_policy()).items()}  # fmt: skip
    shapes[f"{LAYER}ada_conditioning.weight"], shapes[f"{LAYER}ada_conditioning.bias"] = [98304, 16384], [98304]
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    (tmp_path / "policy.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PolicyLoadError, match="an unreadable file"):
        import_policy(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes; the claim is 21 GB


def test_the_command(tmp_path):
    policy = random_policy()
    save_file(theirs(policy), tmp_path / "policy.safetensors")
    record = ("--base-model", "org/dllm", "--mask-token-id", 7, "--block-length", "full")
    said = call("import", tmp_path / "policy.safetensors", tmp_path / "ours", *record).stdout
    assert said.endswith(f"--sampler learned:{tmp_path / 'ours'}\n")
    found = load_policy(tmp_path / "ours")
    assert torch.equal(found.query.weight, policy.query.weight)
    recorded = json.loads((tmp_path / "ours" / "config.json").read_text())["trained_for"]
    assert recorded["base_model"] == "org/dllm" and recorded["block_length"] is None
    failed = call("import", tmp_path / "none.safetensors", tmp_path / "other", code=2).stderr
    assert failed.startswith("error: ") and failed.count("\n") == 1 and not (tmp_path / "other").exists()
