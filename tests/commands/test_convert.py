"""Official weights through the command line: the official answers come out, and the official bits go back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import zoo  # noqa: F401
from tests.parity.networks import DATA, read
from vidiff.building import build_diffuser, plan
from vidiff.commands import convert, sample, train
from vidiff.config import load
from vidiff.engine.convert import family_of
from vidiff.engine.runs import find_checkpoint, load_weights
from vidiff.registry import CONVERTERS


def told(name, family):
    """What weights do not tell, from the fixture's description."""
    _, _, kwargs = read("models", name)
    words = [f"num_heads={kwargs['num_heads']}"]
    if "num_classes" in kwargs and family in ("dit", "sit"):
        words.append(f"num_classes={kwargs['num_classes']}")
    if family == "nano_sora":
        words.append(f"sizes={[n // p for n, p in zip(kwargs['input_size'], kwargs['patch_size'])]}")
    return words


def converted(tmp_path, name, family, suffix="safetensors", group=None):
    _, state, _ = read("models", name)
    file = tmp_path / f"{name}.{suffix}"
    if suffix == "safetensors":
        save_file(state, str(file))
    else:
        torch.save({"steps": 3, group: state} if group else state, file)
    code = convert.main([str(file), *told(name, family), "--family", family, "--out", str(tmp_path / "run")])
    assert code == 0
    return state, tmp_path / "run"


def model(run):
    made = plan(load(run / "config.yaml"))
    diffuser = build_diffuser(made.config, made.dataset).eval()
    load_weights(diffuser, find_checkpoint(run)[1], "ema")
    return diffuser


