"""The formats that data sets have on the disk, one file each."""
