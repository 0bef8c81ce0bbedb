"""REPA: what it adds to the loss, whom it teaches, and what is left out of checkpoints."""

import pytest
import torch
import torch.nn.functional as F

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import ConfigError, load
from vidiff.engine.data import collate
from vidiff.random import Random
from vidiff.registry import BACKBONES, build
from vidiff.types import Cond
from zoo.objectives.repa import resized

CONFIG = """\
data: {{name: stand_in, shape: [3, 4, 16, 24], num_classes: {classes}, clips: 9, texts: {texts}}}
tokenizer: {{name: tubelet, size: [2, 4, 8]}}
backbone: {backbone}
conditioner: {conditioner}
positions: sincos
objective: {{name: repa, encoder: {{name: random_conv, dim: 10, layers: 2}}, hidden: 14, block: {block}, weight: {weight}}}
"""


def planned(tmp_path, backbone="{name: dit_joint, dim: 32, depth: 3, num_heads: 2}", block=2, weight=0.5, text=False):
    file = tmp_path / "repa.yaml"
    conditioner = "{name: text_embeddings, length: 3, dim: 8}" if text else "none"
    told = dict(texts="[3, 8]" if text else "null", classes=0, conditioner=conditioner)
    file.write_text(CONFIG.format(backbone=backbone, block=block, weight=weight, **told))
    return plan(load(file))


def trained(made, seed=0):
    """The model with every weight away from zero, a batch and its losses."""
    diffuser = build_diffuser(made.config, made.dataset, read=lambda *a: None)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in diffuser.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    batch = collate([made.dataset[i] for i in range(2)])
    return diffuser, batch, diffuser(batch, Random(0, "train", rows=[0, 1]))


def same_dice():
    """The dice of `trained`."""
    return Random(0, "train", rows=[0, 1])


def test_the_loss_is_that_of_the_flow_plus_weight_times_1_minus_the_mean_cosine(tmp_path):
    made = planned(tmp_path)
    diffuser, batch, losses = trained(made)
    objective, z = diffuser.objective, diffuser.encode(batch["video"])
    plain = build("objective", "rectified_flow")
    alone = plain.loss(diffuser.backbone, z, Cond(), same_dice())
    # by hand: the noisy latents again, the hidden states of block 2, cells in the order t h w
    hidden = []
    hook = diffuser.backbone.blocks[1].register_forward_hook(lambda m, i, out: hidden.append(out))
    plain.loss(diffuser.backbone, z, Cond(), same_dice())
    hook.remove()
    told = objective.projector(hidden[0]).flatten(1, 2)  # (B,N,E)
    seen = resized(objective.features(batch["video"]), (2, 4, 3)).flatten(2).mT
    cosine = torch.stack([F.cosine_similarity(told[i], seen[i], dim=1).mean() for i in range(2)])
    assert torch.allclose(losses["alignment"], 1 - cosine, atol=1e-5)
    assert torch.allclose(losses["loss"], alone["loss"] + 0.5 * (1 - cosine).mean(), atol=1e-5)
    assert torch.equal(losses["mse"], alone["mse"])


def test_alignment_teaches_the_projector_and_the_blocks_up_to_k_only(tmp_path):
    diffuser, batch, losses = trained(planned(tmp_path))
    _, _, without = trained(planned(tmp_path, weight=0.0))
    assert torch.allclose(losses["mse"], without["mse"])
    names, ps = zip(*((n, p) for n, p in diffuser.named_parameters()), strict=True)
    aligned = losses["loss"] - 0.0
    whole = torch.autograd.grad(aligned, ps, allow_unused=True)
    free = build_diffuser(planned(tmp_path, weight=0.0).config, planned(tmp_path).dataset, read=lambda *a: None)
    free.load_state_dict(diffuser.state_dict())
    rest = torch.autograd.grad(
        free(batch, Random(0, "train", rows=[0, 1]))["loss"], list(free.parameters()), allow_unused=True
    )
    moved = {
        name for name, a, b in zip(names, whole, rest, strict=True)
        if a is not None and (b is None or (a - b).abs().max() > 1e-7)
    }  # fmt: skip
    below = ("objective.projector", "backbone.blocks.0", "backbone.blocks.1", "backbone.embed", "backbone.time")
    assert moved and all(name.startswith(below) for name in moved)
    assert all(any(name.startswith(part) for name in moved) for part in below)


