"""From file to frames: the LIST, the packet index, decoding in a child process, and prefetching."""
