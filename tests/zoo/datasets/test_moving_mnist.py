"""Moving MNIST: windows of the right sequences, foreign files refused, downloads checked."""

import hashlib
import io
import os
import pickle
import urllib.error

import numpy as np
import pytest
import torch

from vidiff.types import BadSample
from zoo.datasets import moving_mnist as module
from zoo.datasets.moving_mnist import MovingMNIST


def miniature(path, length=9, count=40, height=6, width=7):
    """A file of the canonical layout whose pixels say (time, sequence)."""
    array = np.zeros((length, count, height, width), np.uint8)
    array[...] = (np.arange(length)[:, None] + 10 * (np.arange(count)[None] % 25))[..., None, None]
    array[:, :, :, 0] = np.arange(count)[None, :, None]
    np.save(path, array)
    return path


@pytest.fixture
def path(tmp_path):
    return miniature(tmp_path / "mnist_test_seq.npy")


def dataset(path, split="train", seed=5, **settings):
    return MovingMNIST(str(path), **{"frames": 4, **settings}, seed=seed, split=split)


def sequence(item):
    return int(item["video"][0, 0, 0, 0])


def times(item):
    return (item["video"][0, :, 0, 3].int() - 10 * (sequence(item) % 25)).tolist()


def test_a_clip_is_a_window_of_one_sequence(path):
    data = dataset(path)
    assert data.shape == (1, 4, 6, 7) and data.num_classes == 0 and len(data) == 36
    starts = set()
    for i in range(200):
        item = data[i]
        assert sequence(item) == i % 36 and item["video"].dtype == torch.uint8
        start = times(item)[0]
        assert times(item) == list(range(start, start + 4))
        starts.add(start)
    assert starts == set(range(9 - 4 + 1))


def test_the_folder_of_the_file_will_do(path):
    assert torch.equal(dataset(path.parent)[3]["video"], dataset(path)[3]["video"])
    with pytest.raises(ValueError, match=r"nowhere/mnist_test_seq\.npy"):
        dataset("nowhere")


def test_splits_are_cut_by_sequence(path):
    splits = {s: dataset(path, s, splits=(0.8, 0.15, 0.05)) for s in ("train", "val", "test")}
    shown = {s: [sequence(d[i]) for i in range(len(d))] for s, d in splits.items()}
    assert shown == {"train": list(range(32)), "val": list(range(32, 38)), "test": [38, 39]}
    assert all(times(splits["val"][i]) == [0, 1, 2, 3] for i in range(20))


def test_the_whole_sequence_fits(path):
    assert times(dataset(path, frames=9)[3]) == list(range(9))
    with pytest.raises(ValueError, match=r"frames=10, but the sequences of .* have 9"):
        dataset(path, frames=10)


def test_flips_happen_as_often_as_asked_and_in_training_only(path):
    plain, flipped = (dataset(path, horizontal_flip=p) for p in (0.0, 0.25))
    same = [torch.equal(plain[i]["video"], flipped[i]["video"]) for i in range(400)]
    assert all(s or torch.equal(plain[i]["video"].flip(-1), flipped[i]["video"]) for i, s in enumerate(same))
    assert 60 < same.count(False) < 140
    assert sequence(dataset(path, "val", horizontal_flip=1.0)[1]) == 37


def test_shares_must_add_up_and_leave_something(path):
    with pytest.raises(ValueError, match=r"they add up to 1\.1"):
        dataset(path, splits=(0.9, 0.1, 0.1))
    with pytest.raises(ValueError, match="leave no test sequence out of 40"):
        dataset(path, "test", splits=(0.9, 0.1, 0.0))
    with pytest.raises(ValueError, match="split 'dev' is not known"):
        dataset(path, "dev")


def test_a_missing_file_names_itself_and_the_way_out(tmp_path):
    with pytest.raises(ValueError) as caught:
        dataset(tmp_path / "mnist_test_seq.npy")
    text = str(caught.value)
    assert str(tmp_path / "mnist_test_seq.npy") in text and "moving_digits" in text and "\n" not in text


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


