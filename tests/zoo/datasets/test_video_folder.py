"""Folders of videos: which files, which frames, which split; and what a bad file does."""

import os
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.utils.data import DataLoader

from tests.barcode import HEIGHT, WIDTH, make_clip, numbers
from vidiff.types import BadSample
from vidiff.video import printable, probe, read_frames
from zoo.datasets.video_folder import VideoFolder, dealt, extended, place, video_files

ALL = (1.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "long.mp4", frames=40, g="9", bf="2")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "short.mp4", frames=5)


def put(folder, clip, *names):
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(clip, path)
    return folder


def dataset(root, split="train", seed=2, **settings):
    return VideoFolder(
        str(root), **{"frames": 4, "size": (HEIGHT, WIDTH), "splits": ALL, **settings}, seed=seed, split=split
    )


def test_every_visit_cuts_another_clip(tmp_path, long):
    data = dataset(put(tmp_path, long, "a.mp4", "b.mp4"), frame_stride=3)
    assert data.shape == (3, 4, HEIGHT, WIDTH) and len(data) == 2 and data.num_classes == 0
    starts = set()
    for i in range(60):
        item = data[i]
        first, *rest = numbers(item["video"])
        assert rest == [first + 3, first + 6, first + 9]
        assert item["path"] == "ab"[i % 2] + ".mp4" and item["fps"] == pytest.approx(25 / 3)
        starts.add(first)
    assert len(starts) > 15 and starts <= set(range(31))
    assert data.clip(probe(long), 0.0, 4) == [0, 3, 6, 9] and data.clip(probe(long), 0.9999, 4) == [30, 33, 36, 39]


def test_other_splits_show_the_middle_at_every_visit(tmp_path, long):
    data = dataset(put(tmp_path, long, "a.mp4"), "val", splits=(0.0, 1.0, 0.0), horizontal_flip=1.0)
    assert numbers(data[0]["video"]) == numbers(data[7]["video"]) == [18, 19, 20, 21]


def test_the_middle_of_the_picture_in_the_size_asked_for(tmp_path, long):
    data = dataset(put(tmp_path, long, "a.mp4"), "val", splits=(0.0, 1.0, 0.0), size=(8, 12))
    assert data.shape == (3, 4, 8, 12)
    middle = read_frames(long, [18, 19, 20, 21])[..., 36:108].float()  # 48 rows of 2:3
    blocks = rearrange(middle, "c t (h a) (w b) -> c t h w (a b)", a=6, b=6).mean(-1)
    assert data[0]["video"].dtype == torch.uint8
    assert (data[0]["video"].float() - blocks)[:, :, 3:].abs().mean() < 4  # below the bars, which are sharp


def test_flips_happen_as_often_as_asked(tmp_path, long):
    plain, flipped = (dataset(put(tmp_path / str(p), long, "a.mp4"), horizontal_flip=p) for p in (0.0, 0.3))
    same = [torch.equal(plain[i]["video"], flipped[i]["video"]) for i in range(100)]
    assert all(s or torch.equal(plain[i]["video"].flip(-1), flipped[i]["video"]) for i, s in enumerate(same))
    assert 15 <= same.count(False) <= 45


def test_sampling_by_time(tmp_path):
    stamps = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 300, 480, 700, 900, 1100]
    put(tmp_path / "videos", make_clip(tmp_path / "vfr.mkv", frames=15, stamps_ms=stamps), "a.mkv")
    data = dataset(tmp_path / "videos", fps=10.0, frames=3, frame_stride=2)
    info, resampled = probe(tmp_path / "vfr.mkv"), []
    for start in (0.0, 0.3, 0.6, 0.999):
        clip = data.clip(info, start, 3)
        resampled += clip
        gaps = [info.times[b] - info.times[a] for a, b in pairwise(clip)]
        assert all(abs(gap - 0.2) <= 0.2 for gap in gaps)
    assert data.clip(info, 0.0, 3) == [0, 10, 11]  # 0, 0.2 and 0.4 s: the frame at 0.3 s is nearer than the one at 0.09
    assert data[0]["fps"] == 5.0 and max(resampled) <= 14


EXTENDED = {
    "loop": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1],
    "ping_pong": [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3],
    "hold": [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4],
}


@pytest.mark.parametrize("policy", EXTENDED)
def test_what_follows_the_last_frame(tmp_path, short, policy):
    data = dataset(put(tmp_path, short, "a.mp4"), frames=12, short_clip=policy)
    assert numbers(data[0]["video"]) == numbers(data[1]["video"]) == EXTENDED[policy]
    strided = dataset(tmp_path, frames=4, frame_stride=3, short_clip=policy)
    assert numbers(strided[0]["video"]) == EXTENDED[policy][::3]
    assert [extended(k, 1, policy) for k in range(4)] == [0, 0, 0, 0]
    assert [extended(k, 2, "ping_pong") for k in range(5)] == [0, 1, 0, 1, 0]


def test_a_short_file_is_refused_with_its_numbers(tmp_path, short, long):
    data = dataset(put(tmp_path, short, "a.mp4"), frames=3, frame_stride=3)
    with pytest.raises(BadSample, match=r"a\.mp4: 5 frames; 3 with frame_stride 3 need 7"):
        data[0]
    put(tmp_path / "fits", long, "a.mp4")
    assert numbers(dataset(tmp_path / "fits", frames=40)[0]["video"]) == list(range(40))


