"""Which videos run which segment next. Integers only: no arrays, no clock."""
