"""Toy networks of diffusers with arguments the fixtures of data/models do not have, stored as numbers in data/variants.

Run it where diffusers 0.42.1 is installed (no test needs that): python tests/parity/make_networks.py. Weights are random:
matrices are multiples of 1/256 in int8, tables and biases 0.1 n, gains 1 + 0.1 n. Videos are stored (B,C,T,H,W) whatever
axes the network takes, times as ours: step/1000, sigma.
"""

import importlib
import json
import platform
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file

OUT = Path(__file__).parent / "data" / "variants"
HEADS = dict(num_attention_heads=2, attention_head_dim=16)
COGVIDEOX = dict(**HEADS, time_embed_dim=8, text_embed_dim=6, num_layers=1, max_text_seq_length=3)
WAN = dict(**HEADS, text_dim=6, freq_dim=8, ffn_dim=20, num_layers=1, rope_max_seq_len=16)
LATTE = dict(
    num_attention_heads=2, attention_head_dim=6, in_channels=3, out_channels=6, num_layers=1, cross_attention_dim=12,
    attention_bias=True, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
    norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=5,
)  # fmt: skip

# name -> family, class, arguments, tokens (t,h,w), pixels of a token, length of the text
CASES = {
    "ltx_one_frame": ("ltx", "LTXVideoTransformer3DModel",
        dict(**HEADS, in_channels=5, out_channels=5, cross_attention_dim=32, num_layers=2, caption_channels=6),
        (1, 2, 3), (1, 1, 1), 4),
    "latte_one_frame": ("diffusers_latte", "LatteTransformer3DModel", dict(**LATTE, sample_size=6, video_length=1),
        (1, 3, 3), (1, 2, 2), 4),
    "latte_other_grid": ("diffusers_latte", "LatteTransformer3DModel", dict(**LATTE, sample_size=6, video_length=2),
        (2, 2, 5), (1, 2, 2), 4),
    "wan_one_frame": ("wan", "WanTransformer3DModel", dict(**WAN, in_channels=3, out_channels=3, cross_attn_norm=False),
        (1, 2, 3), (1, 2, 2), 4),
    "wan_tubelets": ("wan", "WanTransformer3DModel", dict(**WAN, patch_size=(2, 1, 3), in_channels=7, out_channels=2),
        (2, 3, 1), (2, 1, 3), 4),
    "wan_two_frames": ("wan", "WanTransformer3DModel",
        dict(**WAN, in_channels=5, out_channels=2, image_dim=7, added_kv_proj_dim=32, pos_embed_seq_len=6),
        (2, 1, 3), (1, 2, 2), 512),
    "cogvideox_one_frame": ("cogvideox", "CogVideoXTransformer3DModel",
        dict(**COGVIDEOX, in_channels=3, out_channels=3, sample_width=6, sample_height=4, sample_frames=1),
        (1, 2, 3), (1, 2, 2), 3),
    "cogvideox_i2v": ("cogvideox", "CogVideoXTransformer3DModel",
        dict(**COGVIDEOX, in_channels=4, out_channels=2, sample_width=6, sample_height=4, sample_frames=5,
             use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True),
        (2, 2, 3), (1, 2, 2), 3),
    "cogvideox15_i2v": ("cogvideox", "CogVideoXTransformer3DModel",
        dict(**COGVIDEOX, in_channels=4, out_channels=2, sample_width=6, sample_height=4, sample_frames=21, patch_size=1,
             patch_size_t=3, ofs_embed_dim=8, use_rotary_positional_embeddings=True, patch_bias=False),
        (2, 4, 3), (3, 1, 1), 3),
}  # fmt: skip


def random_weights(model, fixed, dice):
    """Every weight is drawn, tables named in `fixed` stay -> {"w8." + name: int8, "w." + name: float32}."""
    stored = {}
    for name, value in model.state_dict().items():
        if value.ndim >= 2 and "table" not in name and not any(f in name for f in fixed):
            steps = (torch.randn(value.shape, generator=dice) * 205 / value[0].numel() ** 0.5).round().clamp(-127, 127)
            value.copy_(steps / 256)
            stored[f"w8.{name}"] = steps.to(torch.int8)
            continue
        if not any(f in name for f in fixed):
            gain = name.endswith(("weight", "gamma"))
            value.copy_(gain + 0.1 * torch.randn(value.shape, generator=dice))
        stored[f"w.{name}"] = value.clone()
    return stored


