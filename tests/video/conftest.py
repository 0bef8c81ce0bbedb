"""The clips of tests/video/clips.py, encoded when they are first asked for."""

import av
import pytest

from tests.barcode import make_clip
from tests.video.clips import CLIPS, FRAMES


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """name -> path of a bar-code clip; encoded when first asked for. Skips where the encoder is missing."""
    folder = tmp_path_factory.mktemp("clips")

    def clip(name):
        path = folder / name
        if not path.exists():
            try:
                make_clip(path, **{"frames": FRAMES, **CLIPS[name]})
            except av.codec.codec.UnknownCodecError:
                pytest.skip(f"this PyAV has no encoder {CLIPS[name]['codec']}")
        return path

    return clip
