"""Checkpoints: nothing is trusted without its checksum, nothing is lost to a damaged newest one."""

import hashlib
import json
import os
import resource
import shutil

import pytest
import torch

from vidiff.engine.checkpoint import Checkpoints, Snapshot, fill, load, problem_of
from vidiff.errors import Refused, Stopped


def snapshot(value, size=100):
    return Snapshot({"model": {"w": torch.full((size,), float(value))}, "ema": {"w": torch.zeros(3)}}, {"seed": value})


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2):
        made.save(step, snapshot(step))
    return made


def test_round_trip_in_bits(checkpoints):
    read = load(checkpoints.path(2))
    assert torch.equal(read.tensors["model"]["w"], torch.full((100,), 2.0))
    assert read.state == {"step": 2, "seed": 2}
    assert (checkpoints.folder / "last").read_text() == "step_00000002\n"


DAMAGE = {
    "truncate": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "zero": lambda b: bytes(len(b)),
    "bit flip": lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:],
    "garbage": lambda b: os.urandom(len(b)),
    "delete": None,
}


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(checkpoints, file, damage):
    target = checkpoints.path(2) / file
    if DAMAGE[damage] is None:
        target.unlink()
    else:
        changed = DAMAGE[damage](target.read_bytes())
        if file == "manifest.json" and damage == "bit flip":
            changed = target.read_bytes().replace(b'"sha256": "', b'"sha256": "f', 1)
        target.write_bytes(changed)
    path, lines = checkpoints.newest_valid()
    assert path == checkpoints.path(1)
    assert len(lines) == 1 and "step_00000002 is damaged" in lines[0]
    with pytest.raises(Refused):
        load(checkpoints.path(2))


def test_a_newest_checkpoint_that_is_gone_is_named(checkpoints):
    shutil.rmtree(checkpoints.path(2))
    path, lines = checkpoints.newest_valid()
    assert path == checkpoints.path(1) and lines == [f"{checkpoints.path(2)} is gone"]
    checkpoints.forget_after(1)
    assert checkpoints.newest_valid() == (checkpoints.path(1), [])


def test_all_damaged_is_refused_and_listed(checkpoints):
    for step in (1, 2):
        (checkpoints.path(step) / "state.json").write_text("{}")
    with pytest.raises(Refused, match="step_00000002 is damaged.*step_00000001 is damaged"):
        checkpoints.newest_valid()


def test_retention_keeps_the_last_and_the_permanent(tmp_path):
    made = Checkpoints(tmp_path / "c", keep=2, keep_every=4)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/step_00000000").mkdir()
    (tmp_path / "c/step_00000000/mine.txt").write_text("not ours: no manifest")
    for step in range(1, 8):
        made.save(step, snapshot(step))
        assert any(problem_of(made.path(s)) is None for s in made.steps())
    assert made.steps() == [0, 4, 6, 7]


def test_a_partial_folder_of_a_killed_save_is_swept(checkpoints):
    (checkpoints.folder / ".step_00000003.99").mkdir()
    checkpoints.save(3, snapshot(3))
    assert not list(checkpoints.folder.glob(".step_*"))


@pytest.mark.parametrize("limit", [0, 100, 700, 2000, 9000])
def test_a_full_disk_stops_with_one_line_and_leaves_no_stump(checkpoints, limit):
    pid = os.fork()
    if pid == 0:  # a child, because the limit cannot be lifted again
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            checkpoints.save(3, snapshot(3, 10_000))
        except Stopped as error:
            os._exit(0 if "cannot be written" in str(error) and "\n" not in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not list(checkpoints.folder.glob(".step_*"))
    assert checkpoints.newest_valid()[0] == checkpoints.path(2)


def test_foreign_files_are_refused(tmp_path):
    for name, raw in {"text": b"hello", "pickle": b"\x80\x04K\x01.", "huge header": b"\xff" * 64}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(raw)
        with pytest.raises(Refused):
            load(folder)
        entry = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        (folder / "state.json").write_text("{}")
        state = (folder / "state.json").read_bytes()
        files = {
            "model.safetensors": entry,
            "state.json": {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()},
        }
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
        with pytest.raises(Refused, match="not a readable safetensors"):
            load(folder)


def test_a_state_that_tells_no_step_and_a_run_in_a_checkpoints_place_are_refused(checkpoints):
    folder = checkpoints.path(2)
    for raw in (b"[]", b"{}", b'{"step": "2"}', b"3"):
        (folder / "state.json").write_bytes(raw)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["state.json"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(Refused, match="state.json is none of ours"):
            load(folder)
    with pytest.raises(Refused, match="is a run: name one of its checkpoints, such as .*step_00000002"):
        load(checkpoints.folder.parent)


def test_another_models_weights_name_the_first_differences():
    module = torch.nn.Linear(3, 5)
    with pytest.raises(Refused, match=r"weight is \(4, 3\), expected \(5, 3\)"):
        fill(module, {"weight": torch.zeros(4, 3), "bias": torch.zeros(5)}, "x")
    with pytest.raises(Refused, match="missing bias; unknown gain"):
        fill(module, {"weight": torch.zeros(5, 3), "gain": torch.zeros(5)}, "x")