HUGE = npy(np.zeros((1, 1, 1, 1), np.uint8)).replace(b"(1, 1, 1, 1), }", b"(20, 500000000, 32, 32), }")
FOREIGN = {
    "empty": b"",
    "text": b"hello " * 50,
    "floats": npy(np.zeros((3, 4, 5, 6), np.float32)),
    "three axes": npy(np.zeros((3, 4, 5), np.uint8)),
    "no frames": npy(np.zeros((0, 4, 5, 6), np.uint8)),
    "objects": npy(np.array([Bomb(), Bomb()], dtype=object)),
    "pickle": pickle.dumps(Bomb()),
    "ten terabytes": HUGE,
    "cut": npy(np.zeros((9, 4, 5, 6), np.uint8))[:-100],
    "nan": npy(np.full((3, 4, 5, 6), np.nan)),
    "big-endian": npy(np.zeros((3, 4, 5, 6), ">u2")),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(FOREIGN[name])
    with pytest.raises(ValueError) as caught:
        dataset(tmp_path / "a.npy")
    assert "a.npy" in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.npy"]  # nothing in the file was run


def test_archives_folders_and_pipes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    os.mkfifo(tmp_path / "b.npy")
    (tmp_path / "c.npy").mkdir()
    for name in "abc":
        with pytest.raises(ValueError, match=f"{name}.npy"):
            dataset(tmp_path / f"{name}.npy")


def test_fortran_order_reads_the_same(tmp_path, path):
    np.save(tmp_path / "f.npy", np.asfortranarray(np.load(path)))
    assert torch.equal(dataset(tmp_path / "f.npy")[17]["video"], dataset(path)[17]["video"])


def test_a_file_that_vanishes_is_a_bad_sample(path):
    data = dataset(path)
    path.unlink()
    with pytest.raises(BadSample, match=r"mnist_test_seq\.npy"):
        data[0]


def test_workers_get_the_name_and_not_the_pixels(path):
    data = dataset(path)
    assert len(pickle.dumps(data)) < 2000
    assert torch.equal(pickle.loads(pickle.dumps(data))[3]["video"], data[3]["video"])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """What the address sends, and how often it was asked."""
    asked = []

    def serve(content, published=None):
        def urlopen(url, timeout):
            asked.append(url)
            if isinstance(content, Exception):
                raise content
            return io.BytesIO(content)

        monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
        digest = hashlib.md5(content).hexdigest() if isinstance(content, bytes) else ""
        monkeypatch.setattr(module, "MD5", published or digest)
        return asked

    return serve


def test_a_download_is_checked_and_asked_for_once(tmp_path, server):
    content = miniature(tmp_path / "other.npy").read_bytes()
    asked, path = server(content), tmp_path / "data" / "mnist.npy"
    right = hashlib.sha256(content).hexdigest()
    assert len(dataset(path, download=True, sha256=right)) == len(dataset(path, download=True)) == 36
    assert len(asked) == 1 and asked[0].startswith("https://") and os.listdir(path.parent) == ["mnist.npy"]


def test_nothing_is_asked_of_the_network_by_default(tmp_path, server):
    asked = server(b"")
    with pytest.raises(ValueError):
        dataset(tmp_path / "mnist.npy")
    assert asked == []


def test_a_download_that_fails_leaves_nothing(tmp_path, server):
    content, path = miniature(tmp_path / "other.npy").read_bytes(), tmp_path / "data" / "mnist.npy"
    server(content, published="0" * 32)
    with pytest.raises(ValueError, match=r"has MD5 .* published was 0000"):
        dataset(path, download=True)
    server(content)
    with pytest.raises(ValueError, match="sha256=abc was expected"):
        dataset(path, download=True, sha256="abc")
    server(urllib.error.URLError("no route to host"))
    with pytest.raises(ValueError, match=r"could not be had .*no route to host.*moving_digits"):
        dataset(path, download=True)
    assert os.listdir(path.parent) == []
