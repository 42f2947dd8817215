"""The advice for a file that cannot be written fits the cause."""

import errno
import os

import pytest

from dynvid.grid.errors import ResourceError
from dynvid.grid.storage.files import remedy_for, whole_file


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "free some space, or give another -o"),
        (errno.EDQUOT, "free some space, or give another -o"),
        (errno.EACCES, "allow this user to write there, or give another -o"),
        (errno.EROFS, "allow this user to write there, or give another -o"),
        (errno.EMFILE, "allow more open files (ulimit -n), or use fewer streams and decoders"),
        (errno.EAGAIN, "allow more processes (ulimit -u), or use fewer streams, decoders and threads"),
        (errno.ENAMETOOLONG, "give a shorter name"),
        (errno.ENOLCK, "its file system has no locks, which keep two processes from writing one file; give another -o"),
        (errno.EIO, "give another -o"),
        (None, "give another -o"),
    ],
)
def test_advice_fits_the_cause(code, said):
    assert remedy_for(OSError(code, "?") if code else OSError("?"), "give another -o") == said


def test_a_name_that_is_too_long_is_not_a_full_disk(tmp_path):
    said = os.strerror(errno.ENAMETOOLONG) + r"\): give a shorter name$"
    with pytest.raises(ResourceError, match=said), whole_file(tmp_path / ("x" * 300), "plot", "give another --plot"):
        pass
