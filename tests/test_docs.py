"""The pages are true: their code runs, links lead somewhere, commands exist, promises name their proof."""

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo  # noqa: F401
from vidiff.cli import COMMANDS
from vidiff.commands import train
from vidiff.config import load
from vidiff.config.importing import import_components
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.noise import PriorRandom
from vidiff.random import Random
from vidiff.registry import KINDS, build
from vidiff.types import Cond, CondSpec, Grid

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
NAMED = (README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
PAGES = [p for p in (*sorted((ROOT / "docs").glob("*.md")), *NAMED) if p.is_file()]
EXTENDING = (ROOT / "docs/extending.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMPONENTS = [code for language, code in FENCE.findall(EXTENDING) if language == "python"]
TOGETHER = [code for language, code in FENCE.findall(EXTENDING) if language == "yaml"][-1]
LINES = 15


def label(page):
    return page.name


def name_in(code):
    return re.search(r'\.register\(\s*"(\w+)"', code)[1]


# ---- the code of extending.md ----


@pytest.fixture
def registry():
    """The registries and the imported project files as they were before, afterwards."""
    before = {kind: dict(r._components) for kind, r in KINDS.items()}
    imported = set(sys.modules)
    yield KINDS
    for kind, components in before.items():
        KINDS[kind]._components = components
    for module in [m for m in sys.modules if m.startswith("vidiff_project_") and m not in imported]:
        del sys.modules[module]


@pytest.fixture
def component(registry, tmp_path, request):
    """What one block of code registers, imported the way `imports:` does."""
    known = {kind: set(r.names()) for kind, r in registry.items()}
    file = tmp_path / "components.py"
    file.write_text(request.param)
    import_components(file)
    new = [registry[kind][name] for kind in registry for name in registry[kind].names() if name not in known[kind]]
    assert len(new) == 1
    return new[0]


each_component = pytest.mark.parametrize("component", COMPONENTS, ids=map(name_in, COMPONENTS), indirect=True)


def test_there_is_an_example_for_every_kind_people_write(registry, tmp_path):
    file = tmp_path / "components.py"
    file.write_text("\n".join(COMPONENTS))
    known = {kind: set(r.names()) for kind, r in registry.items()}
    import_components(file)
    kinds = {kind for kind in registry if set(registry[kind].names()) - known[kind]}
    assert kinds >= {
        "dataset", "tokenizer", "conditioner", "backbone", "attention", "weighting", "sampler", "guidance", "callback",
    }  # fmt: skip


@pytest.mark.parametrize("code", COMPONENTS, ids=map(name_in, COMPONENTS))
def test_examples_are_short(code):
    """Lines of code, without imports and blank lines; a tokenizer and a backbone need four methods."""
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert len(lines) <= LINES + (3 if ".register" in code and ("TOKENIZERS" in code or "BACKBONES" in code) else 0)


@each_component
def test_an_example_does_what_its_kind_promises(component):
    assert component.summary.endswith(".") and component.file.name == "components.py"
    if component.name != "my_skeleton":
        CHECKS[component.kind](component)


def check_dataset(component):
    data, val = (component.build(component.tiny, seed=3, split=split) for split in ("train", "val"))
    assert data.shape == (1, 4, 8, 8) and data.num_classes == 2
    for i in (4, 7, len(data) + 1):
        item = data[i]
        assert item["video"].shape == data.shape and item["video"].dtype == torch.uint8
        assert torch.equal(component.build(component.tiny, seed=3, split="train")[i]["video"], item["video"])
        step = 1 if item["label"] else -1
        assert torch.equal(item["video"][:, 1:], item["video"][:, :-1].roll(step, dims=-1))
        assert not torch.equal(val[i]["video"], item["video"])
    with pytest.raises(ValueError, match="split 'dev' is not known"):
        component.build(component.tiny, seed=3, split="dev")


def check_tokenizer(component):
    tokenizer, video = component.build(component.tiny), torch.rand(2, 3, 6, 5, 7)
    z = tokenizer.encode(video)
    assert z.shape == (2, *tokenizer.latent_shape((3, 6, 5, 7))) == (2, 6, 3, 5, 7)
    assert torch.equal(tokenizer.decode(z), video)
    with pytest.raises(ValueError, match="5 frames"):
        tokenizer.latent_shape((3, 5, 6, 7))


def check_conditioner(component):
    conditioner = component.build(component.tiny, width=6, num_classes=9)
    batch, drop = {"label": torch.tensor([2, 1, 3, 5])}, torch.tensor([False, False, False, True])
    vector = conditioner(batch, drop).vector
    assert vector.shape == (4, 6) and conditioner.spec == CondSpec(vector=6) and 0 <= conditioner.drop <= 1
    assert torch.allclose(vector[0] + vector[1] - vector[2], conditioner.linear.bias, atol=1e-6), "10 + 01 = 11"
    assert not torch.equal(vector[0], vector[1]) and (vector[3] == 0).all() and (vector[:3] != 0).all()


def check_backbone(component):
    net = component.build(component.tiny, grid=Grid(6, 3, 4, 5), out_channels=7, cond=CondSpec(vector=8))
    x, cond = torch.randn(2, 6, 3, 4, 5), Cond(vector=torch.randn(2, 8))
    y = net(x, torch.tensor([0.2, 0.7]), cond)
    assert y.shape == (2, 7, 3, 4, 5)
    assert torch.allclose(net(x, torch.tensor([[0.2] * 3, [0.7] * 3]), cond), y, atol=1e-6)
    assert not torch.allclose(net(x, torch.tensor([0.2, 0.9]), cond)[1], y[1])
    assert net.check(Grid(6, 9, 8, 7)) is None and len(net.blocks) == 2 and net.uses == {"vector"}


def check_attention(component):
    attention, exact = component.build(component.tiny), build("attention", "math")
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.rand(2, 1, 5, 7) > 0.4
    assert torch.allclose(attention(q, k, v), exact(q, k, v), atol=1e-5)
    assert torch.allclose(attention(q, k, v, mask), exact(q, k, v, mask), atol=1e-5)
    assert attention.refuses("cpu", torch.float32, 8, False) is None


def check_weighting(component):
    weighting, snr = component.build(component.tiny), build("weighting", {"name": "min_snr", "gamma": 4.0})
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    for path in ("linear", "vp"):
        path = build("path", path)
        ratio = path.logsnr(t).exp()
        assert torch.allclose(weighting.weight(path, t), 4 * ratio / (ratio + 4), rtol=1e-9)
        assert (weighting.weight(path, t) < snr.weight(path, t)).all()


def check_sampler(component):
    """The exact belief of unit Gaussian data: x0 = alpha x / n, noise = sigma x / n, with n = alpha^2 + sigma^2."""
    path, calls, errors = build("path", "linear"), [], []

    def estimate(x, t):
        calls.append(t)
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return Estimate(alpha * x / (alpha**2 + sigma**2), sigma * x / (alpha**2 + sigma**2))

    random = PriorRandom(build("noise", "gaussian"), Random(0, "sample", rows=range(4)))
    x = torch.randn(4, 3, dtype=torch.float64)
    for steps in (16, 32):
        sampler, before = component.build({**component.tiny, "steps": steps}), len(calls)
        out = sampler(estimate, x, sampler.spacing(steps, path, (0.0, 1.0)), path, random)
        assert len(calls) - before == sampler.evaluations == 2 * steps
        errors.append((out - x).abs().max().item())  # the flow of this ODE keeps the deviation: x at 0 is x at 1
    assert errors[0] / errors[1] > 3.5, "the doc calls it a method of order 2"


def check_guidance(component):
    guidance, x, calls = component.build(component.tiny), torch.randn(2, 3), []
    given = Given(Branch(Cond(vector=torch.ones(2, 1))), Branch(Cond(vector=torch.zeros(2, 1))))

    def evaluate(x, t, branches):
        calls.append(len(branches))
        return [Estimate(x + b.cond.vector, x - b.cond.vector) for b in branches]

    inside = guidance(evaluate, given)(x, torch.full((2,), 0.5))
    outside = guidance(evaluate, given)(x, torch.full((2,), 0.9))
    assert calls == [2, 1] and guidance.needs_uncond
    assert torch.allclose(inside.x0, x + 2) and torch.allclose(inside.noise, x - 2)
    assert torch.allclose(outside.x0, x + 1)


def check_callback(component):
    trainer = argparse.Namespace(diffuser=torch.nn.Linear(3, 4), record=lambda values: seen.update(values))
    seen = {}
    callback = component.build(component.tiny)
    callback(trainer)
    expected = sum(p.square().sum() for p in trainer.diffuser.parameters()).sqrt().item()
    assert callback.every == 2 and seen == {"my/weight_norm": pytest.approx(expected)}


CHECKS = {name.removeprefix("check_"): f for name, f in list(globals().items()) if name.startswith("check_")}


def test_all_examples_together_train(registry, tmp_path, capsys):
    """The configuration of the page: four steps, each component the page's own."""
    (tmp_path / "components.py").write_text("\n\n".join(COMPONENTS))
    (tmp_path / "mine.yaml").write_text(TOGETHER)
    assert train.main([str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    mixed = ["backbone={name: dit_joint, dim: 48, depth: 1, num_heads: 2}", "attention=my_chunked"]
    assert train.main([str(tmp_path / "mine.yaml"), *mixed, "--dry-run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "step 4/4" in out
    for name in map(name_in, COMPONENTS):
        if name not in ("my_skeleton", "my_soft_min_snr", "my_weight_norm"):
            assert f"{name} " in out
    assert "my/weight_norm" in (tmp_path / "run/metrics.jsonl").read_text()
    assert "my_soft_min_snr" in (tmp_path / "run/config.yaml").read_text()
    assert (tmp_path / "run/imports/components.py").is_file()


def test_a_projects_yaml_on_the_page_is_the_projects():
    yaml = (ROOT / "projects/example_idea/idea.yaml").read_text()
    shown = next(code for language, code in FENCE.findall(EXTENDING) if language == "yaml")
    assert shown == "".join(line + "\n" for line in yaml.splitlines() if not line.startswith("#"))


@pytest.mark.skipif(not README.is_file(), reason="no README.md here")
def test_the_component_of_the_readme_runs(registry, tmp_path, capsys):
    blocks = FENCE.findall(README.read_text())
    code = next(code for language, code in blocks if language == "python" and ".register(" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= LINES
    for base in (ROOT / "projects").glob("*.yaml"):
        shutil.copy(base, tmp_path)
    project = tmp_path / "mine"
    project.mkdir()
    (project / "components.py").write_text(code)
    (project / "idea.yaml").write_text(next(code for language, code in blocks if language == "yaml"))
    argv = [str(project / "idea.yaml"), "train.batch_size=2", "train.precision=fp32", "--dry-run", "--device", "cpu"]
    assert train.main(argv) == 0
    assert f"{name_in(code)} " in capsys.readouterr().out


# ---- links ----


def links(page):
    text = FENCE.sub("", page.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\b(?:src|href)="([^"]+)"', text)
    return [t for t in found if not re.match(r"[a-z]+:", t)]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name} links to {link}"
        assert there.is_relative_to(ROOT), f"{page.name} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_paths_in_code_spans_exist(page):
    """`zoo/backbones/dit_joint.py` and the like; planned files carry no code span."""
    text = FENCE.sub("", page.read_text())
    for path in re.findall(r"`((?:vidiff|zoo|tools|tests|projects|docs|benchmarks|requirements)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


# ---- commands ----


TRANSCRIPT = re.compile(r"^\$ python tools/(\w+)\.py (.+)\n((?:vidiff: .+\n)+)", re.MULTILINE)
"""A command and what it answers."""


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_errors_are_shown_as_they_are(page, monkeypatch, capsys, registry):
    monkeypatch.chdir(ROOT)
    for name, rest, shown in TRANSCRIPT.findall(page.read_text()):
        assert importlib.import_module(f"vidiff.commands.{name}").main(shlex.split(rest)) == 2
        assert capsys.readouterr().err == shown


def commands(page):
    """(tool, arguments) of every `python tools/NAME.py ...` and `vidiff NAME ...` outside of transcripts."""
    text = TRANSCRIPT.sub("", page.read_text()).replace("\\\n", " ")
    for name, rest in re.findall(r"(?:python3?\s+tools/|\bvidiff )(\w+)(?:\.py)?([^`\n|]*)", text):
        words = shlex.split(rest, comments=True)
        if "tools/" + name + ".py" in text or name in COMMANDS:
            yield name, words


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands_name_tools_flags_and_keys_that_exist(page, monkeypatch, registry):
    for name, words in commands(page):
        assert (ROOT / f"tools/{name}.py").is_file(), f"{page.name}: tools/{name}.py"
        if not words or any(w == "…" or w == "key=value" or w.isupper() or "/my_" in w for w in words):
            continue  # the tool itself, a synopsis, or a project of the reader's
        module = importlib.import_module(f"vidiff.commands.{name}")
        monkeypatch.setattr(module, "execute", lambda made, command, argv: made.parse_intermixed_args(argv))
        try:
            arguments = module.main(words)
        except SystemExit:
            pytest.fail(f"{page.name}: {name} does not take {' '.join(words)}")
        for file in (w for w in words if w.startswith("projects/") and w.endswith((".yaml", ".yml"))):
            assert (ROOT / file).is_file(), f"{page.name}: {file}"
        if str(getattr(arguments, "config", "")).startswith("projects/"):
            load(ROOT / arguments.config, getattr(arguments, "overrides", []))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_make_targets_and_pytest_paths_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
    for words in re.findall(r"python3? -m pytest([^`\n]*)", page.read_text()):
        for path in (w for w in shlex.split(words, comments=True) if "/" in w):
            assert (ROOT / path).exists(), f"{page.name}: pytest {path}"


# ---- promises ----

IDS = [f"{letter}-{i:02d}" for letter, last in (("S", 12), ("A", 70), ("B", 117)) for i in range(1, last + 1)]
PROMISES = ROOT / "docs/promises.md"
ROW = re.compile(r"^- \[([ x])\] ([SAB]-\d+) (.+)$", re.MULTILINE)


def test_every_promise_has_one_row():
    assert [promise for _, promise, _ in ROW.findall(PROMISES.read_text())] == IDS


def test_kept_promises_name_their_place_and_their_proof_and_open_ones_their_step():
    for done, promise, text in ROW.findall(PROMISES.read_text()):
        if done == " ":
            assert re.search(r"planned: (step [123]|later)", text), promise
            continue
        assert text.count(" — ") == 2, f"{promise}: promise — place — proof"
        proof = text.rpartition(" — ")[2]
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", proof)
        assert tests or re.search(r"`(python tools/|make |docs/|LICENSE|CITATION)|\.md[)#]", proof), promise
        for file, function in tests:
            assert (ROOT / file).is_file(), f"{promise}: {file}"
            if function:
                assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), (
                    f"{promise}: {function}"
                )


def test_the_counts_on_the_page_are_those_of_its_rows():
    text = PROMISES.read_text()
    rows = ROW.findall(text)
    for prefix in "SAB":
        mine = [done for done, promise, _ in rows if promise.startswith(prefix)]
        assert f"| {prefix} | {mine.count('x')} | {mine.count(' ')} | {len(mine)} |" in text


def test_our_words_for_their_flags_are_keys_that_exist(registry):
    table = PROMISES.read_text().rpartition("| A, B | here |")[2]
    words = [w for w in re.findall(r"`([^`]+)`", table.partition("\n\n")[0]) if "=" in w]
    assert len(words) > 20
    for word in words:
        load(ROOT / "projects/video_folder.yaml", word.split())


# ---- references ----

NO_PAPER = {"none", "auto", "matmul", "pixels", "gaussian", "video_folder", "samples", "validation", "uniform",
            "stand_in"}  # fmt: skip
"""Components that nobody had to publish."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_of_the_zoo_is_among_the_references(kind):
    text = (ROOT / "docs/references.md").read_text().partition("## Promised")[0]
    names = {c.name for c in KINDS[kind] if c.file.is_relative_to(ROOT / "zoo")} - NO_PAPER
    assert names <= set(re.findall(r"`(\w+)`", text))


# ---- the contract suites ----


def test_the_examples_keep_the_contracts(tmp_path):
    """Every suite of tests/contracts on every component of extending.md."""
    (tmp_path / "components.py").write_text("\n\n".join(c for c in COMPONENTS if name_in(c) != "my_skeleton"))
    (tmp_path / "examples.py").write_text(
        "from pathlib import Path\nimport zoo\nfrom vidiff.config.importing import import_components\n"
        f"import_components(Path({str(tmp_path / 'components.py')!r}))\n"
    )
    command = [sys.executable, "-m", "pytest", "tests/contracts", "-q", "-p", "examples", "-k", "my_"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
