"""The house rules: who imports whom, what is imported when, where a name lives."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.registry import KINDS

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("vidiff", "zoo", "tools", "projects", "tests")
HEAVY = {
    "timm", "torchvision", "xformers", "decord", "av", "PIL", "tensorboard", "fvcore", "transformers", "diffusers",
    "sklearn", "matplotlib", "scipy", "torchdiffeq", "pandas",
}  # fmt: skip
FOLDERS = {
    "tokenizer": "tokenizers", "backbone": "backbones", "conditioner": "conditioners", "attention": "attention",
    "positions": "positions", "objective": "objectives", "path": "objectives/paths", "times": "objectives/times",
    "prediction": "objectives/predictions", "weighting": "objectives/weightings", "noise": "objectives/noises",
    "sampler": "samplers", "spacing": "samplers/spacings", "guidance": "guidance", "cache": "caches", "dataset": "datasets",
    "task": "tasks", "encoder": "encoders", "metric": "metrics", "callback": "callbacks",
}  # fmt: skip


def sources(*folders):
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def imports(file, top_level_only=False):
    """(module, inside a function) of every import."""
    tree = ast.parse(file.read_text())
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else []
            if node.module in HOUSE:
                names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            yield name, id(node) in inside


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("file", sources("vidiff"), ids=name_of)
def test_vidiff_never_imports_zoo(file):
    assert not [m for m, _ in imports(file) if m.partition(".")[0] in ("zoo", "tools", "projects", "tests")]


ALLOWED_IN_ZOO = ("vidiff.registry", "vidiff.types", "vidiff.diffusion", "vidiff.random", "vidiff.video",
                  "vidiff.precision", "vidiff.lazy", "vidiff.gate", "vidiff.blocks", "vidiff.caching",
                  "zoo.layers")  # fmt: skip


@pytest.mark.parametrize("file", sources("zoo"), ids=name_of)
def test_a_kind_never_imports_another_kind_nor_the_engine(file):
    kind = file.relative_to(ROOT).parts[1]
    own = (f"zoo.{kind}",) if kind != "__init__.py" else ("zoo",)
    for module, _ in imports(file):
        if module.partition(".")[0] in ("vidiff", "zoo"):
            assert module.startswith(ALLOWED_IN_ZOO + own), f"{name_of(file)} imports {module}"


LAYERS = {  # module prefix -> what of the house it may import
    "vidiff.registry": (),
    "vidiff.types": (),
    "vidiff.errors": (),
    "vidiff.random": (),
    "vidiff.precision": (),
    "vidiff.gate": ("vidiff.types", "vidiff.errors"),
    "vidiff.diffusion": ("vidiff.diffusion", "vidiff.random", "vidiff.types", "vidiff.precision", "vidiff.registry"),
    "vidiff.video": ("vidiff.types", "vidiff.video", "vidiff.errors"),
    "vidiff.config": ("vidiff.config", "vidiff.registry", "vidiff.types", "vidiff.errors"),
    "vidiff.diffuser": (
        "vidiff.diffusion",
        "vidiff.random",
        "vidiff.types",
        "vidiff.video",
        "vidiff.blocks",
        "vidiff.caching",
        "vidiff.guided",
    ),
    "vidiff.guided": ("vidiff.diffusion", "vidiff.types", "vidiff.blocks", "vidiff.caching"),
    "vidiff.caching": ("vidiff.blocks",),
    "vidiff.blocks": (),
}


@pytest.mark.parametrize("prefix", LAYERS)
def test_layers(prefix):
    for file in sources("vidiff"):
        if name_of(file) == prefix or name_of(file).startswith(prefix + "."):
            for module, _ in imports(file):
                if module.startswith("vidiff."):
                    assert module.startswith(LAYERS[prefix]), f"{name_of(file)} imports {module}"


def test_only_the_engine_and_commands_stand_on_the_engine():
    for file in sources("vidiff"):
        if name_of(file).startswith(("vidiff.engine", "vidiff.commands")):
            continue
        assert not [m for m, _ in imports(file) if m.startswith(("vidiff.engine", "vidiff.commands"))], name_of(file)


@pytest.mark.parametrize("file", sources("vidiff", "zoo"), ids=name_of)
def test_heavy_packages_inside_functions_and_own_modules_outside(file):
    for module, inside in imports(file):
        top = module.partition(".")[0]
        if top in HEAVY or module.startswith("torch.utils.tensorboard"):
            assert inside, f"{name_of(file)} imports {module} at module level"
        if top in ("vidiff", "zoo") and inside:
            # a function-level import of the house's own modules hides a cycle
            assert module in ("vidiff.lazy",), f"{name_of(file)} imports {module} inside a function"


def test_importing_the_house_imports_nothing_heavy():
    code = (
        "import sys, vidiff, zoo, vidiff.engine.train, vidiff.commands.train;"
        f"print(sorted({{m.partition('.')[0] for m in sys.modules}} & {HEAVY | {'sympy'}!r}))"  # sympy: torch's compiler
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_drawer_for_odds_and_ends():
    bad = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [name_of(f) for f in sources(*HOUSE) if f.stem in bad]


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_lives_in_the_file_of_its_name(kind):
    for component in KINDS[kind]:
        if component.file.is_relative_to(ROOT / "zoo"):
            assert component.file == ROOT / "zoo" / FOLDERS[kind] / f"{component.name}.py"


def test_every_zoo_file_is_imported():
    known = set(sys.modules)
    assert not [name_of(f) for f in sources("zoo") if name_of(f) not in known and "converters" not in name_of(f)]


def test_every_component_says_what_it_is_and_its_file_names_a_source():
    for registry in KINDS.values():
        for component in registry:
            assert component.summary.endswith("."), f"{component.kind} {component.name}: no sentence"


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_NAMES = ("pickle", "shelve", "marshal")
FORBIDDEN_ATTRIBUTES = {("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"), ("hub", "load")}


@pytest.mark.parametrize("file", sources("vidiff", "zoo", "tools"), ids=name_of)
def test_nothing_that_runs_foreign_code(file):
    assert not [m for m, _ in imports(file) if m.partition(".")[0] in FORBIDDEN_NAMES]
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"{name_of(file)}:{node.lineno}"
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            assert (node.func.value.id, node.func.attr) not in FORBIDDEN_ATTRIBUTES, f"{name_of(file)}:{node.lineno}"
            if (node.func.value.id, node.func.attr) in {("torch", "load"), ("numpy", "load"), ("np", "load")}:
                keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert keywords.get("weights_only") is True or keywords.get("allow_pickle") is False
        assert not any(k.arg == "shell" and getattr(k.value, "value", None) for k in node.keywords)


def test_tools_bear_no_name_of_a_library():
    names = {f.stem for f in (ROOT / "tools").glob("*.py")}
    assert not names & (set(sys.stdlib_module_names) | HEAVY | {"torch", "numpy", "einops", "yaml"})


def test_tools_hold_nothing_to_import():
    for file in (ROOT / "tools").glob("*.py"):
        tree = ast.parse(file.read_text())
        assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
