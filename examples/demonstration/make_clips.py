"""Write synthetic action clips and their list: ``make_clips.py FOLDER COUNT SEED``."""

import sys
from pathlib import Path

from dynvid.training.clips import write_clips

if __name__ == "__main__":
    folder, count, seed = sys.argv[1:]
    print(write_clips(Path(folder), int(count), int(seed)))