@pytest.mark.parametrize(("name", "family"), [("dit_a", "dit"), ("dit_d", "dit"), ("sit_a", "sit"), ("sit_c", "sit")])
@torch.no_grad()
def test_images_with_classes(tmp_path, name, family):
    _, run = converted(tmp_path, name, family)
    tensors, _, _ = read("models", name)
    diffuser, x = model(run), tensors["in.x"][:, :, None]
    cond = diffuser.conditioner({"label": tensors["in.y"]}, torch.zeros(len(x), dtype=torch.bool))
    time, sign = (tensors["in.t"].double() / 1000, 1) if family == "dit" else (1 - tensors["in.t"].double(), -1)
    y = sign * diffuser.tokenizer.decode(diffuser.backbone(diffuser.encode(x), time, cond))[:, :, 0]
    assert torch.allclose(y, tensors["out.forward"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["latte_uncond_a", "latte_uncond_e"])
@torch.no_grad()
def test_latte(tmp_path, name):
    _, run = converted(tmp_path, name, "latte", "pt", group="ema")
    tensors, _, _ = read("models", name)
    diffuser, x = model(run), tensors["in.x"].transpose(1, 2)
    cond = diffuser.conditioner({}, torch.zeros(len(x), dtype=torch.bool))
    y = diffuser.tokenizer.decode(diffuser.backbone(diffuser.encode(x), tensors["in.t"].double() / 1000, cond))
    assert torch.allclose(y.transpose(1, 2), tensors["out.forward"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_nano_sora(tmp_path):
    _, run = converted(tmp_path, "nanosora_c", "nano_sora", "pt", group="model_state_dict")
    tensors, _, _ = read("models", "nanosora_c")
    diffuser, x = model(run), tensors["in.x"]
    cond = diffuser.conditioner({}, torch.zeros(len(x), dtype=torch.bool))
    y = -diffuser.tokenizer.decode(diffuser.backbone(diffuser.encode(x), 1 - tensors["in.t"].double(), cond))
    assert torch.allclose(y, tensors["out.video"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("dit_a", "dit"),
        ("dit_b", "dit"),
        ("sit_a", "sit"),
        ("sit_c", "sit"),
        ("latte_uncond_b", "latte"),
        ("nanosora_c", "nano_sora"),
    ],
)
def test_there_and_back_to_the_same_bits(tmp_path, name, family):
    """SiT's with half a head that its network throws away: it lies aside in the run."""
    state, run = converted(tmp_path, name, family)
    back = tmp_path / "back.safetensors"
    assert convert.main([str(run), "--to-official", str(back)]) == 0
    found = load_file(back)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


OTHERS = ["diffusers_cogvideox_rope", "diffusers_latte_c", "diffusers_ltx_c", "diffusers_wan_c", "unet3d_b", "unet3d_c",
          "latte_img_uncond"]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_told_by_their_keys_and_come_back(tmp_path, name):
    _, state, kwargs = read("models", name)
    file, back = tmp_path / "file.safetensors", tmp_path / "back.safetensors"
    save_file(state, str(file))
    heads = kwargs.get("num_attention_heads", kwargs.get("num_heads"))
    words = [f"num_heads={heads}"] if heads else []
    assert convert.main([str(file), *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert convert.main([str(tmp_path / "run"), "--to-official", str(back), "--quiet"]) == 0
    found = load_file(back)
    assert found.keys() == state.keys()
    for key, value in state.items():  # the U-Net's frequencies are computed, and rounded by one unit
        assert torch.allclose(found[key], value, rtol=0, atol=1e-8 if key.endswith(".freqs") else 0), key


def test_a_converted_run_is_sampled_and_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, run = converted(tmp_path, "dit_d", "dit")
    assert sample.main([str(run), "--num", "1", "--steps", "2"]) == 2
    assert "have 8 channels, which no picture has; add --format npy" in capsys.readouterr().err
    assert sample.main([str(run), "--num", "1", "--steps", "2", "--format", "npy", "--quiet"]) == 0
    checkpoint = str(run / "checkpoints" / "step_00000000")
    small = [
        "train.steps=1",
        "schedule.warmup_steps=0",
        "train.batch_size=2",
        "log.tensorboard=false",
        "checkpoint.every=1",
    ]
    words = [str(run / "config.yaml"), *small, "--resume", checkpoint, "--out", str(tmp_path / "on"), "--quiet"]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "on" / "status.json").read_text())["status"] == "finished"
    # one step of AdamW moves a weight by about lr = 3e-4: they are those of the file
    new = load_file(tmp_path / "on/checkpoints/step_00000001/model.safetensors")
    old = load_file(run / "checkpoints/step_00000000/model.safetensors")
    assert all(torch.allclose(old[key], new[key], atol=1e-3) for key in old)
    assert json.loads((run / "checkpoints/step_00000000/state.json").read_text())["converted"]["family"] == "dit"


def refused(capsys, *words):
    """The one line of a refusal."""
    assert convert.main(list(map(str, words))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vidiff: error: "), lines
    return lines[0]


def test_what_is_refused(tmp_path, capsys):
    _, state, _ = read("models", "dit_a")
    out = ["--out", tmp_path / "run"]
    file = tmp_path / "dit.safetensors"
    save_file(state, str(file))
    assert "names of dit or sit: say which with --family" in refused(capsys, file, *out)
    assert "it has no 'temp_embed'. Its 32 weights have the names of dit or sit: --family dit." in refused(
        capsys, file, "--family", "latte", *out
    )
    assert "Did you mean 'dit'" in refused(capsys, file, "--family", "ditt", *out)
    assert "dim=64 is no published size: give num_heads" in refused(capsys, file, "--family", "dit", *out)
    assert "num_heads is 0: it must be an integer at least 1" in refused(
        capsys, file, "num_heads=0", "--family", "dit", *out
    )
    assert "'num_haeds=4' changes nothing" in refused(
        capsys, file, "num_haeds=4", "num_heads=4", "--family", "dit", *out
    )
    assert "does not exist" in refused(capsys, tmp_path / "dit.safetensor", *out)
    assert not (tmp_path / "run").exists()


def test_another_family_is_named_with_what_is_missing_and_what_is_nearest(tmp_path, capsys):
    _, dit, _ = read("models", "dit_a")
    _, latte, _ = read("models", "latte_uncond_a")
    file, out = tmp_path / "file.safetensors", ["--out", tmp_path / "run"]

    def line(state, *words):
        save_file(state, str(file))
        return refused(capsys, file, *words, *out)

    told = line(dit, "--family", "wan")
    assert told.startswith("vidiff: error: this is no wan checkpoint: of the ") and "it has no 'patch_embedding" in told
    assert told.endswith(f"Its {len(dit)} weights have the names of dit or sit: --family dit.")
    # Latte with classes has every name of DiT: without its temporal table it would be another network
    classes = latte | {"y_embedder.embedding_table.weight": torch.zeros(11, len(latte["x_embedder.proj.bias"]))}
    told = line(classes, "--family", "dit")
    assert "it has more names, those of latte ('temp_embed', 'blocks.1.attn.qkv.weight')." in told
    assert told.endswith("have the names of latte: --family latte.")
    cut = {key: value for key, value in dit.items() if key != "pos_embed"}
    assert "The nearest is dit or sit, of whose 4 names it has 3, not 'pos_embed'." in line(cut)
    assert "The nearest is dit or sit, of whose 4 names it has 3" in line(cut, "--family", "unet3d")
    foreign = {f"layers.{i}.weight": torch.zeros(2) for i in range(7)}
    told = line(foreign)
    assert "no family has these weights ('layers.0.weight', 'layers.1.weight', 'layers.2.weight' (and 4 more))" in told
    assert "It has no name of any family. Known: cogvideox," in told
    assert "unet3d checkpoint: of the 3 names that tell one it has no 'init_conv.weight'," in line(
        foreign, "--family", "unet3d"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_family_is_told_which(tmp_path, capsys):
    _, run = converted(tmp_path, "latte_uncond_b", "latte")
    told = refused(capsys, run, "--to-official", tmp_path / "back.safetensors", "--family", "dit")
    assert told.endswith("It is a dit_factorized, which can be written with --family latte.")
    assert not (tmp_path / "back.safetensors").exists()


def test_a_run_is_no_checkpoint_to_read(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert "is a run: write its weights with --to-official" in refused(capsys, tmp_path, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_takes_no_more_leaves_the_file_that_was_there(tmp_path, capsys, monkeypatch):
    _, run = converted(tmp_path, "dit_d", "dit")
    target = tmp_path / "back.safetensors"
    target.write_bytes(b"precious")
    words = [str(run), "--to-official", str(target), "--overwrite", "--quiet"]

    def full(tensors, file):
        Path(file).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(convert, "save_file", full)
        assert convert.main(words) == 3
    err = capsys.readouterr().err
    assert "back.safetensors cannot be written" in err and "No space left" in err and len(err.splitlines()) == 1
    assert target.read_bytes() == b"precious" and [p.name for p in tmp_path.glob(".back*")] == []
    assert convert.main(words) == 0 and load_file(target)


def test_malformed_files(tmp_path, capsys):
    _, state, _ = read("models", "dit_a")
    whole = tmp_path / "whole.pt"
    torch.save(state, whole)
    cut, text, foreign, code = (tmp_path / n for n in ("cut.pt", "text.safetensors", "foreign.pt", "code.pt"))
    cut.write_bytes(whole.read_bytes()[:5000])
    text.write_text("weights")
    torch.save({"a": torch.ones(2), "b": 3}, foreign)
    torch.save({"model": state, "args": tmp_path}, code)  # a pathlib object: not a plain tensor
    assert "not a readable checkpoint" in refused(capsys, cut)
    assert "not a readable safetensors file" in refused(capsys, text)
    assert "holds no state dict" in refused(capsys, foreign)
    assert "nothing else is ever unpickled" in refused(capsys, code)


def test_another_architecture_names_the_first_keys_and_shapes(tmp_path, capsys):
    _, state, _ = read("models", "dit_a")

    def line(**changed):
        file = tmp_path / "file.safetensors"
        tensors = {k: v for k, v in {**state, **changed}.items() if v is not None}
        save_file(tensors, str(file))
        return refused(capsys, file, "num_heads=4", "num_classes=10", "--family", "dit", "--out", tmp_path / "run")

    key = "blocks.1.mlp.fc1.weight"
    assert "backbone.blocks.1.mlp.fc1.weight is missing" in line(**{key: None})
    cut = line(**{key: state[key][:-3].clone()})
    assert f"blocks.1.mlp.fc1.weight is {tuple(state[key][:-3].shape)}, expected {tuple(state[key].shape)}" in cut
    assert "'blocks.0.extra.weight' is not a weight" in line(**{"blocks.0.extra.weight": torch.ones(2)})


def test_a_model_that_official_code_would_run_differently_is_not_written(tmp_path, capsys):
    _, state, _ = read("models", "dit_a")
    file, back = tmp_path / "dit.safetensors", tmp_path / "back.safetensors"
    save_file(state, str(file))
    words = [file, "num_heads=4", "num_classes=10", "backbone.activation=gelu", "--family", "dit"]
    assert convert.main(list(map(str, [*words, "--out", tmp_path / "run"]))) == 0
    assert "backbone.activation is gelu, and a dit checkpoint means gelu_tanh" in refused(
        capsys, tmp_path / "run", "--to-official", back
    )
    assert not back.exists()


@pytest.mark.parametrize("name", CONVERTERS.names())
def test_every_family_stands_in_the_file_of_its_name_and_has_keys_of_its_own(name):
    component = CONVERTERS[name]
    assert component.file.name == f"{name}.py" and component.summary.endswith(".")
    assert component.target.keys and all(
        s.default is None or s.default is not s.required for s in component.settings.values()
    )


@pytest.mark.parametrize("file", sorted((DATA / "models").glob("*.json")), ids=lambda f: f.stem)
def test_detection_agrees_with_the_fixtures_name(file):
    _, state, _ = read("models", file.stem)
    families = [c.name for c in CONVERTERS if all(k in state for k in c.target.keys)]
    if not families:
        pytest.skip("no whole checkpoint of a known family")
    most = max(len(CONVERTERS[n].target.keys) for n in families)
    told = [n for n in families if len(CONVERTERS[n].target.keys) == most]
    prefix = file.stem.replace("nanosora", "nano_sora")
    assert any(prefix.startswith(n) or n in prefix for n in told), told
    if len(told) == 1:
        assert family_of(state).name == told[0]
