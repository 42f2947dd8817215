"""Decide which videos run which segment next. Works on integers only: no arrays and no clock."""