def test_the_encoder_is_in_no_state_and_no_parameter(tmp_path):
    made = planned(tmp_path)
    diffuser = build_diffuser(made.config, made.dataset, read=lambda *a: None)
    names = [n for n in diffuser.state_dict() if n.startswith("objective.")]
    assert names and all(n.startswith("objective.projector.") for n in names)
    assert {n for n, _ in diffuser.objective.named_parameters()} == {n.removeprefix("objective.") for n in names}
    assert not diffuser.objective.features(torch.zeros(1, 3, 4, 16, 24)).requires_grad


def test_drawing_asks_neither_projector_nor_encoder(tmp_path):
    made = planned(tmp_path)
    diffuser = build_diffuser(made.config, made.dataset)
    diffuser.objective.seen = (None,)
    diffuser.objective.projector = None
    out = diffuser.eval().sample(made.grid, made.sampler, made.guidance, Random(0, "sample", rows=[0]))
    assert out.shape == (1, *made.shape)


def test_training_brings_hidden_states_and_features_together(tmp_path):
    made = planned(tmp_path)
    diffuser = build_diffuser(made.config, made.dataset, read=lambda *a: None)
    optimizer = torch.optim.Adam(diffuser.parameters(), lr=3e-3)
    seen = []
    batch = collate([made.dataset[i] for i in range(4)])
    for step in range(40):
        losses = diffuser(batch, Random(0, "train", step, rows=range(4)))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        seen.append(losses["alignment"].mean().item())
    assert seen[-1] < 0.8 * seen[0]


@pytest.mark.parametrize("name", [c.name for c in BACKBONES if not getattr(c.target, "exact", False)])
def test_every_backbone_is_aligned_or_refused_with_the_reason(name, tmp_path):
    """Refused are the U-Nets, whose blocks have cells of other sizes."""
    component = BACKBONES[name]
    needs = getattr(component.target, "needs", frozenset())
    settings = {"name": name, **component.tiny, **({"dim": 48} if "dim" in component.tiny else {})}
    arguments = dict(backbone=str(settings).replace("'", ""), block=1, text="tokens" in needs)
    if not hasattr(component.target, "streams"):
        with pytest.raises(ConfigError, match="Use a transformer"):
            planned(tmp_path, **arguments)
        return
    diffuser, _, losses = trained(planned(tmp_path, **arguments))
    losses["loss"].backward()
    assert losses["alignment"].isfinite().all() and 0 < losses["alignment"].mean() < 2
    assert all(p.grad.abs().sum() > 0 for p in diffuser.objective.projector.parameters())


def test_cells_are_those_of_the_video_where_other_tokens_stand_before_or_after(tmp_path):
    """Text tokens change; which cells are aligned does not: each hidden cell follows its own place of the latent."""
    for name, settings in {"dit_joint": "depth: 2", "uvit": "depth: 3"}.items():
        backbone = f"{{name: {name}, dim: 48, num_heads: 2, {settings}}}"
        diffuser, batch, _ = trained(planned(tmp_path, backbone=backbone, block=1, text=True))
        objective, heard = diffuser.objective, []
        objective.apart = lambda hidden, features, heard=heard: heard.append(hidden) or features.new_zeros(2)
        for block in diffuser.backbone.blocks:  # nothing mixes tokens now
            block.attn.forward = lambda x, *others, **more: torch.zeros_like(x)
        diffuser(batch, Random(0, "train", rows=[0, 1]))
        video = batch["video"].clone()
        video[:, :, :2, :4, :8] = 255 - video[:, :, :2, :4, :8]  # the first cell
        diffuser({**batch, "video": video}, Random(0, "train", rows=[0, 1]))
        changed = (heard[0] - heard[1]).abs().amax((0, 4)) > 0
        assert changed.sum() == 1 and changed[0, 0, 0], name


@pytest.mark.parametrize(("have", "sizes"), [((4, 8, 6), (2, 4, 3)), ((2, 2, 2), (4, 6, 8)), ((8, 3, 5), (2, 6, 5))])
def test_grids_are_matched_and_constants_stay(have, sizes):
    assert torch.allclose(resized(torch.full((1, 3, *have), 0.7), sizes), torch.full((1, 3, *sizes), 0.7))
    ramp = torch.linspace(0, 1, have[0])[None, None, :, None, None].expand(1, 3, *have)
    out = resized(ramp, sizes)
    assert out.shape == (1, 3, *sizes) and (out[:, :, :, 0, 0].diff() >= 0).all()


def test_too_few_blocks_and_no_width_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="block is 4, and the network has 3"):
        planned(tmp_path, block=4)
    with pytest.raises(ValueError, match="no setting 'dim'"):
        build("objective", "repa", width=0, shape=(3, 4, 16, 24))