def test_files_are_found_in_the_order_of_their_bytes(tmp_path, short):
    names = [b"b.mp4", b"B.MKV", b"sub/a b.webm", b"sub/deep/it's.gif", b"\xff.mov", b"new\nline.avi", b"$(x) %s.mp4"]
    put(tmp_path, short, *names)
    put(tmp_path, short, "notes.txt", "._b.mp4", "mp4")
    assert video_files(tmp_path) == [os.fsdecode(name) for name in sorted(names)]
    data = dataset(tmp_path)
    assert sorted(data[i]["path"] for i in range(7)) == sorted(printable(os.fsdecode(name)) for name in names)
    assert all(numbers(data[i]["video"])[0] in (0, 1) for i in range(7))


def test_loops_of_links_are_not_followed(tmp_path, short):
    put(tmp_path, short, "a/b.mp4")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert video_files(tmp_path) == ["a/b.mp4"]


def test_splits_are_disjoint_and_stay_when_files_are_added():
    paths = [f"class {i % 7}/{i}.mp4" for i in range(2000)]
    shares = (0.7, 0.2, 0.1)
    parts = [dealt(paths, shares, split) for split in ("train", "val", "test")]
    assert sorted(chain(*parts)) == sorted(paths)
    assert all(len(p) / 2000 == pytest.approx(s, abs=0.03) for p, s in zip(parts, shares))
    assert set(dealt(paths[:900], shares, "val")) == set(parts[1]) & set(paths[:900])
    assert all(0 <= place(p) < 1 for p in paths)
    assert dealt(paths, (1.0, 0.0, 0.0), "train") == paths


def test_a_split_may_live_in_a_folder_of_its_own(tmp_path, short, long):
    put(tmp_path / "train", short, *[f"{i}.mp4" for i in range(30)])
    put(tmp_path / "val", long, "x.mp4", "y.mp4")
    made = {
        s: dataset(tmp_path / "train", s, splits=(0.5, 0.3, 0.2), val_root=str(tmp_path / "val"))
        for s in ("train", "val", "test")
    }
    assert made["val"].paths == ["x.mp4", "y.mp4"] and numbers(made["val"][0]["video"]) == [18, 19, 20, 21]
    assert sorted(made["train"].paths + made["test"].paths) == sorted(f"{i}.mp4" for i in range(30))


def test_folders_are_classes(tmp_path, short):
    put(tmp_path / "train", short, "walk/1.mp4", "walk/deep/2.mp4", "jump high/3.mp4", "run/4.mp4")
    put(tmp_path / "val", short, "run/5.mp4", "jump high/6.mp4")
    data = dataset(tmp_path / "train", labels="folder")
    assert data.num_classes == 3 and data.classes == ["jump high", "run", "walk"]
    assert {data[i]["path"]: (data[i]["label"], data[i]["text"]) for i in range(4)} == {
        "jump high/3.mp4": (0, "jump high"),
        "run/4.mp4": (1, "run"),
        "walk/1.mp4": (2, "walk"),
        "walk/deep/2.mp4": (2, "walk"),
    }
    val = dataset(tmp_path / "train", "val", labels="folder", val_root=str(tmp_path / "val"))
    assert val.num_classes == 3 and [val[i]["label"] for i in range(2)] == [0, 1]
    put(tmp_path / "val", short, "swim/7.mp4")
    with pytest.raises(ValueError, match="has the class 'swim'"):
        dataset(tmp_path / "train", "val", labels="folder", val_root=str(tmp_path / "val"))
    put(tmp_path / "train", short, "loose.mp4")
    with pytest.raises(ValueError, match=r"loose\.mp4 lies in no class folder"):
        dataset(tmp_path / "train", labels="folder")


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, short):
    put(tmp_path / "one", short, "a.mp4")
    (tmp_path / "empty").mkdir()
    for root, settings, split, text in [
        ("never", {}, "train", "never does not exist"),
        ("empty", {}, "train", "no video file below"),
        ("one/a.mp4", {}, "train", "does not exist"),
        ("one", {}, "val", "leave no val video out of 1.*val_root"),
        ("one", {"splits": (0.5, 0.1, 0.1)}, "train", "they add up to 0.7"),
        ("one", {}, "dev", "split 'dev' is not known"),
        ("one", {"reader": "opencv"}, "train", "reader 'opencv' is not known"),
    ]:
        with pytest.raises(ValueError, match=text) as caught:
            dataset(tmp_path / root, split, **settings)
        assert "\n" not in str(caught.value)


def test_bad_files_are_bad_samples_and_the_rest_goes_on(tmp_path, long):
    put(tmp_path, long, "good.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "folder.mp4").mkdir()  # a folder of that name is a folder
    os.mkfifo(tmp_path / "fifo.mp4")
    data, outcome = dataset(tmp_path), {}
    for i in range(len(data)):
        try:
            outcome[data[i]["path"]] = "read"
        except BadSample as error:
            outcome[Path(error.path).name] = error.reason
    assert outcome.pop("good.mp4") == "read" and outcome.pop("fifo.mp4") == "not a regular file"
    assert outcome.pop("empty.mp4") == "empty file" and "No such file" in outcome.pop("gone.mp4")
    assert set(outcome) == {"text.mp4"}


def test_limits_are_settings(tmp_path, long):
    put(tmp_path, long, "a.mp4")
    for settings, text in [({"max_pixels": 99}, "limit 99"), ({"max_frames": 7}, "more than 7 frames")]:
        with pytest.raises(BadSample, match=text):
            dataset(tmp_path, **settings)[0]


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_workers_read_what_the_main_process_reads(tmp_path, long, reader):
    if reader == "decord":
        pytest.importorskip("decord", reason="decord is not installed")
    data = dataset(put(tmp_path, long, "a.mp4", "b.mp4", "c.mp4"), reader=reader)
    alone = [data[i]["video"] for i in range(3)]  # a reader is at work before the workers are forked
    loader = DataLoader(data, batch_size=None, num_workers=2, timeout=60)
    assert all(torch.equal(a, b["video"]) for a, b in zip(alone, loader))