def store(name, tensors, about):
    """The two files of a case."""
    OUT.mkdir(exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(OUT / f"{name}.safetensors"))
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    (OUT / f"{name}.json").write_text(json.dumps({**about, "versions": versions}, indent=1) + "\n")


def ask(family, model, kwargs, tokens, cell, x, time, batch):
    """What the network answers, as (B,C,T,H,W)."""
    text = batch["text_tokens"]
    if family == "ltx":
        packed = rearrange(x, "b c t h w -> b (t h w) c")
        y = model(
            packed, text, 1000 * time, batch["text_mask"], *tokens, rope_interpolation_scale=(0.32, 32, 32)
        ).sample
        return rearrange(y, "b (t h w) c -> b c t h w", t=tokens[0], h=tokens[1])
    if family == "diffusers_latte":
        return model(x, timestep=(1000 * time).round().long(), encoder_hidden_states=text).sample
    if family == "wan":
        picture = batch.get("image_tokens")
        picture = None if picture is None else picture.flatten(0, 1).unflatten(0, (2 * len(x), -1))
        return model(x, 1000 * time, text, picture).sample
    places = importlib.import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed
    rotary = None
    if kwargs.get("patch_size_t"):
        rotary = places(16, None, tokens[1:], tokens[0], grid_type="slice", max_size=(9, 9))
    elif kwargs.get("use_rotary_positional_embeddings"):
        rotary = places(16, ((0, 0), tokens[1:]), tokens[1:], tokens[0])
    ofs = torch.full((1,), 2.0) if kwargs.get("ofs_embed_dim") else None
    steps = (1000 * time).round().long()
    return model(x.transpose(1, 2), text, steps, ofs=ofs, image_rotary_emb=rotary).sample.transpose(1, 2)


@torch.no_grad()
def main():
    from vidiff.lazy import prepare_torchvision

    prepare_torchvision()
    diffusers = importlib.import_module("diffusers")
    for seed, (name, (family, kind, kwargs, tokens, cell, length)) in enumerate(CASES.items(), start=1201):
        torch.manual_seed(seed)
        dice, model = torch.Generator().manual_seed(seed), getattr(diffusers, kind)(**kwargs).eval()
        stored = random_weights(model, ("pos_embed.pos_embed", "temp_pos_embed"), dice)
        width = next(kwargs[k] for k in ("text_dim", "text_embed_dim", "caption_channels") if k in kwargs)
        x = torch.randn(2, kwargs["in_channels"], *(a * b for a, b in zip(tokens, cell, strict=True)), generator=dice)
        time = torch.randint(1, 1000, (2,), generator=dice).double() / 1000
        batch = {"text_tokens": torch.randn(2, length, width, generator=dice)}
        if family == "ltx":
            batch["text_mask"] = (torch.arange(length) < torch.tensor([[2], [length]])).float()
        if "image_dim" in kwargs:
            batch["image_tokens"] = torch.randn(2, kwargs["pos_embed_seq_len"], kwargs["image_dim"], generator=dice)
        y = ask(family, model, kwargs, tokens, cell, x, time.float(), batch)
        asked = {f"in.{k}": v for k, v in {"x": x, "time": time, **batch}.items()}
        about = {
            "summary": f"diffusers {kind} with other arguments",
            "source": {"repo": "huggingface/diffusers", "commit": f"PyPI release {diffusers.__version__}", "licence": "Apache-2.0"},
            "made_by": "tests/parity/make_networks.py",
            "constructor": {"class": kind, "kwargs": kwargs},
            "family": family,
            "seed": seed,
        }  # fmt: skip
        store(name, {**stored, **asked, "out.y": y}, about)


if __name__ == "__main__":
    main()
